//! The cluster of this host: made, joined, changed by admins, and acted on.

use std::path::{Path, PathBuf};

use uuid::Uuid;
use zeroize::Zeroizing;

use super::provider::Passphrase;
use crate::cluster::admin_key::{self, SealedAdminKey};
use crate::cluster::join::{self, NewCluster};
use crate::cluster::{Exchanged, RemovedHost, Session};
use crate::crypto::sign::SigningKey;
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::cluster::{HostIdentity, Name, Token};
use crate::gate::{Object, Operation, Trail};
use crate::key::ProviderName;
use crate::progress::OnProgress;
use crate::provider::backup::refuse_existing;
use crate::text::Show;
use crate::timestamp::Timestamp;

/// An admin's key: its file, and what opens it.
#[derive(Clone, Copy)]
pub struct AdminKey<'a> {
    /// The file.
    pub file: &'a Path,
    /// Asked for only when everything else is right.
    pub passphrase: Passphrase<'a>,
}

impl AdminKey<'_> {
    /// Begins work on the cluster of this host with the key.
    fn begin(&self, config: &Path) -> Result<(Session, SigningKey)> {
        let session = Session::open(config)?;
        let sealed = SealedAdminKey::read(self.file)?;
        if !session.document().admins.contains(&sealed.public()) {
            let (file, name) = (self.file.shown(), &session.document().name);
            return Err(Error::new(Kind::Denied, format!("{file} is not an admin key of the cluster {name}")));
        }
        let key = sealed.open(&(self.passphrase)()?)?;
        Ok((session, key))
    }
}

/// Makes a cluster, with this host as its first member.
pub struct InitCluster<'a> {
    /// The cluster.
    pub new: NewCluster<'a>,
    /// The admin's key, which is made.
    pub admin: AdminKey<'a>,
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
        refuse_existing(self.admin.file)?;
        let passphrase = (self.admin.passphrase)()?;
        let key = SigningKey::generate()?;
        admin_key::create(self.admin.file, &key, &passphrase, admin_key::COST)?;
        // What cannot be opened must not be the only way to change the cluster.
        SealedAdminKey::read(self.admin.file)?.open(&passphrase).context(|| "reading back the admin key".into())?;
        let (cluster, host) = self.new.create(&key)?;
        trail.event().reason(format!("cluster {} ({cluster}) with host {} ({host})", self.new.name, self.new.host));
        Ok(cluster)
    }
}

/// Makes a token for one host.
pub struct MakeToken<'a> {
    /// The admin's key.
    pub admin: AdminKey<'a>,
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
        let (session, admin) = self.admin.begin(self.config)?;
        let token = session.token(&admin)?;
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
        trail.event().reason(format!("cluster {cluster} ({}) asked as host {} ({host})", token.cluster, self.host));
        Ok((cluster, host))
    }
}

/// Makes a host a member that asked for it.
pub struct ApproveHost<'a> {
    /// Its name or UUID.
    pub host: &'a str,
    /// The admin's key.
    pub admin: AdminKey<'a>,
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
        let (mut session, admin) = self.admin.begin(self.config)?;
        let host = session.approve(&admin, self.host, Timestamp::now())?;
        trail.event().uuid(host.uuid).reason(format!("host {} ({})", host.name, host.uuid));
        Ok(host)
    }
}

/// Shares a native provider of this host with all hosts of the cluster.
pub struct ShareProvider<'a> {
    /// Its name.
    pub provider: &'a ProviderName,
    /// The admin's key.
    pub admin: AdminKey<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for ShareProvider<'_> {
    const NAME: EventName = EventName::ClusterShare;
    /// UUID of the primary key.
    type Outcome = Uuid;

    fn object(&self) -> Object {
        Object::Provider(self.provider.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Uuid> {
        let (mut session, admin) = self.admin.begin(self.config)?;
        let primary = session.share(&admin, self.provider)?;
        trail.event().reason(format!("primary key {primary} with all hosts of the cluster"));
        Ok(primary)
    }
}

/// Removes a host from the cluster.
pub struct RemoveHost<'a> {
    /// Its name.
    pub host: &'a Name,
    /// The admin's key.
    pub admin: AdminKey<'a>,
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
        let (mut session, admin) = self.admin.begin(self.config)?;
        let removed = session.remove(&admin, self.host)?;
        trail.event().uuid(removed.host.uuid).reason(format!("host {} ({})", removed.host.name, removed.host.uuid));
        Ok(removed)
    }
}

/// Does what the newest document of the cluster asks of this host.
pub struct SyncCluster<'a> {
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for SyncCluster<'_> {
    const NAME: EventName = EventName::ClusterSync;
    type Outcome = Exchanged;

    fn object(&self) -> Object {
        Object::Cluster
    }

    /// An event for each key that came, went or was wiped; none where there was nothing to do, which is what a timer finds.
    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Exchanged> {
        let done = Session::open(self.config)?.exchange()?;
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
        for (provider, primary) in &done.wiped {
            part(provider, format!("wiped primary key {primary}: this host was removed from the cluster"));
        }
        for (provider, error) in &done.failed {
            trail.failed_part(&Object::Provider(provider.clone()), error);
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
