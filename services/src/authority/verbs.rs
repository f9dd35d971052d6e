//! What administrators type.

mod policy;

use std::path::Path;

use serde::Serialize;
use vmcryptfs::cli;
use vmcryptfs::crypto::random;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::key::ProviderName;
use vmcryptfs::provider::Providers;

use super::admin::{self, Answer, Asked, Status};
use super::enrolment::Admission;
use super::entry::What;
use super::hosts::HostRecord;
use super::keys_of_host::KeyGiven;
use super::log::Log;
use super::options::{HostVerb, InitArgs, JsonArgs, LogVerb, OneHost, TokenArgs, Verb};
use super::own::{self, Own, Settings, pin_text};
use super::release::TopKey;

pub(super) fn run(verb: Verb, config: &Path) -> Result<()> {
    match verb {
        Verb::Init(args) => {
            let made = init(&args, config);
            Event::of(EventName::Authority).reason("was made").outcome(&made);
            made
        }
        Verb::Start => super::run(config),
        Verb::Status(output) => {
            let Answer::Status(status) = admin::ask(config, &Asked::Status)? else { return Err(unexpected()) };
            print(&output, &status, &status_text(&status))
        }
        Verb::Host(HostVerb::List(output)) => {
            let Answer::Hosts { hosts } = admin::ask(config, &Asked::Hosts)? else { return Err(unexpected()) };
            print(&output, &hosts, &hosts_text(&hosts))
        }
        Verb::Host(HostVerb::Approve(args)) => one(config, &args.output, &Asked::Approve { host: args.host }),
        Verb::Host(HostVerb::Remove(args)) => remove(args, config),
        Verb::Host(HostVerb::Keys(args)) => {
            let keys = keys(config, &args.host)?;
            print(&args.output, &keys, &keys_text(&keys))
        }
        Verb::Host(HostVerb::Token(args)) => {
            let admission = Admission { approves: args.approve, host: args.host, replaces: None };
            token(&args.output, config, &Asked::Token { admission, life: args.life })
        }
        Verb::Host(HostVerb::Replace(args)) => {
            let TokenArgs { host, approve: approves, life, output } = args;
            token(&output, config, &Asked::Replace { host, approves, life })
        }
        Verb::Policy(verb) => policy::run(verb, config),
        Verb::Log(LogVerb::Verify(output)) => verify(&output, config),
    }
}

#[derive(Serialize)]
struct Made {
    authority: uuid::Uuid,
    pin: String,
}

fn init(args: &InitArgs, config: &Path) -> Result<()> {
    for url in &args.urls {
        let host = url.strip_prefix("https://").filter(|host| !host.is_empty() && !host.contains(['/', ' ']));
        host.ok_or_else(|| Error::new(Kind::Invalid, format!("{url:?}, expected https://NAME:PORT")))?;
    }
    let name = ProviderName::new(args.provider.clone())?;
    let provider = Providers::load(config)?.provider(&name)?;
    TopKey::new(name, provider).try_out()?;
    let settings = Settings {
        uuid: random::uuid()?,
        provider: args.provider.clone(),
        listen: args.listen,
        urls: args.urls.clone(),
        admin_user: args.admin_user,
    };
    let own = Own::create(&own::folder(config), &settings, |own| {
        let log = Log::open(&own.path("log"), settings.uuid, &own.log_key)?;
        let begun = What::Begun { authority: settings.uuid, provider: settings.provider.clone() };
        log.append(&[begun.now()?]).map(drop)
    })?;
    let made = Made { authority: settings.uuid, pin: pin_text(&own.pin()) };
    let text = format!("authority {}\npin       {}\n", made.authority, made.pin);
    print(&args.output, &made, &text)
}

fn one(config: &Path, output: &JsonArgs, asked: &Asked) -> Result<()> {
    let Answer::Host { host } = admin::ask(config, asked)? else { return Err(unexpected()) };
    print(output, &host, &format!("host {} is {}\n", host.name, host.state.word()))
}

#[derive(Serialize)]
struct Removed {
    #[serde(flatten)]
    host: HostRecord,
    keys: Vec<KeyGiven>,
}

fn remove(args: OneHost, config: &Path) -> Result<()> {
    let Answer::Host { host } = admin::ask(config, &Asked::Remove { host: args.host })? else {
        return Err(unexpected());
    };
    let keys = keys(config, &host.uuid.to_string());
    let keys = keys.context(|| format!("host {} is removed, but which keys it got cannot be said", host.name))?;
    let mut text = format!("host {} is removed\n", host.name);
    if !keys.is_empty() {
        text.push_str("It knows these keys. Rekey the VMs that they are for:\n");
        text.push_str(&keys_text(&keys));
    }
    print(&args.output, &Removed { host: *host, keys }, &text)
}

fn keys(config: &Path, host: &str) -> Result<Vec<KeyGiven>> {
    let Answer::Keys { keys } = admin::ask(config, &Asked::Keys { host: host.to_owned() })? else {
        return Err(unexpected());
    };
    Ok(keys)
}

fn keys_text(keys: &[KeyGiven]) -> String {
    let mut text = format!("{:36}  {:24}  {:24}  {:>5}  KEY\n", "VM", "FIRST", "LAST", "TIMES");
    for KeyGiven { key, vm, first, last, times } in keys {
        let vm = vm.map_or_else(|| "unknown".to_owned(), |vm| vm.to_string());
        text.push_str(&format!("{vm:36}  {first:24}  {last:24}  {times:>5}  {key}\n"));
    }
    text
}

fn token(output: &JsonArgs, config: &Path, asked: &Asked) -> Result<()> {
    let Answer::Token { token } = admin::ask(config, asked)? else { return Err(unexpected()) };
    print(output, &token, &format!("{}\n", *token.to_text()?))
}

#[derive(Serialize)]
struct Verified {
    entries: usize,
    root: String,
}

/// Opening it verifies it: each line, and that what was signed is there.
fn verify(output: &JsonArgs, config: &Path) -> Result<()> {
    let own = Own::open(&own::folder(config))?;
    let log = Log::open(&own.path("log"), own.settings.uuid, &own.log_key)?;
    let text = log.checkpoint(&own.log_key)?;
    let root = text.lines().nth(2).unwrap_or_default().to_owned();
    let verified = Verified { entries: log.len(), root };
    print(
        output,
        &verified,
        &format!("{}, root {}\n", vmcryptfs::text::count(verified.entries, "entry", "entries"), verified.root),
    )
}

fn unexpected() -> Error {
    Error::new(Kind::Unsupported, "the authority answered something else than it was asked: is it of another version?")
}

fn status_text(status: &Status) -> String {
    let Status { authority, version, listen, pin, provider, pending, approved, removed, log_entries, lacks } = status;
    let mut text = format!(
        "authority {authority}\nversion   {version}\nlistens   {listen}\npin       {pin}\nprovider  {provider}\n\
         hosts     {approved} approved, {pending} pending, {removed} removed\nlog       {log_entries} entries\n"
    );
    for lack in lacks {
        text.push_str(&format!("TO DO     {lack}\n"));
    }
    text
}

fn hosts_text(hosts: &[HostRecord]) -> String {
    let width = hosts.iter().map(|host| host.name.len()).max().unwrap_or_default().max(4);
    let mut text = format!("{:width$}  {:8}  {:36}  ENDORSEMENT KEY\n", "NAME", "STATE", "UUID");
    for host in hosts {
        let HostRecord { name, uuid, state, ek, .. } = host;
        text.push_str(&format!("{name:width$}  {:8}  {uuid}  {ek}\n", state.word()));
    }
    text
}

fn print(output: &JsonArgs, value: &impl Serialize, text: &str) -> Result<()> {
    cli::result(output.json, value, text)
}
