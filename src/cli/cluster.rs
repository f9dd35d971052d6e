//! `vmcryptfs cluster`: hosts that share providers.

mod admins;
mod removal;
mod rotation;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::cli::progress::perform;
use crate::cli::provider::passphrase::{PassphraseSource, Purpose};
use crate::cli::provider::provider_name;
use crate::cli::{out, table, token};
use crate::cluster::board::MemberHealth;
use crate::cluster::join::{NewCluster, TOKEN_LIFE};
use crate::cluster::status::{ClusterStatus, HostStatus};
use crate::cluster::{Exchanged, PushOptions, Session, Standing};
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{MAX_LIFE, Name, Token};
use crate::key::ProviderName;
use crate::operations::cluster::{
    AdminKeys, ApproveHost, InitCluster, JoinCluster, MakeToken, ShareProvider, Shared, SyncCluster, kernel_name,
};
use crate::operations::exposed;
use crate::text::{self, Show};

/// Verbs of `cluster`.
#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Make a cluster with this host in it
    Init(InitArgs),
    /// Make a token with which one host may ask to join
    Token(TokenArgs),
    /// Ask to join a cluster, with a token
    Join(JoinArgs),
    /// Make a host a member that has asked to join
    Approve(ApproveArgs),
    /// Share a provider of this host with all hosts
    Share(ShareArgs),
    /// Take and leave keys, as the cluster's newest document asks
    Sync(SyncArgs),
    /// Show the hosts, and which keys they have
    Status(StatusArgs),
    /// Remove a host, which then wipes its keys
    Remove(removal::RemoveArgs),
    /// Change who may change the cluster
    #[command(subcommand)]
    Admin(admins::AdminCommand),
    /// Accept that the board has gone back to an older state
    AcceptBoard(admins::AcceptBoardArgs),
    /// Make a new primary key of a shared provider
    Rotate(rotation::RotateArgs),
    /// Have all hosts destroy the former primary keys of a shared provider
    Retire(rotation::RetireArgs),
}

/// The keys with which admins sign.
#[derive(Args)]
struct AdminArgs {
    /// File of an admin key; repeat it where the cluster needs several admins
    #[arg(long, value_name = "FILE", required = true)]
    admin_key: Vec<PathBuf>,
    /// Read the passphrase from the first line of a file, or of standard input for "-", instead of the terminal; repeat it for
    /// each admin key
    #[arg(long = "passphrase-file", value_name = "FILE")]
    passphrase_files: Vec<PathBuf>,
}

impl AdminArgs {
    fn with_keys<T>(&self, purpose: Purpose, work: impl FnOnce(AdminKeys<'_>) -> Result<T>) -> Result<T> {
        let (keys, files) = (self.admin_key.len(), self.passphrase_files.len());
        if files != 0 && files != keys {
            let given = format!("{files} --passphrase-file for {keys} --admin-key, expected one for each, or none");
            return Err(Error::new(Kind::Invalid, given));
        }
        let passphrase = |index: usize| {
            let file = self.passphrase_files.get(index).cloned();
            if file.is_none() && keys > 1 {
                eprintln!("Of the admin key {}:", self.admin_key[index].shown());
            }
            PassphraseSource::of(file).read(purpose)
        };
        work(AdminKeys { files: &self.admin_key, passphrase: &passphrase })
    }
}

/// Arguments of `cluster init`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs cluster init prod --board folder:/mnt/shared/vmcryptfs --admin-key /media/usb/prod.admin\n\n\
    The board is a folder that all hosts have mounted, such as one on NFS or CephFS, or an etcd, which vmcryptfs-agent reaches with \
    the certificates that [board] of the configuration names. What lies there is signed, and keys are \
    sealed to one host each: its owner can hold them back, but neither read nor change them. The admin key is made, or taken if the file is there; keep it on \
    a medium of its own. Without it, the cluster stays as it is for ever."
)]
pub(super) struct InitArgs {
    /// Name of the cluster
    #[arg(value_parser = cluster_name)]
    name: Name,
    /// Where the board is: folder:/PATH, a folder that exists and that all hosts share, or etcd:https://HOST:PORT,https://HOST:PORT
    #[arg(long, value_name = "BOARD")]
    board: String,
    /// Name of this host in the cluster [default: its host name]
    #[arg(long = "name", value_name = "HOST", value_parser = host_name)]
    host: Option<Name>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `cluster token`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster token --admin-key /media/usb/prod.admin\n\n\
    The token is a secret, good for one host and for 15 minutes, until `cluster approve`. It says where the board is and pins the \
    cluster, so the new host needs nothing else.")]
pub(super) struct TokenArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `cluster join`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster join --token-file token\n\n\
    An admin then runs `cluster approve` on a host of the cluster, and `cluster sync` on this host takes the keys.")]
pub(super) struct JoinArgs {
    /// Read the token from a file, or from standard input for "-"; on the command line other users would see it
    #[arg(long, value_name = "FILE", default_value = "-")]
    token_file: PathBuf,
    /// Name of this host in the cluster [default: its host name]
    #[arg(long = "name", value_name = "HOST", value_parser = host_name)]
    host: Option<Name>,
}

/// Arguments of `cluster approve`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster approve kvm2 --admin-key /media/usb/prod.admin\n\n\
    `cluster status` lists the hosts that ask. Only one that has a token made with this admin key is approved.")]
pub(super) struct ApproveArgs {
    /// Name or UUID of the host
    host: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `cluster share`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs provider add native shared\n  vmcryptfs cluster share shared --admin-key /media/usb/prod.admin\n\
    \x20 vmcryptfs cluster share corp --keeper kvm2 --life 24h --admin-key /media/usb/prod.admin\n\n\
    Of a native provider, each host gets the primary key, sealed to it, and can then open the VMs of that provider: those that exist \
    and those to come. Hosts that join later get it as well.\n\n\
    Of a KMIP key server, this host becomes a keeper: its agent has the credentials, fetches and makes keys there, and seals them to \
    the hosts that want them, whose agents need no credentials. Run it again to change keepers or --life."
)]
pub(super) struct ShareArgs {
    /// Name of the provider
    #[arg(value_parser = provider_name)]
    provider: ProviderName,
    #[command(flatten)]
    push: PushArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// How the keys of a key server are pushed.
#[derive(Args)]
struct PushArgs {
    /// Key server: another host that has its credentials, by name or UUID, is a keeper as well; repeatable
    #[arg(long = "keeper", value_name = "HOST")]
    keepers: Vec<String>,
    /// Key server: this host is not a keeper any longer; repeatable
    #[arg(long = "no-keeper", value_name = "HOST")]
    no_keepers: Vec<String>,
    /// Key server: how long hosts use a key without another word of a keeper, as in 90s, 30m, 24h or 7d [default: 72h]
    #[arg(long, value_name = "TIME", value_parser = life)]
    life: Option<Duration>,
    /// Key server: hosts keep keys over a restart, for as long as --life says, sealed by their TPMs; one without a TPM keeps none
    #[arg(long, conflicts_with = "no_persist")]
    persist: bool,
    /// Key server: hosts have keys in memory only, as at first; what they kept is wiped
    #[arg(long)]
    no_persist: bool,
}

impl PushArgs {
    fn options(&self) -> PushOptions {
        let Self { keepers, no_keepers, life, persist, no_persist } = self;
        let persists = (*persist || *no_persist).then_some(*persist);
        PushOptions { keepers: keepers.clone(), no_keepers: no_keepers.clone(), life: *life, persists }
    }
}

fn life(text: &str) -> Result<Duration> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        "d" => Some(24 * 60 * 60),
        _ => None,
    };
    let seconds = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    let life = seconds.map(Duration::from_secs).filter(|life| (Duration::from_secs(1)..=MAX_LIFE).contains(life));
    life.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("a time {text:?}, expected 1s to 365d, as in 90s, 30m, 24h or 7d"))
    })
}

/// Arguments of `cluster sync`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster sync\n\n\
    Takes the keys that this host lacks, seals those that it has to hosts that lack them, wipes them if this host was removed, \
    and tells the others. Let a timer run it on each host, once a minute: with nothing to do it changes only the time of \
    what this host has acknowledged.")]
pub(super) struct SyncArgs {}

/// Arguments of `cluster status`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster status\n\n\
    Lines that begin with TO DO are for an admin. Those about a removed host that no host can see the end of end by --seen-to, on \
    this host: when each VM has another key that keepers pushed to it, for example, is known to people only.")]
pub(super) struct StatusArgs {
    /// Note on this host that what is asked about this removed host is done
    #[arg(long, value_name = "HOST", value_parser = host_name)]
    seen_to: Option<Name>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn cluster_name(text: &str) -> Result<Name> {
    Name::new("cluster", text)
}

fn host_name(text: &str) -> Result<Name> {
    Name::new("host", text)
}

pub(super) fn run(command: &ClusterCommand, config: &Path) -> Result<()> {
    match command {
        ClusterCommand::Init(args) => init(args, config),
        ClusterCommand::Token(args) => token(args, config),
        ClusterCommand::Join(args) => join(args, config),
        ClusterCommand::Approve(args) => approve(args, config),
        ClusterCommand::Share(args) => share(args, config),
        ClusterCommand::Sync(SyncArgs {}) => sync(config),
        ClusterCommand::Status(args) => status(args, config),
        ClusterCommand::Remove(args) => removal::remove(args, config),
        ClusterCommand::Admin(command) => admins::run(command, config),
        ClusterCommand::AcceptBoard(args) => admins::accept_board(args, config),
        ClusterCommand::Rotate(args) => rotation::rotate(args, config),
        ClusterCommand::Retire(args) => rotation::retire(args, config),
    }
}

fn init(args: &InitArgs, config: &Path) -> Result<()> {
    let host = args.host.clone().map_or_else(kernel_name, Ok)?;
    let new = NewCluster { name: &args.name, host: &host, board: &args.board, config };
    let file = &args.admin.admin_key[0];
    let is_there = file.symlink_metadata().is_ok();
    let purpose = if is_there { Purpose::Enter } else { Purpose::Choose };
    let uuid = args.admin.with_keys(purpose, |admin| perform(InitCluster { new, admin }))?;
    let taken = if is_there { ", which was there before" } else { "" };
    println!("made the cluster {} ({uuid}) with host {host}; its admin key is {}{taken}", args.name, file.shown());
    eprintln!("Keep the admin key on a medium of its own: it decides which hosts get keys.");
    eprintln!(
        "To share a native provider with the hosts to come:\n  vmcryptfs cluster share PROVIDER --admin-key FILE"
    );
    sync(config)
}

fn token(args: &TokenArgs, config: &Path) -> Result<()> {
    let (text, expires) = args.admin.with_keys(Purpose::Enter, |admin| perform(MakeToken { admin, config }))?;
    println!("{}", &*text);
    let minutes = TOKEN_LIFE.as_secs() / 60;
    eprintln!(
        "Good for one host and {minutes} minutes, until {}. On that host, give it to:\n  vmcryptfs cluster join",
        expires.to_millis()
    );
    Ok(())
}

fn join(args: &JoinArgs, config: &Path) -> Result<()> {
    let host = args.host.clone().map_or_else(kernel_name, Ok)?;
    let (cluster, uuid) = perform(JoinCluster { token: &|| read_token(&args.token_file), host: &host, config })?;
    println!("asked to join the cluster {cluster} as host {host} ({uuid})");
    eprintln!("An admin approves it on a host of the cluster, then this host takes the keys:");
    eprintln!("  vmcryptfs cluster approve {host} --admin-key FILE\n  vmcryptfs cluster sync");
    Ok(())
}

fn read_token(file: &Path) -> Result<Token> {
    Token::parse(&token::read(file)?)
}

fn approve(args: &ApproveArgs, config: &Path) -> Result<()> {
    let host =
        args.admin.with_keys(Purpose::Enter, |admin| perform(ApproveHost { host: &args.host, admin, config }))?;
    println!("host {} ({}) is a member of the cluster", host.name, host.uuid);
    sync(config)
}

fn share(args: &ShareArgs, config: &Path) -> Result<()> {
    let provider = &args.provider;
    let push = &args.push.options();
    let shared =
        args.admin.with_keys(Purpose::Enter, |admin| perform(ShareProvider { provider, push, admin, config }))?;
    match shared {
        Shared::Primary(primary) => println!("the cluster shares provider {provider} with primary key {primary}"),
        Shared::Pushed { keepers, life } => {
            let names: Vec<&str> = keepers.iter().map(Name::as_str).collect();
            let (names, life) = (names.join(", "), life.as_secs());
            println!(
                "the cluster shares provider {provider}, whose keys are pushed by {names} and used for {life} s without them"
            );
            eprintln!(
                "Keepers need the provider under this name, and vmcryptfs-agent; so do the hosts that get its keys."
            );
        }
    }
    sync(config)
}

fn sync(config: &Path) -> Result<()> {
    exchange(config).map(drop)
}

/// Takes and leaves keys. Returns the providers whose new keys this host makes by another primary key from now on.
fn exchange(config: &Path) -> Result<Vec<ProviderName>> {
    let Exchanged { standing, epoch, received, sent, awaited, made_current, wiped, evicted, failed, unsaid } =
        perform(SyncCluster { config, keys: None, open: &Session::open, renew: Duration::ZERO })?;
    received.iter().for_each(|(provider, primary)| println!("{provider}: received primary key {primary}"));
    sent.iter().for_each(|(provider, host)| println!("{provider}: sealed its primary key to host {host}"));
    let made = |(provider, primary): &(ProviderName, Uuid)| {
        println!("{provider}: new keys are made by primary key {primary} from now on")
    };
    made_current.iter().for_each(made);
    wiped.iter().for_each(|(provider, primary)| println!("{provider}: wiped primary key {primary}"));
    match standing {
        Standing::Pending => eprintln!("This host has asked to join; no admin has approved it yet."),
        Standing::Removed if evicted => {
            eprintln!(
                "This host was removed from the cluster, and its guests have to end: stop them, then `vmcryptfs umount MOUNTPOINT`."
            );
        }
        Standing::Removed => eprintln!("This host was removed from the cluster. Guests that run go on."),
        Standing::Active if !awaited.is_empty() => {
            let names: Vec<&str> = awaited.iter().map(ProviderName::as_str).collect();
            eprintln!("Not here yet: {}. A host that has it leaves it by `vmcryptfs cluster sync`.", names.join(", "));
        }
        Standing::Active if unsaid.is_none() && failed.is_empty() => {
            println!("this host has done what document {epoch} of the cluster asks")
        }
        Standing::Active => {}
    }
    match failed.into_iter().next() {
        Some((provider, error)) => Err(error).context(|| format!("provider {provider} of the cluster")),
        None => unsaid.map_or_else(|| Ok(made_current.into_iter().map(|(provider, _)| provider).collect()), Err),
    }
}

fn status(args: &StatusArgs, config: &Path) -> Result<()> {
    let session = Session::open(config)?;
    if let Some(host) = &args.seen_to {
        let host = session.see_to(host)?;
        eprintln!(
            "On this host, `vmcryptfs cluster status` no longer says what to do about {} ({}), which was removed.",
            host.name, host.uuid
        );
    }
    drop(session);
    exposed::forget_rekeyed(config)?;
    let status = ClusterStatus::of(&Session::open(config)?)?;
    if args.json {
        return out::json(&status);
    }
    println!("cluster {} ({}), document {}, on {}", status.cluster, status.uuid, status.epoch, status.board);
    let shown =
        |member: &MemberHealth| [member.member.as_str(), member.version.as_str()].join(" ").trim_end().to_owned();
    for member in status.board_members.iter().filter(|member| member.trouble.is_some() || !member.version.is_empty()) {
        println!("board: {}: {}", shown(member), member.trouble.as_deref().unwrap_or("well"));
    }
    for provider in &status.providers {
        let old = match provider.old_generations.len() {
            0 => String::new(),
            old => format!(", and {}", text::count(old, "former one", "former ones")),
        };
        println!(
            "shares {} with primary key {} (generation {}){old}",
            provider.name, provider.primary_key, provider.generation
        );
    }
    for pushed in &status.pushed {
        println!(
            "shares {} ({}, {}), whose keys are pushed by {} and used for {} s without them{}",
            pushed.name,
            pushed.kind,
            pushed.places.join(", "),
            if pushed.keepers.is_empty() { "nobody".into() } else { pushed.keepers.join(", ") },
            pushed.life,
            if pushed.persists { ", also after a restart by hosts whose TPM seals them" } else { "" }
        );
    }
    println!();
    let rows: Vec<[String; 7]> = status.hosts.iter().map(row).collect();
    table::print(["HOST", "UUID", "STATE", "AGENT", "DOCUMENT", "LAST SAID", "HAS"], &rows);
    for request in &status.requests {
        println!(
            "\n{} ({}) asks to join, with a token that says it ends at {}",
            request.name, request.uuid, request.expires
        );
    }
    status.problems.iter().for_each(|problem| println!("\nTO DO: {problem}"));
    for host in &status.hosts {
        if let Some(error) = &host.error {
            eprintln!("{}: {error}", host.name);
        }
    }
    Ok(())
}

fn row(host: &HostStatus) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        host.name.clone(),
        host.uuid.to_string(),
        format!("{}{}", host.state, if host.compromised { ", COMPROMISED" } else { "" }),
        or_none(host.agent.clone()),
        or_none(host.epoch.map(|epoch| epoch.to_string())),
        or_none(host.time.clone()),
        or_none(Some(host.holds.join(", ")).filter(|names| !names.is_empty())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_not_one_is_refused_without_repeating_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        for text in ["", "secret", "vmcryptfs-token-1.secret", "vmcryptfs-token-1.\u{e9}", &"x".repeat(10_000)] {
            std::fs::write(&file, text).unwrap();
            let error = read_token(&file).map(drop).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
            assert!(!error.chain().contains("secret"), "{}", error.chain());
        }
    }
}
