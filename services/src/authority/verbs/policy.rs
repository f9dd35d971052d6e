//! `vmcryptfs-authority policy`.

use std::fs;
use std::path::Path;

use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::text::Show;
use vmcryptfs_attest::policy::MAX_POLICY_BYTES;

use super::{print, unexpected};
use crate::authority::admin::policy::{HostExplained, PolicyAsked, PolicyStatus, SetSource, Tried};
use crate::authority::admin::{self, Answer, Asked};
use crate::authority::options::{ApproveArgs, JsonArgs, PolicyVerb, ProposeArgs};
use crate::authority::proposals::{Proposal, Source};

pub(super) fn run(verb: PolicyVerb, config: &Path) -> Result<()> {
    match verb {
        PolicyVerb::List(output) => policy(&output, config, PolicyAsked::List),
        PolicyVerb::Show(args) => {
            let Answer::Text { text } = ask(config, PolicyAsked::Show { proposal: args.proposal })? else {
                return Err(unexpected());
            };
            print(&args.output, &text, &text)
        }
        PolicyVerb::Approve(args) => approve(args, config),
        PolicyVerb::Test(args) => test(args, config),
        PolicyVerb::Propose(args) => propose(args, config),
        PolicyVerb::Reject(args) => {
            proposal(&args.output, config, PolicyAsked::Reject { proposal: args.proposal }, "was rejected")
        }
        PolicyVerb::Explain(args) => {
            let Answer::Explained(explained) = ask(config, PolicyAsked::Explain { host: args.host })? else {
                return Err(unexpected());
            };
            print(&args.output, &explained, &explained_text(&explained))
        }
    }
}

fn ask(config: &Path, what: PolicyAsked) -> Result<Answer> {
    admin::ask(config, &Asked::Policy { what })
}

/// What a verb was given.
enum Given {
    Policy(String),
    Set(SetSource),
}

/// A file is a policy, whatever hosts there are; `--pcr` says that it is a host.
fn given(args: &ApproveArgs) -> Result<Given> {
    match (&args.proposal, &args.what) {
        (Some(proposal), _) => Ok(Given::Set(SetSource::Proposal { proposal: proposal.clone() })),
        (None, Some(file)) if args.pcrs.is_none() && is_file(file) => {
            if args.name.is_some() || args.level.is_some() {
                let found = format!("{file} is a whole policy: --name and --level are for a set that is added to it");
                return Err(Error::new(Kind::Invalid, found));
            }
            file_text(file).map(Given::Policy)
        }
        (None, what) => {
            let host = what.clone().unwrap_or_default();
            let (registers, measured) = (args.pcrs.clone(), args.measured.clone());
            Ok(Given::Set(SetSource::Host { host, registers, measured }))
        }
    }
}

/// Names of hosts are not paths.
fn is_file(what: &str) -> bool {
    what.contains('/') || Path::new(what).exists() || Path::new(what).extension().is_some_and(|kind| kind == "toml")
}

fn file_text(file: &str) -> Result<String> {
    let path = Path::new(file);
    let len = fs::metadata(path).context(|| format!("looking at {}", path.shown()))?.len();
    if len > MAX_POLICY_BYTES as u64 {
        let found = format!("{} has {len} bytes, expected at most {MAX_POLICY_BYTES}", path.shown());
        return Err(Error::new(Kind::Invalid, found));
    }
    fs::read_to_string(path).context(|| format!("reading {}", path.shown()))
}

fn approve(args: ApproveArgs, config: &Path) -> Result<()> {
    let asked = match given(&args)? {
        Given::Policy(text) => PolicyAsked::Approve { text },
        Given::Set(set) => PolicyAsked::ApproveSet { set, name: args.name, level: args.level },
    };
    policy(&args.output, config, asked)
}

fn test(args: ApproveArgs, config: &Path) -> Result<()> {
    let asked = match given(&args)? {
        Given::Policy(text) => PolicyAsked::Test { text },
        Given::Set(set) => PolicyAsked::TestSet { set, level: args.level },
    };
    let Answer::Tried(tried) = ask(config, asked)? else { return Err(unexpected()) };
    print(&args.output, &tried, &tried_text(&tried))
}

fn propose(args: ProposeArgs, config: &Path) -> Result<()> {
    let ProposeArgs { what, class, pcrs: registers, name, output } = args;
    let set = match class {
        Some(class) => SetSource::Text { text: file_text(&what)?, class },
        None => SetSource::Host { host: what, registers, measured: None },
    };
    proposal(&output, config, PolicyAsked::Propose { set, name }, "waits for approval")
}

fn proposal(output: &JsonArgs, config: &Path, asked: PolicyAsked, what: &str) -> Result<()> {
    let Answer::Proposal(proposal) = ask(config, asked)? else { return Err(unexpected()) };
    print(output, &proposal, &format!("proposal {} for class {} {what}\n", proposal.id, proposal.class))
}

fn policy(output: &JsonArgs, config: &Path, asked: PolicyAsked) -> Result<()> {
    let Answer::Policy(status) = ask(config, asked)? else { return Err(unexpected()) };
    print(output, &status, &policy_text(&status))
}

fn numbers(registers: &[u8]) -> String {
    registers.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
}

fn policy_text(status: &PolicyStatus) -> String {
    let mut text = format!("policy {}, SHA-256 {}\n", status.name, status.sha256);
    for class in &status.classes {
        let sets = class.sets.iter().map(|set| format!(" {set}")).collect::<Vec<_>>().join(",");
        text.push_str(&format!("class {}: {}{sets}", class.name, class.level));
        if !class.learn.is_empty() {
            text.push_str(&format!("; learns PCR {}", numbers(&class.learn)));
        }
        text.push('\n');
    }
    for set in &status.sets {
        let hosts = vmcryptfs::text::count(set.hosts.len(), "host", "hosts");
        let registers = numbers(&set.registers);
        text.push_str(&format!("set {}: approved {}, PCR {registers}, {hosts}\n", set.name, set.approved));
    }
    for proposal in &status.proposals {
        text.push_str(&format!("PROPOSAL {}\n", proposal_text(proposal)));
    }
    text
}

fn proposal_text(proposal: &Proposal) -> String {
    let Proposal { id, class, source, since, hosts, more_hosts, .. } = proposal;
    let source = match source {
        Source::Host => "sent by a host",
        Source::Learned => "learned",
        Source::Administrator => "made by an administrator",
    };
    let mut text = format!("{id}: for class {class}, {source}, since {since}");
    if !hosts.is_empty() {
        text.push_str(&format!(", of {}", hosts.join(", ")));
    }
    if *more_hosts > 0 {
        text.push_str(" and others");
    }
    text
}

fn tried_text(tried: &Tried) -> String {
    let mut text = String::new();
    for explained in &tried.refused {
        text.push_str(&format!("REFUSED  {}: {}\n", explained.host, explained.reason));
    }
    for host in &tried.unknown {
        text.push_str(&format!("UNKNOWN  {host}: has not attested yet\n"));
    }
    for (host, sets) in &tried.passed {
        text.push_str(&format!("PASSES   {host}: {}\n", sets.join(", ")));
    }
    text
}

fn explained_text(explained: &HostExplained) -> String {
    let mut text = format!("host {} is {}\n", explained.host, explained.state.word());
    match &explained.note.attested {
        Some(accepted) => {
            let sets = if accepted.sets.is_empty() { "no set".to_owned() } else { accepted.sets.join(", ") };
            let (since, level, policy) = (&accepted.since, &accepted.level, &accepted.policy);
            text.push_str(&format!("attested since {since}: {level}, {sets}, policy {policy}\n"));
        }
        None => text.push_str("has never attested\n"),
    }
    if let Some(refused) = &explained.note.refused {
        text.push_str(&format!("REFUSED since {}: {}\n", refused.since, refused.reason));
    }
    text
}
