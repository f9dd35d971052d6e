//! What the configuration file says of a KMIP provider.
//!
//! ```toml
//! [provider.corp]
//! kind = "kmip"
//! servers = ["kms1.example.com:5696", "kms2.example.com:5696"]   # members of one cluster
//! ca = "corp/ca.pem"                     # relative to the folder of this file, or absolute
//! cert = "corp/host.pem"
//! key = "corp/host.key"
//! connect-timeout-ms = 2000              # all that follows is optional
//! request-timeout-ms = 5000
//! total-timeout-ms = 30000
//! versions = ["1.4", "1.2"]
//! min-tls = "1.3"                        # else "1.2"
//! tls = "1.3-pq"                         # only TLS 1.3 with X25519MLKEM768
//! pin-sha256 = "4yiPp1fwKFFNt7lKzcZNGcqCJF6bmbCYmXlvNsjkXZE="  # of a server's public key; several as a list
//! kek-share = "corp/kek-share"           # half of each key; "tpm": `vmcryptfs provider seal`
//!
//! [provider.corp.attributes]             # others than ours; "" leaves one out
//! x-Vendor = "Example Corp"
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::message::Version;
use super::trust::{MinTls, Pin, Required, TlsForm, pins};
use crate::provider::{KeyHost, NewKey, private_file};
use crate::text;

/// The port that IANA gave to KMIP.
const PORT: u16 = 5696;
/// Members of a cluster.
const MAX_SERVERS: usize = 64;
/// Longest timeout: an hour.
const MAX_TIMEOUT_MS: u32 = 3_600_000;
/// Longest name or value of a custom attribute, in bytes.
const MAX_ATTRIBUTE: usize = 255;

/// The table of one provider.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The members of the key server's cluster.
    pub servers: Servers,
    /// File of the certificates that the servers' are checked against.
    pub ca: PathBuf,
    /// File of this host's certificate, and of those between it and the servers' root.
    pub cert: PathBuf,
    /// File of the private key of `cert`.
    pub key: PathBuf,
    /// How long a connection may take.
    #[serde(default = "default_connect", deserialize_with = "timeout", skip_serializing_if = "is_default_connect")]
    pub connect_timeout_ms: u32,
    /// How long TLS and the first request may take together, and each further request.
    #[serde(default = "default_request", deserialize_with = "timeout", skip_serializing_if = "is_default_request")]
    pub request_timeout_ms: u32,
    /// How long all members together may take.
    #[serde(default = "default_total", deserialize_with = "timeout", skip_serializing_if = "is_default_total")]
    pub total_timeout_ms: u32,
    /// The versions that may be spoken; all when it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<AllowedVersion>,
    /// The oldest version of TLS that may be spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tls: Option<MinTls>,
    /// The form of TLS that is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsForm>,
    /// Public keys of which each server must have one; any when it is empty.
    #[serde(default, deserialize_with = "pins", skip_serializing_if = "Vec::is_empty")]
    pub pin_sha256: Vec<Pin>,
    /// File of the share that completes its KEKs, or `tpm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kek_share: Option<PathBuf>,
    /// The TPM that it is sealed to, if not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<PathBuf>,
    /// Custom attributes of new keys that are not as we would set them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<AttributeName, String>,
}

/// A timeout. None at all would let every call fail, and days would look like a hang.
fn timeout<'d, D: Deserializer<'d>>(deserializer: D) -> Result<u32, D::Error> {
    let ms = u32::deserialize(deserializer)?;
    match (1..=MAX_TIMEOUT_MS).contains(&ms) {
        true => Ok(ms),
        false => Err(D::Error::custom(format!("a timeout of {ms} ms, expected 1 to {MAX_TIMEOUT_MS}"))),
    }
}

fn default_connect() -> u32 {
    2_000
}

fn default_request() -> u32 {
    5_000
}

fn default_total() -> u32 {
    30_000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_default_connect(ms: &u32) -> bool {
    *ms == default_connect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_default_request(ms: &u32) -> bool {
    *ms == default_request()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_default_total(ms: &u32) -> bool {
    *ms == default_total()
}

impl Settings {
    /// What a new provider gets.
    pub fn of(servers: Servers, ca: PathBuf, cert: PathBuf, key: PathBuf) -> Self {
        Self {
            servers,
            ca,
            cert,
            key,
            connect_timeout_ms: default_connect(),
            request_timeout_ms: default_request(),
            total_timeout_ms: default_total(),
            versions: Vec::new(),
            min_tls: None,
            tls: None,
            pin_sha256: Vec::new(),
            kek_share: None,
            tpm: None,
            attributes: BTreeMap::new(),
        }
    }

    /// One of the files, given the configuration file.
    pub(super) fn file(config: &Path, file: &Path) -> PathBuf {
        private_file::folder_of(config).join(file)
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        let time = |ms: u32| Duration::from_millis(ms.into());
        Timeouts {
            connect: time(self.connect_timeout_ms),
            request: time(self.request_timeout_ms),
            total: time(self.total_timeout_ms),
        }
    }

    /// What TLS with each server must be.
    pub(super) fn required(&self) -> Required {
        Required { min_tls: self.min_tls.unwrap_or_default(), form: self.tls, pins: self.pin_sha256.clone() }
    }

    /// The versions that may be spoken, the best first.
    pub(super) fn allowed_versions(&self) -> Vec<Version> {
        let allowed = |version: &Version| self.versions.is_empty() || self.versions.contains(&AllowedVersion(*version));
        Version::ALL.into_iter().filter(allowed).collect()
    }

    /// The custom attributes of a new key of a VM, with vSphere's names of them.
    pub(super) fn attributes_of_new(&self, purpose: &NewKey) -> Vec<(String, String)> {
        self.attributes_of("Virtual Machine", &purpose.vm_name, purpose.vm_uuid)
    }

    /// The same of a host key. Who sorts keys by vSphere's values of these names finds it.
    pub(super) fn attributes_of_host_key(&self, host: &KeyHost) -> Vec<(String, String)> {
        self.attributes_of("ESXi Server", &host.name, host.hardware)
    }

    fn attributes_of(&self, component: &str, name: &str, identifier: Uuid) -> Vec<(String, String)> {
        let ours =
            [("x-Vendor", "vmcryptfs"), ("x-Product", "vmcryptfs"), ("x-Product_Version", env!("CARGO_PKG_VERSION"))];
        let identifier = identifier.to_string();
        let of_key = [("x-Component", component), ("x-Name", name), ("x-Identifier", identifier.as_str())];
        let all = ours.into_iter().chain(of_key).map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.overridden(all.collect())
    }

    fn overridden(&self, ours: BTreeMap<String, String>) -> Vec<(String, String)> {
        let mut all = ours;
        all.extend(self.attributes.iter().map(|(name, value)| (name.0.clone(), value.clone())));
        let cut = |value: String| text::beginning(&value, MAX_ATTRIBUTE).to_owned();
        all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, cut(value))).collect()
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) request: Duration,
    pub(super) total: Duration,
}

/// One member or more, each of them once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Vec<Address>", into = "Vec<Address>")]
pub struct Servers(Vec<Address>);

impl Servers {
    /// The members.
    pub fn addresses(&self) -> &[Address] {
        &self.0
    }
}

impl TryFrom<Vec<Address>> for Servers {
    type Error = String;

    fn try_from(addresses: Vec<Address>) -> Result<Self, String> {
        if addresses.is_empty() {
            return Err("no server, expected at least one".into());
        }
        if addresses.len() > MAX_SERVERS {
            return Err(format!("{} servers, expected at most {MAX_SERVERS}", addresses.len()));
        }
        match addresses.iter().enumerate().find(|(index, address)| addresses[..*index].contains(address)) {
            Some((_, twice)) => Err(format!("server {twice} is there twice")),
            None => Ok(Self(addresses)),
        }
    }
}

impl From<Servers> for Vec<Address> {
    fn from(servers: Servers) -> Self {
        servers.0
    }
}

/// Name or IP address, and port, of a server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let flawed =
            || format!("server {text:?}, expected HOST:PORT, as in kms1.example.com:{PORT} or [2001:db8::1]:{PORT}");
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(flawed)?)),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), str::parse).ok().filter(|&port| port != 0).ok_or_else(flawed)?;
        if rustls::pki_types::ServerName::try_from(host).is_err() {
            return Err(flawed());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// A version of KMIP that may be spoken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowedVersion(Version);

impl TryFrom<String> for AllowedVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl From<AllowedVersion> for String {
    fn from(version: AllowedVersion) -> Self {
        version.0.to_string()
    }
}

/// Name of a custom attribute: KMIP reserves `x-` for those of clients.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String")]
pub struct AttributeName(String);

impl TryFrom<String> for AttributeName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = name.len() <= MAX_ATTRIBUTE && !name.contains(char::is_control);
        match name.strip_prefix("x-") {
            Some(rest) if plain && !rest.is_empty() => Ok(Self(name)),
            _ => Err(format!("custom attribute {name:?}, expected a name that begins with \"x-\"")),
        }
    }
}

#[cfg(test)]
mod tests;
