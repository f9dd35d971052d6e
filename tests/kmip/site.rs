//! A host that is a client of key servers: its certificates and its configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmcryptfs::error::{Error, Result};
use vmcryptfs::key::{Kek, KeyId, ProviderName};
use vmcryptfs::provider::{KeyProvider, NewKey, Providers};

use crate::certificates::{Authority, Issued, Purpose};
use crate::testkit::datastore::write_config;

/// A folder with an authority, a certificate of the servers, and one of this host.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub(crate) ca: Authority,
    pub(crate) server: Issued,
    pub(crate) host: Issued,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new(&dir.path().join("ca"));
        let server = ca.issue("server", Purpose::Server);
        let host = ca.issue("host1", Purpose::Client);
        Self { dir, ca, server, host }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A configuration file with the provider `corp`: these servers, this certificate, and further lines.
    pub(crate) fn configure(&self, ports: &[u16], host: &Issued, more: &str) -> PathBuf {
        let servers: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        self.write_config(&format!(
            "[provider.corp]\nkind = \"kmip\"\nservers = [{}]\nca = {:?}\ncert = {:?}\nkey = {:?}\n{more}\n",
            servers.join(", "),
            self.ca.cert(),
            host.cert,
            host.key
        ))
    }

    pub(crate) fn write_config(&self, text: &str) -> PathBuf {
        let config = self.path("config.toml");
        write_config(&config, text);
        config
    }

    /// The provider `corp` of these servers.
    pub(crate) fn provider(&self, ports: &[u16], more: &str) -> Arc<dyn KeyProvider> {
        corp(&self.configure(ports, &self.host, more)).unwrap()
    }
}

pub(crate) fn corp(config: &Path) -> Result<Arc<dyn KeyProvider>> {
    Providers::load(config).unwrap().provider(&name())
}

pub(crate) fn name() -> ProviderName {
    ProviderName::new("corp").unwrap()
}

pub(crate) fn key_id(uid: &str) -> KeyId {
    KeyId::new(name(), uid).unwrap()
}

pub(crate) fn purpose() -> NewKey {
    NewKey { vm_name: "web01".into(), vm_uuid: uuid::Uuid::from_u128(0xabc) }
}

/// Makes `count` keys.
pub(crate) fn make(provider: &dyn KeyProvider, count: usize) -> Vec<(KeyId, Arc<dyn Kek>)> {
    (0..count).map(|_| provider.create_key(&purpose()).unwrap_or_else(|error| panic!("{}", error.chain()))).collect()
}

/// The error of what was expected to fail.
pub(crate) fn refused<T>(result: Result<T>) -> Error {
    result.err().expect("this must fail")
}
