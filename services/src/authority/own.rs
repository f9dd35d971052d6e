//! The folder of an authority: its settings and its own keys. One process at a time has it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, version};
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::random;
use vmcryptfs::crypto::sign::{SEED_LEN, SigningKey};
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::sys::SecretBytes;
use vmcryptfs::text::Show;
use vmcryptfs_attest::AuthorityKey;
use vmcryptfs_attest::identity::EndorsementRules;
use zeroize::Zeroizing;

const MAX_FILE: u64 = 64 << 10;

/// The folder of the authority of a machine with this configuration: `/var/lib/vmcryptfs/authority`, or beside the configuration
/// where that is another one than root's usual one.
pub fn folder(config: &Path) -> PathBuf {
    vmcryptfs::cluster::host::folder(config).with_file_name("authority")
}

/// What an administrator may change in `settings.toml`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// UUID of the authority. It never changes.
    pub uuid: Uuid,
    /// The provider whose key is the top-level key.
    pub provider: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Addresses that hosts reach it at, which tokens carry.
    pub urls: Vec<String>,
    /// A user who may administer it, beside root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_user: Option<u32>,
}

/// An authority's folder, which no other process has.
pub struct Own {
    folder: PathBuf,
    _lock: File,
    /// The settings.
    pub settings: Settings,
    /// What checkpoints are signed with.
    pub log_key: SigningKey,
    tls_key: KeyPair,
}

/// A key that identifies an authority: SHA-256 of its public key (SubjectPublicKeyInfo).
pub type Pin = [u8; 32];

impl Own {
    /// Makes an authority: it is there once `before` has succeeded. What an attempt before has left is taken, or replaced.
    ///
    /// # Errors
    /// `Exists` when there is one, `Busy` when another process has the folder, those of `before`, `Io`.
    pub fn create(folder: &Path, settings: &Settings, before: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        private_file::create_folder(folder)?;
        let lock = lock(folder)?;
        if settings_path(folder).exists() {
            let found = format!("there is an authority in {} already", folder.shown());
            return Err(Error::new(Kind::Exists, found));
        }
        let failed = |error| Error::with_source(Kind::Io, "making the key of the authority", error);
        let tls_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        private_file::replace_and_wipe(&folder.join("tls.key"), &[&Zeroizing::new(tls_key.serialize_der())])?;
        let mut attestation_key = SecretBytes::zeroed(SEED_LEN);
        random::fill(&mut attestation_key)?;
        private_file::replace_and_wipe(&folder.join("attestation.key"), &[&attestation_key])?;
        let log_key = SigningKey::generate()?;
        private_file::replace_and_wipe(&folder.join("log.key"), &[log_key.seed()])?;
        let text = toml::to_string(settings)
            .map_err(|error| Error::with_source(Kind::Invalid, "settings that have no TOML form", error))?;
        let own = Self { folder: folder.to_path_buf(), _lock: lock, settings: settings.clone(), log_key, tls_key };
        before(&own)?;
        private_file::create(&settings_path(folder), &[text.as_bytes()])?;
        Ok(own)
    }

    /// Opens one.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Busy` when another process has it, `Corrupt`, `Invalid` for settings that are not understood,
    /// `Denied` when others can read or change a file, `Io`.
    pub fn open(folder: &Path) -> Result<Self> {
        let settings = settings_in(folder)?;
        let lock = lock(folder)?;
        let der = read(&folder.join("tls.key"))?;
        let damaged = |error| Error::with_source(Kind::Corrupt, "tls.key is not a private key of P-256", error);
        let pkcs8 = PrivatePkcs8KeyDer::from(der.as_slice());
        let tls_key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256).map_err(damaged)?;
        let seed = read(&folder.join("log.key"))?;
        if seed.len() != SEED_LEN {
            let found = format!("log.key has {} bytes, expected {SEED_LEN}", seed.len());
            return Err(Error::new(Kind::Corrupt, found));
        }
        let mut secret = SecretBytes::zeroed(SEED_LEN);
        secret.copy_from_slice(&seed);
        let log_key = SigningKey::new(secret)?;
        Ok(Self { folder: folder.to_path_buf(), _lock: lock, settings, log_key, tls_key })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What authenticates the records of hosts.
    ///
    /// # Errors
    /// `Corrupt`, `Denied` when others can read it, `Io`.
    pub fn attestation_key(&self) -> Result<AuthorityKey> {
        let bytes = read(&self.path("attestation.key"))?;
        let key = bytes.as_slice().try_into().map_err(|error| {
            let found = format!("attestation.key has {} bytes, expected {SEED_LEN}", bytes.len());
            Error::with_source(Kind::Corrupt, found, error)
        })?;
        Ok(AuthorityKey::new(key))
    }

    /// Which endorsement keys are accepted, as the folder says now: certificates in DER in `roots` and `issuers`, and fingerprints in
    /// `endorsement-keys`, one a line.
    ///
    /// # Errors
    /// `Invalid` for what is not understood, `Denied` when others can change a file, `Io`.
    pub fn endorsement_rules(&self) -> Result<EndorsementRules> {
        let mut rules = EndorsementRules::new();
        let wrong = |path: &Path, error: vmcryptfs_attest::Error| {
            Error::with_source(Kind::Invalid, format!("reading {}", path.shown()), error)
        };
        for (path, certificate) in files_in(&self.path("roots"))? {
            rules.add_root(&certificate).map_err(|error| wrong(&path, error))?;
        }
        for (_, certificate) in files_in(&self.path("issuers"))? {
            rules.add_intermediate(&certificate);
        }
        let path = self.path("endorsement-keys");
        let text = private_file::read_if_there(MAX_FILE, &path)?.unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines().map(str::trim) {
            let fingerprint = line.split_whitespace().next().filter(|word| !word.starts_with('#'));
            if let Some(fingerprint) = fingerprint {
                rules.add_listed(fingerprint.parse().map_err(|error| wrong(&path, error))?);
            }
        }
        Ok(rules)
    }

    /// Why no host can enrol, if that is so.
    pub fn trouble_with_endorsement(&self) -> Option<String> {
        let none = || {
            let (roots, listed) = (self.path("roots"), self.path("endorsement-keys"));
            let files =
                format!("certificates of TPM vendors into {}, or fingerprints into {}", roots.shown(), listed.shown());
            format!("no TPM is accepted, so no host can enrol: put {files}")
        };
        match self.endorsement_rules() {
            Ok(rules) => rules.is_empty().then(none),
            Err(error) => Some(error.chain()),
        }
    }

    /// What hosts pin.
    pub fn pin(&self) -> Pin {
        sha256(&self.tls_key.subject_public_key_info())
    }

    /// TLS 1.3 with the authority's key. Hosts pin that key and look at nothing else of the certificate, which is made at each start.
    ///
    /// # Errors
    /// `Invalid` when a name of the authority cannot be in a certificate.
    pub fn tls(&self) -> Result<Arc<ServerConfig>> {
        let certificate = CertificateParams::new(vec![self.settings.uuid.to_string()])
            .and_then(|parameters| parameters.self_signed(&self.tls_key))
            .map_err(|error| Error::with_source(Kind::Invalid, "making the authority's certificate", error))?;
        let certificate = CertificateDer::from(certificate.der().to_vec());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.tls_key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
            .map_err(|error| Error::with_source(Kind::Invalid, "setting up TLS", error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn settings_path(folder: &Path) -> PathBuf {
    folder.join("settings.toml")
}

/// The settings of the authority in a folder.
///
/// # Errors
/// `NotFound` when there is none, `Invalid`, `Denied` when others can change them, `Io`.
pub fn settings_in(folder: &Path) -> Result<Settings> {
    let path = settings_path(folder);
    let bytes = read(&path).map_err(|error| match error.kind() == Kind::NotFound {
        true => {
            let advice =
                "no authority was made here: `vmcryptfs-authority init PROVIDER --url https://NAME:6843` makes one";
            Error::with_source(Kind::NotFound, advice, error)
        }
        false => error,
    })?;
    let text = std::str::from_utf8(&bytes);
    let text =
        text.map_err(|error| Error::with_source(Kind::Invalid, format!("{} is not UTF-8", path.shown()), error))?;
    toml::from_str(text).map_err(|error| Error::with_source(Kind::Invalid, format!("reading {}", path.shown()), error))
}

/// The files of a folder; none where there is none.
fn files_in(folder: &Path) -> Result<Vec<(PathBuf, Zeroizing<Vec<u8>>)>> {
    let reading = || format!("reading {}", folder.shown());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(reading)?,
    };
    let read_one = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.context(reading)?.path();
        read(&path).map(|content| (path, content))
    };
    entries.map(read_one).collect()
}

/// A pin as text, in tokens and for people.
pub fn pin_text(pin: &Pin) -> String {
    BASE64URL_NOPAD.encode(pin)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    private_file::read_at_most(MAX_FILE, path, private_file::open(path)?)
}

fn lock(folder: &Path) -> Result<File> {
    let found = private_file::try_lock(&folder.join("authority")).context(|| "looking whether it runs".into())?;
    found.ok_or_else(|| {
        let found = format!("the authority in {} runs in another process", folder.shown());
        Error::new(Kind::Busy, found)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings {
            uuid: Uuid::from_u128(7),
            provider: "top".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            urls: vec!["https://authority.example:6843".into()],
            admin_user: None,
        }
    }

    #[test]
    fn an_authority_keeps_its_key_and_one_process_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("authority");
        assert_eq!(Own::open(&folder).map(drop).unwrap_err().kind(), Kind::NotFound);
        let own = Own::create(&folder, &settings(), |_| Ok(())).unwrap();
        let (pin, public) = (own.pin(), own.log_key.public());
        for opened in [Own::open(&folder), Own::create(&folder, &settings(), |_| Ok(()))] {
            assert_eq!(opened.map(drop).unwrap_err().kind(), Kind::Busy);
        }
        drop(own);
        assert_eq!(Own::create(&folder, &settings(), |_| Ok(())).map(drop).unwrap_err().kind(), Kind::Exists);
        let own = Own::open(&folder).unwrap();
        assert_eq!((own.pin(), own.log_key.public(), &own.settings), (pin, public, &settings()));
        own.tls().unwrap();
    }

    #[test]
    fn an_attempt_that_was_interrupted_is_no_authority_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::create(dir.path(), &settings(), |_| Ok(())).unwrap();
        std::fs::remove_file(own.path("settings.toml")).unwrap();
        drop(own);
        assert_eq!(Own::open(dir.path()).map(drop).unwrap_err().kind(), Kind::NotFound);
        let full = |_: &Own| Err(Error::new(Kind::Io, "no space for the log"));
        assert_eq!(Own::create(dir.path(), &settings(), full).map(drop).unwrap_err().kind(), Kind::Io);
        assert_eq!(Own::open(dir.path()).map(drop).unwrap_err().kind(), Kind::NotFound);
        drop(Own::create(dir.path(), &settings(), |_| Ok(())).unwrap());
        Own::open(dir.path()).unwrap();
    }

    #[test]
    fn what_keeps_hosts_from_enrolling_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::create(dir.path(), &settings(), |_| Ok(())).unwrap();
        let trouble = || own.trouble_with_endorsement().unwrap_or_default();
        assert!(trouble().contains("no TPM is accepted"), "{}", trouble());
        private_file::create(&own.path("endorsement-keys"), &[b"# none yet\n"]).unwrap();
        assert!(trouble().contains("no TPM is accepted"), "{}", trouble());
        private_file::replace(&own.path("endorsement-keys"), &[b"kvm1\n"]).unwrap();
        assert!(trouble().contains("\"kvm1\" is not a fingerprint"), "{}", trouble());
        private_file::replace(&own.path("endorsement-keys"), &["ab".repeat(32).as_bytes()]).unwrap();
        assert_eq!(own.trouble_with_endorsement(), None);
        std::fs::create_dir(own.path("roots")).unwrap();
        private_file::create(&own.path("roots/vendor.der"), &[b"no certificate"]).unwrap();
        assert!(trouble().contains("vendor.der"), "{}", trouble());
    }

    #[test]
    fn settings_with_a_word_that_is_not_known_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Own::create(dir.path(), &settings(), |_| Ok(())).unwrap());
        let path = dir.path().join("settings.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}listn = \"[::]:1\"\n")).unwrap();
        let error = Own::open(dir.path()).map(drop).unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.chain().contains("listn"), "{}", error.chain());
    }
}
