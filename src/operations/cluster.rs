//! The cluster of this host: made, joined, changed by admins, and acted on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::dump::refuse_host_primaries;
use super::exposed::refuse_exposed;
use super::in_use::refuse_primaries_in_use;
use super::provider::Passphrase;
use crate::cluster::admin_key::{self, SealedAdminKey};
use crate::cluster::join::{self, NewCluster};
use crate::cluster::{
    AdminChange, Exchanged, KeyFiles, PushOptions, RemovedHost, Rotated, Session, SharedKeys, Standing, accept_board,
};
use crate::crypto::sign::{PUBLIC_LEN, SigningKey};
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::cluster::{Document, HostIdentity, Name, Removal, Token};
use crate::gate::{Object, Operation, Trail};
use crate::key::ProviderName;
use crate::progress::OnProgress;
use crate::provider::backup::refuse_existing;
use crate::text::{Show, count};
use crate::timestamp::Timestamp;
use crate::vm::in_use::LookedAt;

/// Keys of admins: their files, and what opens them.
#[derive(Clone, Copy)]
pub struct AdminKeys<'a> {
    /// The files: as many as the cluster's threshold says, one for a new cluster.
    pub files: &'a [PathBuf],
    /// Gives the passphrase of the file with this index; asked for only when everything else is right.
    pub passphrase: &'a dyn Fn(usize) -> Result<Zeroizing<Vec<u8>>>,
}

impl AdminKeys<'_> {
    /// Begins work on the cluster of this host with the keys.
    fn begin(&self, config: &Path) -> Result<(Session, Vec<SigningKey>)> {
        self.begin_with(config, None)
    }

    /// The same with the key of one that is to become an admin. The host is not locked while passphrases are asked for: its agent goes
    /// on. If the admins have changed in the meantime, what the keys sign is refused.
    fn begin_with(&self, config: &Path, coming: Option<[u8; PUBLIC_LEN]>) -> Result<(Session, Vec<SigningKey>)> {
        let document = Session::open(config)?.document().clone();
        let keys = self.open(&document, coming)?;
        Ok((Session::open(config)?, keys))
    }

    /// Opens the keys of admins of a document, which have to be as many as it demands, and of one that is to become an admin.
    fn open(&self, document: &Document, coming: Option<[u8; PUBLIC_LEN]>) -> Result<Vec<SigningKey>> {
        let (name, needed) = (&document.name, usize::from(document.threshold));
        let sealed: Vec<SealedAdminKey> =
            self.files.iter().map(|file| SealedAdminKey::read(file)).collect::<Result<_>>()?;
        let mut admins = BTreeSet::new();
        for (file, key) in self.files.iter().zip(&sealed) {
            if coming == Some(key.public()) {
                continue;
            }
            if !document.admins.contains(&key.public()) {
                let message = format!("{} is not an admin key of the cluster {name}", file.shown());
                return Err(Error::new(Kind::Denied, message));
            }
            admins.insert(key.public());
        }
        if admins.len() < needed {
            let found = count(admins.len(), "admin key", "admin keys");
            let message = format!("{found}, expected {needed} for the cluster {name}: repeat --admin-key FILE");
            return Err(Error::new(Kind::Denied, message));
        }
        let open = |(index, sealed): (usize, &SealedAdminKey)| {
            sealed.open(&(self.passphrase)(index)?).context(|| self.files[index].shown().to_string())
        };
        sealed.iter().enumerate().map(open).collect()
    }
}

/// Makes a cluster, with this host as its first member.
pub struct InitCluster<'a> {
    /// The cluster.
    pub new: NewCluster<'a>,
    /// The admin's key, which is made where there is none.
    pub admin: AdminKeys<'a>,
}

/// The key in a file that exists, or a new one: an interrupted run may have made it, and nothing may be in reach of no key.
fn admin_key_in(file: &Path, passphrase: &[u8]) -> Result<SigningKey> {
    match file.symlink_metadata() {
        Ok(_) => SealedAdminKey::read(file)?.open(passphrase).context(|| file.shown().to_string()),
        Err(_) => new_admin_key(file, passphrase),
    }
}

/// Lets the agent of this host forget what it had as a host of another cluster. One that does not answer notices by itself, before it
/// serves a key again.
fn tell_agent(config: &Path) {
    let _ = Exchanged::by_agent(config);
}

/// Makes an admin key and its file.
fn new_admin_key(file: &Path, passphrase: &[u8]) -> Result<SigningKey> {
    refuse_existing(file, "an admin key")?;
    let key = SigningKey::generate()?;
    admin_key::create(file, &key, passphrase, admin_key::COST)?;
    // What cannot be opened must not be the only way to change the cluster.
    SealedAdminKey::read(file)?.open(passphrase).context(|| "reading back the admin key".into())?;
    Ok(key)
}

impl Operation for InitCluster<'_> {
    const NAME: EventName = EventName::ClusterInit;
    /// The cluster's UUID.
    type Outcome = Uuid;

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Uuid> {
        self.new.check()?;
        let [file] = self.admin.files else {
            return Err(Error::new(
                Kind::Invalid,
                "a new cluster has one admin: `vmcryptfs cluster admin add PUBLIC_KEY --admin-key FILE` adds others",
            ));
        };
        let key = admin_key_in(file, &(self.admin.passphrase)(0)?)?;
        let (cluster, host) = self.new.create(&key)?;
        tell_agent(self.new.config);
        trail.event().reason(format!("cluster {} ({cluster}) with host {} ({host})", self.new.name, self.new.host));
        Ok(cluster)
    }
}

/// Makes a token for one host.
pub struct MakeToken<'a> {
    /// The admin's key.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for MakeToken<'_> {
    const NAME: EventName = EventName::ClusterToken;
    /// The token's text, and when it ends.
    type Outcome = (Zeroizing<String>, Timestamp);

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let (session, admins) = self.admin.begin(self.config)?;
        let token = session.token(&admins)?;
        trail.event().reason(format!("good until {}", token.expires.to_millis()));
        Ok((token.to_text()?, token.expires))
    }
}

/// Asks to become a member of a cluster.
pub struct JoinCluster<'a> {
    /// Reads the token.
    pub token: &'a dyn Fn() -> Result<Token>,
    /// Name of this host.
    pub host: &'a Name,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for JoinCluster<'_> {
    const NAME: EventName = EventName::ClusterJoin;
    /// The cluster's name, and this host's UUID.
    type Outcome = (Name, Uuid);

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<(Name, Uuid)> {
        let token = (self.token)()?;
        let (cluster, host) = join::ask(self.config, &token, self.host)?;
        tell_agent(self.config);
        trail.event().reason(format!("cluster {cluster} ({}) asked as host {} ({host})", token.cluster, self.host));
        Ok((cluster, host))
    }
}

/// Makes a host a member that asked for it.
pub struct ApproveHost<'a> {
    /// Its name or UUID.
    pub host: &'a str,
    /// The admin's key.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for ApproveHost<'_> {
    const NAME: EventName = EventName::ClusterApprove;
    type Outcome = HostIdentity;

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<HostIdentity> {
        let (mut session, admins) = self.admin.begin(self.config)?;
        let host = session.approve(&admins, self.host, Timestamp::now())?;
        trail.event().uuid(host.uuid).reason(format!("host {} ({})", host.name, host.uuid));
        Ok(host)
    }
}

/// Shares a provider of this host with all hosts of the cluster: its primary key, or the KEKs that its key server keeps.
pub struct ShareProvider<'a> {
    /// Its name.
    pub provider: &'a ProviderName,
    /// How it is pushed, where it is one whose key server keeps the KEKs.
    pub push: &'a PushOptions,
    /// The admin's key.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for ShareProvider<'_> {
    const NAME: EventName = EventName::ClusterShare;
    type Outcome = Shared;

    fn object(&self) -> Object {
        Object::Provider(self.provider.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Shared> {
        let (mut session, admins) = self.admin.begin(self.config)?;
        if session.can_push(self.provider)? {
            let pushed = session.share_pushed(&admins, self.provider, self.push)?;
            let members = &session.document().members;
            let names = members.iter().map(|member| &member.host).filter(|host| pushed.keepers.contains(&host.uuid));
            let keepers: Vec<Name> = names.map(|host| host.name.clone()).collect();
            let shown: Vec<&str> = keepers.iter().map(Name::as_str).collect();
            trail.event().reason(format!("its keys are pushed to all hosts of the cluster by {}", shown.join(", ")));
            return Ok(Shared::Pushed { keepers, life: pushed.life });
        }
        if !self.push.is_default() {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "provider {} has a primary key, which all hosts get: --keeper, --no-keeper, --life and --persist are for key servers",
                    self.provider
                ),
            ));
        }
        let primary = session.share(&admins, self.provider)?;
        trail.event().reason(format!("primary key {primary} with all hosts of the cluster"));
        Ok(Shared::Primary(primary))
    }
}

/// What of a provider is shared.
#[derive(Debug)]
pub enum Shared {
    /// The primary key of this UUID.
    Primary(Uuid),
    /// The KEKs that its key server keeps.
    Pushed {
        /// The hosts that push them.
        keepers: Vec<Name>,
        /// For how long hosts use a KEK without another word of a keeper.
        life: Duration,
    },
}

/// Makes a key for an admin to come.
pub struct NewAdminKey<'a> {
    /// Its file, which is made.
    pub file: &'a Path,
    /// Its passphrase.
    pub passphrase: Passphrase<'a>,
}

impl Operation for NewAdminKey<'_> {
    const NAME: EventName = EventName::ClusterAdminKey;
    /// The public key.
    type Outcome = [u8; PUBLIC_LEN];

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let public = new_admin_key(self.file, &(self.passphrase)()?)?.public();
        trail.event().reason(format!("public key {}", HEXLOWER.encode(&public)));
        Ok(public)
    }
}

/// Changes who may change the cluster.
pub struct ChangeAdmins<'a> {
    /// What changes.
    pub change: AdminChange,
    /// How many have to sign from now on, if another number.
    pub threshold: Option<u8>,
    /// The admins' keys.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for ChangeAdmins<'_> {
    const NAME: EventName = EventName::ClusterAdmins;
    /// How many admins there are, and how many have to sign.
    type Outcome = (usize, u8);

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let coming = if let AdminChange::Add(key) = self.change { Some(key) } else { None };
        let (mut session, admins) = self.admin.begin_with(self.config, coming)?;
        session.change_admins(&admins, self.change, self.threshold)?;
        let what = match self.change {
            AdminChange::Add(key) => format!("added {}; ", HEXLOWER.encode(&key)),
            AdminChange::Remove(key) => format!("removed {}; ", HEXLOWER.encode(&key)),
            AdminChange::None => String::new(),
        };
        let (all, needed) = (session.document().admins.len(), session.document().threshold);
        trail.event().reason(format!("{what}{needed} of {all} admins have to sign"));
        Ok((all, needed))
    }
}

/// Accepts a board that has gone back.
pub struct AcceptBoard<'a> {
    /// The admins' keys.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for AcceptBoard<'_> {
    const NAME: EventName = EventName::ClusterAcceptBoard;
    /// Number of the document that says so.
    type Outcome = u64;

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<u64> {
        let epoch = accept_board(self.config, |document| self.admin.open(document, None))?;
        trail.event().reason(format!("document {epoch} goes on from what this host has seen"));
        Ok(epoch)
    }
}

/// Makes the next generation of a shared provider's primary key.
pub struct RotateProvider<'a> {
    /// Name of the provider.
    pub provider: &'a ProviderName,
    /// Although a host did not confirm the newest generation yet.
    pub at_once: bool,
    /// The admins' keys.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RotateProvider<'_> {
    const NAME: EventName = EventName::ClusterRotate;
    type Outcome = Rotated;

    fn object(&self) -> Object {
        Object::Provider(self.provider.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Rotated> {
        let (mut session, admins) = self.admin.begin(self.config)?;
        let rotated = session.rotate(&KeyFiles { config: self.config }, &admins, self.provider, self.at_once)?;
        trail.event().reason(format!("generation {} is primary key {}", rotated.number, rotated.primary));
        Ok(rotated)
    }
}

/// Retires the old generations of a shared provider's primary key, which nothing needs in these datastores.
pub struct RetireGenerations<'a> {
    /// Name of the provider.
    pub provider: &'a ProviderName,
    /// Where the VMs are that may need them.
    pub datastores: &'a [PathBuf],
    /// Gets the path of each saved header that names one of them.
    pub on_saved_header: &'a dyn Fn(&Path),
    /// The admins' keys.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl RetireGenerations<'_> {
    /// What can be retired, once no host makes keys by it: none appears after the datastores were looked at.
    fn old(&self) -> Result<Vec<Rotated>> {
        let session = Session::open(self.config)?;
        let old = session.old_generations(self.provider)?;
        session.refuse_while_old_are_made(self.provider)?;
        Ok(old)
    }
}

impl Operation for RetireGenerations<'_> {
    const NAME: EventName = EventName::ClusterRetire;
    /// What was retired, and what was looked at.
    type Outcome = (Vec<Rotated>, LookedAt);

    fn object(&self) -> Object {
        Object::Provider(self.provider.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let old = self.old()?;
        let primaries: Vec<Uuid> = old.iter().map(|old| old.primary).collect();
        refuse_host_primaries(&primaries, self.config)?;
        let looked_at = refuse_primaries_in_use(&primaries, self.datastores, self.on_saved_header)?;
        let (mut session, admins) = self.admin.begin(self.config)?;
        refuse_exposed(&session, self.provider, self.datastores)?;
        session.retire(&admins, self.provider, &old)?;
        let shown: Vec<String> = old.iter().map(|old| format!("generation {} ({})", old.number, old.primary)).collect();
        trail.event().reason(format!("{}; looked at {}", shown.join(", "), looked_at.describe()));
        Ok((old, looked_at))
    }
}

/// Removes a host from the cluster, or adds to what is known of one that was removed.
pub struct RemoveHost<'a> {
    /// Its name or UUID.
    pub host: &'a Name,
    /// What is known of it.
    pub removal: Removal,
    /// Asked, with its name and that of the cluster, if it is this host, which then wipes its keys.
    pub confirm_own: &'a dyn Fn(&Name, &Name) -> Result<()>,
    /// The admins' keys.
    pub admin: AdminKeys<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RemoveHost<'_> {
    const NAME: EventName = EventName::ClusterRemove;
    type Outcome = RemovedHost;

    fn object(&self) -> Object {
        Object::Cluster
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<RemovedHost> {
        let own = Session::open(self.config)?.own_name(self.host); // the host is not locked while a person thinks
        own.map_or(Ok(()), |(name, cluster)| (self.confirm_own)(&name, &cluster))?;
        let (mut session, admins) = self.admin.begin(self.config)?;
        let removed = session.remove(&KeyFiles { config: self.config }, &admins, self.host, self.removal)?;
        let Removal { compromised, evicted, presumed_destroyed } = removed.removal;
        let marks = [(compromised, "compromised"), (evicted, "evicted"), (presumed_destroyed, "presumed destroyed")];
        let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| format!(", {mark}")).collect();
        let host = &removed.host;
        let not_rotated: String =
            removed.not_rotated.iter().map(|(provider, _)| format!(", provider {provider} not rotated")).collect();
        trail.event().uuid(host.uuid).reason(format!("host {} ({}){marks}{not_rotated}", host.name, host.uuid));
        Ok(removed)
    }
}

/// Does what the newest document of the cluster asks of this host.
pub struct SyncCluster<'a> {
    /// Configuration file.
    pub config: &'a Path,
    /// Where the host keeps its keys; `None`: its agent does it, or, where it has none, they are in files.
    pub keys: Option<&'a dyn SharedKeys>,
    /// How work on the cluster begins: [`Session::open`], but for the agent.
    pub open: &'a dyn Fn(&Path) -> Result<Session>,
    /// What the host has acknowledged is written again if it is older.
    pub renew: Duration,
}

impl Operation for SyncCluster<'_> {
    const NAME: EventName = EventName::ClusterSync;
    type Outcome = Exchanged;

    fn object(&self) -> Object {
        Object::Cluster
    }

    /// An event for each key that came, went or was wiped; none where there was nothing to do, which is what a timer finds.
    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Exchanged> {
        let by_agent = if self.keys.is_none() { Exchanged::by_agent(self.config)? } else { None };
        if let Some(done) = by_agent {
            trail.in_parts(); // the agent leaves the events
            return Ok(done);
        }
        let files = KeyFiles { config: self.config };
        let refuse_needed = |primary| refuse_host_primaries(&[primary], self.config);
        let keys = self.keys.unwrap_or(&files);
        let done = (self.open)(self.config)?.exchange_with(keys, &refuse_needed, self.renew);
        trail.in_parts();
        let mut part = |provider: &ProviderName, reason: String| {
            trail.part(&Object::Provider(provider.clone()), |event| {
                event.reason(reason);
            });
        };
        for (provider, primary) in &done.received {
            part(provider, format!("received primary key {primary}"));
        }
        for (provider, host) in &done.sent {
            part(provider, format!("sealed its primary key to host {host}"));
        }
        for (provider, primary) in &done.made_current {
            part(provider, format!("new keys are made by primary key {primary} from now on"));
        }
        let why =
            if done.standing == Standing::Removed { "this host was removed from the cluster" } else { "it is retired" };
        for (provider, primary) in &done.wiped {
            part(provider, format!("wiped primary key {primary}: {why}"));
        }
        for (provider, error) in &done.failed {
            trail.failed_part(&Object::Provider(provider.clone()), error);
        }
        if let Some(error) = &done.unsaid {
            trail.failed_part(&Object::Cluster, error);
        }
        Ok(done)
    }
}

/// Name of this host, as the kernel has it.
///
/// # Errors
/// `Io`; `Invalid` when it cannot be a host's name in a cluster.
pub fn kernel_name() -> Result<Name> {
    let path = PathBuf::from("/proc/sys/kernel/hostname");
    let name = std::fs::read_to_string(&path).context(|| format!("reading {}", path.shown()))?;
    Name::new("host", name.trim_end()).map_err(|error| {
        Error::with_source(
            Kind::Invalid,
            "this host's own name does not do in a cluster: choose one with --name",
            error,
        )
    })
}
