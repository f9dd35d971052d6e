//! The `kmip` provider: KEKs that a KMIP key server makes and keeps (vSphere: standard key provider).
//!
//! Only ids of keys are stored here; the keys are fetched when they are needed. The server may have several members, of
//! which one has to answer. This host's private key is enough to fetch every key that this
//! host can fetch.

mod certificate;
mod cluster;
mod credentials;
mod dial;
mod export;
mod failure;
mod health;
mod kek;
mod message;
mod notices;
mod operation;
mod probe;
mod seen;
mod session;
mod settings;
pub mod tag;
mod tls;
mod trust;
pub mod ttlv;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use message::Version;
pub use probe::MemberReport;
pub use settings::{Address, Servers, Settings};
pub use trust::{MinTls, Pin, TlsForm};

use parking_lot::Mutex;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Table;
use toml::de::ValueDeserializer;
use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::{Kek, KeyCheck, KeyId, ProviderName, may_be_same_id};
use crate::provider::kek_share::{KekShare, kek_of};
use crate::provider::kind::{self, Argument, Arguments, Configured, KEK_SHARE, ProviderKind, Tested, Usage, Value};
use crate::provider::{ExportedKek, Failure, KeyHost, KeyProvider, KeyState, NewKey, Revocation, Trouble};
use crate::text;
use certificate::EXPIRES_SOON;
use cluster::Cluster;
use kek::{KmipKek, NO_RANDOM, is_constant};
use seen::{KmipSeen, Seen};
use session::Session;

/// Keys of one provider that are compared with each other.
const MAX_KNOWN: usize = 4096;

/// The kind.
#[derive(Debug)]
pub struct Kmip;

const USAGE: Usage = Usage {
    about: "Add a KMIP key server: it makes and keeps the keys, and this host fetches them",
    details: "Add a KMIP key server (vSphere: standard key provider). It makes and keeps the keys; this host stores only \
              their ids, and fetches them when VMs are mounted. Name every member of its cluster, so that the keys are \
              available while one is down.\n\n\
              The server must know this host's certificate. The files are not copied, and are read again when they \
              change. The server is not asked yet: `vmcryptfs provider test NAME` does that.",
    example: "vmcryptfs provider add kmip corp --server kms1:5696 --server kms2:5696 --ca ca.pem --cert host.pem --key \
              host.key\n\
              vmcryptfs provider test corp",
    arguments: &[
        Argument {
            name: "server",
            value_name: "HOST:PORT",
            help: "A member of the key server's cluster; repeatable. The port is 5696 by default",
            value: Value::Text(|text| text.parse::<Address>().map(drop)),
            required: true,
            repeatable: true,
        },
        Argument {
            name: "ca",
            value_name: "FILE",
            help: "Certificates (PEM) that those of the servers are checked against",
            value: Value::File,
            required: true,
            repeatable: false,
        },
        Argument {
            name: "cert",
            value_name: "FILE",
            help: "This host's certificate (PEM), which the servers know it by",
            value: Value::File,
            required: true,
            repeatable: false,
        },
        Argument {
            name: "key",
            value_name: "FILE",
            help: "The private key (PEM) of the certificate, readable only by its owner",
            value: Value::SecretFile,
            required: true,
            repeatable: false,
        },
        Argument {
            name: "min-tls",
            value_name: "VERSION",
            help: "The oldest version of TLS that may be spoken: 1.2 (default) or 1.3",
            value: Value::Text(|text| word::<MinTls>(text).map(drop)),
            required: false,
            repeatable: false,
        },
        Argument {
            name: "tls",
            value_name: "FORM",
            help: "The form of TLS that is required: 1.3-pq is TLS 1.3 with the hybrid group X25519MLKEM768",
            value: Value::Text(|text| word::<TlsForm>(text).map(drop)),
            required: false,
            repeatable: false,
        },
        Argument {
            name: "pin-sha256",
            value_name: "BASE64",
            help: "SHA-256 of a server's public key: no server with another key is believed; repeatable",
            value: Value::Text(|text| text.parse::<Pin>().map(drop)),
            required: false,
            repeatable: true,
        },
        KEK_SHARE,
    ],
};

impl ProviderKind for Kmip {
    fn name(&self) -> &'static str {
        "kmip"
    }

    fn usage(&self) -> &'static Usage {
        &USAGE
    }

    fn parse(&self, section: ValueDeserializer<'_>) -> std::result::Result<Table, toml::de::Error> {
        kind::parse::<Settings>(section)
    }

    fn settings(&self, _: &ProviderName, arguments: &Arguments) -> Result<Table> {
        let invalid = |flaw| Error::new(Kind::Invalid, flaw);
        let addresses = arguments.values("server").map(|text| text.to_string_lossy().parse());
        let addresses = addresses.collect::<std::result::Result<Vec<Address>, _>>().map_err(invalid)?;
        let servers = Servers::try_from(addresses).map_err(invalid)?;
        let file = |name| arguments.file(name);
        let pins = arguments.values("pin-sha256").map(|text| text.to_string_lossy().parse());
        let chosen = |name| arguments.values(name).next().map(|text| text.to_string_lossy());
        let settings = Settings {
            min_tls: chosen("min-tls").map(|text| word(&text)).transpose().map_err(invalid)?,
            tls: chosen("tls").map(|text| word(&text)).transpose().map_err(invalid)?,
            pin_sha256: pins.collect::<std::result::Result<_, _>>().map_err(invalid)?,
            kek_share: arguments.kek_share()?,
            ..Settings::of(servers, file("ca")?, file("cert")?, file("key")?)
        };
        kind::table(&settings)
    }

    fn open(&self, provider: &Configured<'_>) -> Result<Arc<dyn KeyProvider>> {
        Ok(Arc::new(KmipProvider::new(provider)?))
    }

    fn test(&self, provider: &Configured<'_>) -> Result<Tested> {
        let name = provider.name;
        let provider = KmipProvider::new(provider)?;
        let reports = provider.probe()?;
        let mut report: String = reports.iter().map(MemberReport::to_string).collect();
        report += &format!("this host's certificate: {}\n", probe::ends_in(provider.certificate_days()));
        let failed = reports.iter().filter(|report| report.failure.is_some()).count();
        let outcome = match failed {
            0 => Ok(()),
            _ => Err(Error::new(
                Kind::KeyUnavailable,
                format!(
                    "{failed} of {} of key provider {name} failed",
                    text::count(reports.len(), "member", "members")
                ),
            )),
        };
        Ok(Tested { report, notices: provider.take_notices(), outcome })
    }

    fn can_be_pushed(&self) -> bool {
        true
    }

    /// The members of its cluster.
    fn key_places(&self, provider: &Configured<'_>) -> Vec<String> {
        let servers = provider.settings.read::<Settings>().map(|settings| Vec::from(settings.servers));
        servers.unwrap_or_default().iter().map(|server| server.to_string().to_ascii_lowercase()).collect()
    }
}

/// A word of the configuration file.
fn word<T: DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    T::deserialize(text.into_deserializer()).map_err(|error: toml::de::Error| error.message().to_owned())
}

/// Makes and fetches KEKs of a key server.
pub struct KmipProvider {
    name: ProviderName,
    settings: Settings,
    cluster: Arc<Cluster>,
    share: Option<KekShare>,
    /// Days left of this host's certificate when that was last reported.
    reported_days: Mutex<Option<i64>>,
    /// Keys that were made or fetched, at most [`MAX_KNOWN`]: two key ids should never be of one key.
    known: Mutex<HashMap<KeyCheck, KeyId>>,
}

impl KmipProvider {
    /// Sets up a provider. Reads its certificates; no server is asked yet.
    ///
    /// # Errors
    /// Those of the files: `NotFound`, `Invalid`, `Denied` when others can read the private key or change a certificate.
    pub fn new(provider: &Configured<'_>) -> Result<Self> {
        let settings: Settings = provider.settings.read()?;
        let cluster = Arc::new(Cluster::new(&settings, provider.config)?);
        let (reported_days, known) = (Mutex::new(None), Mutex::default());
        let share = provider.kek_share()?;
        Ok(Self { name: provider.name.clone(), settings, cluster, share, reported_days, known })
    }

    /// Reports the end of this host's certificate, once a day.
    fn notice_end_of_certificate(&self) {
        let days = self.certificate_days().filter(|&days| days < EXPIRES_SOON);
        if let Some(days) = days.filter(|_| *self.reported_days.lock() != days) {
            self.cluster.notices().add(match days {
                ..0 => format!("this host's certificate expired {} ago", text::count(-days, "day", "days")),
                0.. => format!("this host's certificate expires in {}", text::count(days, "day", "days")),
            });
        }
        *self.reported_days.lock() = days;
    }

    /// Whole days until this host's certificate ends, negative when it has ended; `None` when it is not understood.
    pub fn certificate_days(&self) -> Option<i64> {
        self.cluster.credentials().days_left()
    }

    /// Tries what VMs need with each member: a key is made, fetched and destroyed.
    ///
    /// # Errors
    /// `Io` when there are no random bytes. Failures of members are in their reports.
    pub fn probe(&self) -> Result<Vec<MemberReport>> {
        let attributes = self.settings.attributes_of_new(&probe::purpose()?);
        Ok(self.cluster.members().iter().map(|member| probe::probe(&self.cluster, member, &attributes)).collect())
    }

    /// Makes a key in one session. `sent` says whether an earlier attempt may have made it.
    fn make(&self, session: &mut Session, key_name: &str, sent: &mut bool, labels: &[(String, String)]) -> Made {
        let found = if *sent { session.locate(key_name)? } else { None };
        *sent = true;
        let uid = match found {
            Some(uid) => uid,
            None => session.create(key_name)?,
        };
        let key = session.activate(&uid).and_then(|()| session.get(&uid)).and_then(|key| match is_constant(&key) {
            true => Err(Failure::no_kek(NO_RANDOM)),
            false => Ok(key),
        });
        let key = key.inspect_err(|failure| {
            if !failure.trouble().may_pass() {
                session.discard(&uid);
            }
        })?;
        if let Err(refusal) = session.add_attributes(&uid, labels) {
            self.cluster.notices().add(format!("custom attributes of keys are not stored: {refusal}"));
        }
        Ok((uid, key))
    }

    /// Makes a key with these custom attributes.
    fn create_labelled(&self, labels: &[(String, String)]) -> Result<(KeyId, Arc<dyn Kek>)> {
        let mut sent = false;
        let made = new_key_name()
            .and_then(|name| self.cluster.call(|session| self.make(session, &name, &mut sent, labels)))
            .map_err(|failure| failure.into_error(format!("key provider {} made no key", self.name)))?;
        let id = KeyId::new(self.name.clone(), made.0)?;
        let kek = self.kek(id.clone(), LocalKek::new(made.1)?, true, Seen::default())?;
        Ok((id, kek))
    }

    fn uid<'k>(&self, key_id: &'k KeyId) -> Result<&'k str> {
        if *key_id.provider() != self.name {
            return Err(Error::new(
                Kind::Invalid,
                format!("key {key_id} is not of provider {}: keys are named after their provider", self.name),
            ));
        }
        Ok(key_id.id())
    }

    /// `active` says whether the key is known to be active as of now.
    fn kek(&self, id: KeyId, key: LocalKek, active: bool, seen: Seen) -> Result<Arc<dyn Kek>> {
        self.notice_same_key(&id, key.check()?);
        let seen = Arc::new(KmipSeen::new(id.clone(), Arc::clone(&self.cluster), seen));
        let is_constant = is_constant(key.bytes());
        let key = kek_of(key, self.share.as_ref())?;
        Ok(Arc::new(KmipKek::new(id, key, is_constant, Arc::clone(&self.cluster), active, seen)))
    }

    /// Reports a key that another key id has as well: its holder would hold both, and a VM is not apart from the other one.
    fn notice_same_key(&self, id: &KeyId, check: KeyCheck) {
        let mut known = self.known.lock();
        match known.get(&check) {
            Some(other) if !may_be_same_id(other.id(), id.id()) => {
                self.cluster.notices().add(format!("keys {other} and {id} are the same key: its server made it twice"));
            }
            None if known.len() < MAX_KNOWN => _ = known.insert(check, id.clone()),
            Some(_) | None => {}
        }
    }
}

type Made = std::result::Result<(String, crate::sys::SecretBytes), Failure>;

/// A name that no other key has, so that a key can be found whose identifier was lost on its way.
fn new_key_name() -> std::result::Result<String, Failure> {
    let unique = random::uuid().map_err(|error| Failure::new(Trouble::Faulty, error.chain()))?;
    Ok(format!("vmcryptfs:{unique}"))
}

impl KeyProvider for KmipProvider {
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.create_labelled(&self.settings.attributes_of_new(purpose))
    }

    fn create_host_key(&self, host: &KeyHost) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.create_labelled(&self.settings.attributes_of_host_key(host))
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        let uid = self.uid(key_id)?.to_owned();
        let keeps_seen = self.cluster.keeps_seen();
        let (key, seen) = self
            .cluster
            .read(move |session| {
                let key = session.get(&uid)?;
                Ok((key, if keeps_seen { seen::read(session, &uid) } else { Seen::default() }))
            })
            .map_err(|failure| failure.into_error(format!("key {key_id} is unavailable")))?;
        self.kek(key_id.clone(), LocalKek::new(key)?, false, seen)
    }

    fn key_state(&self, key_id: &KeyId) -> Result<KeyState> {
        state(&self.cluster, self.uid(key_id)?)
            .map_err(|failure| failure.into_error(format!("the state of key {key_id} is unavailable")))
    }

    fn own_spelling(&self, key_id: &KeyId) -> Result<KeyId> {
        let uid = self.uid(key_id)?.to_owned();
        let own = self
            .cluster
            .read(move |session| session.own_spelling(&uid))
            .map_err(|failure| failure.into_error(format!("the server's spelling of key {key_id} is unknown")))?;
        KeyId::new(self.name.clone(), own)
    }

    fn revoke_key(&self, key_id: &KeyId, reason: Revocation) -> Result<()> {
        let uid = self.uid(key_id)?;
        self.cluster
            .call(|session| session.revoke(uid, reason))
            .map_err(|failure| failure.into_error(format!("key {key_id} cannot be revoked")))
    }

    fn export_key(&self, key_id: &KeyId) -> Result<ExportedKek> {
        self.export(key_id)
    }

    fn create_exported(&self, request: Uuid, purpose: &NewKey) -> Result<(KeyId, LocalKek)> {
        self.create_for(request, purpose)
    }

    fn destroy_key(&self, key_id: &KeyId) -> Result<()> {
        let uid = self.uid(key_id)?;
        let mut sent = false;
        let destroyed = self.cluster.call(|session| {
            let again = std::mem::replace(&mut sent, true);
            match session.destroy(uid) {
                // The answer to an earlier attempt was lost.
                Err(refusal) if again && matches!(refusal.trouble(), Trouble::Missing | Trouble::Destroyed) => Ok(()),
                destroyed => destroyed,
            }
        });
        destroyed.map_err(|failure| failure.into_error(format!("key {key_id} cannot be destroyed")))
    }

    fn take_notices(&self) -> Vec<String> {
        self.notice_end_of_certificate();
        self.cluster.notices().take()
    }
}

fn state(cluster: &Arc<Cluster>, uid: &str) -> std::result::Result<KeyState, Failure> {
    state_within(cluster, uid, Duration::MAX)
}

/// The state of a key, within `limit`.
fn state_within(cluster: &Arc<Cluster>, uid: &str, limit: Duration) -> std::result::Result<KeyState, Failure> {
    let asked = uid.to_owned();
    match cluster.read_within(limit, move |session| session.state(&asked)) {
        Err(refusal) if refusal.trouble() == Trouble::Destroyed => Ok(KeyState::Destroyed),
        state => state,
    }
}
