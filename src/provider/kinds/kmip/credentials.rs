//! This host's certificate, its private key, and the certificates that servers are checked against: read from files, and
//! read again when these change.

use std::fmt::Display;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};

use super::notices::Notices;
use super::settings::Settings;
use super::trust::Required;
use super::{certificate, pem};
use crate::error::{Error, Kind, Result};
use crate::provider::private_file;
use crate::sys::process::effective_uid;
use crate::text::Show;

/// Longest file of certificates that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Labels that a message names.
const MAX_LABELS: usize = 8;
/// Longest name of a file, in bytes.
const MAX_NAME: usize = 255;
/// Permission of others than the owner to write.
const WRITABLE: u32 = 0o022;

/// The files, and what was in them.
#[derive(Debug)]
pub(super) struct Credentials {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    required: Required,
    loaded: Mutex<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    stamps: [Stamp; 3],
    config: Arc<ClientConfig>,
    /// This host's certificate.
    own: Option<CertificateDer<'static>>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Credentials {
    /// Reads the files that the settings name.
    pub(super) fn load(settings: &Settings, config: &Path) -> Result<Self> {
        let file = |file: &Path| Settings::file(config, file);
        for (name, path) in [("ca", &settings.ca), ("cert", &settings.cert), ("key", &settings.key)] {
            refuse_content(name, path)?;
        }
        let (ca, cert, key) = (file(&settings.ca), file(&settings.cert), file(&settings.key));
        let required = settings.required();
        let loaded = Mutex::new(read_all(&ca, &cert, &key, &required)?);
        Ok(Self { ca, cert, key, required, loaded })
    }

    /// What a new connection is to use. When the files cannot be read any more, what was in them remains in use.
    pub(super) fn current(&self, notices: &Notices) -> Arc<ClientConfig> {
        let mut loaded = self.loaded.lock();
        if loaded.stamps != stamps([&self.ca, &self.cert, &self.key]) {
            match read_all(&self.ca, &self.cert, &self.key, &self.required) {
                Ok(fresh) => *loaded = fresh,
                Err(error) => notices.add(format!("changed certificates are not used: {}", error.chain())),
            }
        }
        Arc::clone(&loaded.config)
    }

    /// Whole days until this host's certificate ends, negative when it has ended; `None` when it is not understood.
    pub(super) fn days_left(&self) -> Option<i64> {
        self.loaded.lock().own.as_ref().and_then(|own| certificate::days_left(own))
    }

    /// Why this host's certificate cannot be accepted now, as far as its times tell.
    pub(super) fn out_of_time(&self) -> Option<String> {
        self.loaded.lock().own.as_ref().and_then(|own| certificate::out_of_time(own))
    }
}

/// A private key that was put where the name of its file belongs would be quoted by whatever looks for that file.
fn refuse_content(name: &str, path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let is_pem = bytes.windows(5).any(|word| word == b"-----") || bytes.contains(&b'\n');
    let is_too_long = bytes.split(|byte| *byte == b'/').any(|part| part.len() > MAX_NAME);
    // Also below the folder that a relative path was joined to; a DER structure begins with 0x30.
    let mut starts = (0..bytes.len()).filter(|at| *at == 0 || bytes[at - 1] == b'/');
    let is_data = |at: usize| BASE64.decode(&bytes[at..]).is_ok_and(|data| data.len() > 40 && data[0] == 0x30);
    if is_pem || is_too_long || starts.any(is_data) {
        return Err(Error::new(
            Kind::Invalid,
            format!("`{name}` looks like what belongs into a file, expected the name of that file"),
        ));
    }
    Ok(())
}

fn stamps(files: [&Path; 3]) -> [Stamp; 3] {
    files.map(|file| {
        fs::metadata(file).map_or_else(
            |_| Stamp::default(),
            |file| Stamp {
                device: file.dev(),
                inode: file.ino(),
                len: file.len(),
                modified: (file.mtime(), file.mtime_nsec()),
                changed: (file.ctime(), file.ctime_nsec()),
            },
        )
    })
}

fn read_all(ca: &Path, cert: &Path, key: &Path, required: &Required) -> Result<Loaded> {
    let stamps = stamps([ca, cert, key]);
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        let using = || format!("using certificate {}", ca.shown());
        roots.add(authority).map_err(|error| Error::with_source(Kind::Invalid, using(), error))?;
    }
    let chain = certificates(cert)?;
    if chain.iter().any(|certificate| certificate::is_version_1(certificate)) {
        let advice = "expected version 3 (with `openssl x509 -req`, -extfile gives it)";
        return Err(Error::new(
            Kind::Invalid,
            format!("certificate {} is of X.509 version 1, which TLS does not take, {advice}", cert.shown()),
        ));
    }
    let own = chain.first().cloned();
    let mut config = required
        .client(roots)
        .map_err(|error| Error::new(Kind::Invalid, format!("setting up TLS: {error}")))?
        .with_client_auth_cert(chain, private_key(key)?)
        .map_err(|error| unusable(cert, key, error))?;
    config.resumption = Resumption::disabled(); // each session is to be judged by the certificates of now
    Ok(Loaded { stamps, config: Arc::new(config), own })
}

/// What is wrong with a certificate and its key, by the error of the library that takes them. It quotes neither.
fn unusable(cert: &Path, key: &Path, error: rustls::Error) -> Error {
    let (cert, key) = (cert.shown(), key.shown());
    if let rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) = error {
        return Error::new(Kind::Invalid, format!("private key {key} is not the one of certificate {cert}"));
    }
    if let rustls::Error::General(_) = error {
        let expected = "expected RSA of 2048 bits or more, ECDSA of P-256, P-384 or P-521, or Ed25519";
        return Error::new(Kind::Invalid, format!("private key {key} is damaged or not of a known kind, {expected}"));
    }
    Error::with_source(Kind::Invalid, format!("using certificate {cert} with private key {key}"), error)
}

/// The certificates of a file that only this user or root can change: they decide which server is believed.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let (file, metadata) = private_file::open_regular(path)?;
    let mode = metadata.mode();
    if mode & WRITABLE != 0 {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "{0} has mode {1:04o}, so others than its owner can change it; to repair it: chmod go-w {0}",
                path.shown(),
                mode & 0o7777
            ),
        ));
    }
    private_file::check_owner(path, metadata.uid(), effective_uid())?;
    let text = private_file::read_at_most(MAX_FILE, path, file)?;
    let flawed = |flaw: &dyn Display| Error::new(Kind::Invalid, format!("certificates {}: {flaw}", path.shown()));
    let sections = pem::sections(&text).map_err(|flaw| flawed(&flaw))?;
    if let Some(trusted) = sections.iter().find(|section| section.is("TRUSTED CERTIFICATE")) {
        let label = trusted.label();
        return Err(flawed(&format_args!("a {label}, which is OpenSSL's own form: `openssl x509` gives a plain one")));
    }
    let own = sections.iter().filter(|section| section.is("CERTIFICATE") || section.is("X509 CERTIFICATE"));
    let found: std::result::Result<Vec<_>, _> = own.map(|section| section.data().map(CertificateDer::from)).collect();
    let found = found.map_err(|flaw| flawed(&flaw))?;
    match found.is_empty() {
        true => Err(flawed(&format_args!("it holds {}, expected a CERTIFICATE", labels(&sections)))),
        false => Ok(found),
    }
}

/// The first things that a file holds, for people.
fn labels(sections: &[pem::Section<'_>]) -> String {
    sections.iter().map(pem::Section::label).take(MAX_LABELS).collect::<Vec<_>>().join(", ")
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = private_file::read_at_most(MAX_FILE, path, private_file::open(path)?)?;
    let flawed = |kind: Kind, flaw: &dyn Display| Error::new(kind, format!("private key {}: {flaw}", path.shown()));
    let sections = pem::sections(&text).map_err(|flaw| flawed(Kind::Invalid, &flaw))?;
    let Some(key) = sections.iter().find(|section| section.label().ends_with("PRIVATE KEY")) else {
        let found = labels(&sections);
        return Err(flawed(Kind::Invalid, &format_args!("it holds {found}, expected a PRIVATE KEY")));
    };
    if key.is("ENCRYPTED PRIVATE KEY") || key.is_encrypted() {
        return Err(flawed(Kind::Unsupported, &"it is under a passphrase, expected one without (`openssl pkey`)"));
    }
    let data = || key.data().map_err(|flaw| flawed(Kind::Invalid, &flaw));
    match key.label() {
        "PRIVATE KEY" => Ok(PrivatePkcs8KeyDer::from(data()?).into()),
        "RSA PRIVATE KEY" => Ok(PrivatePkcs1KeyDer::from(data()?).into()),
        "EC PRIVATE KEY" => Ok(PrivateSec1KeyDer::from(data()?).into()),
        label => Err(flawed(
            Kind::Unsupported,
            &format_args!(
                "a {label} is not understood, expected PKCS #8 (`ssh-keygen -p -m PKCS8` converts OpenSSH's)"
            ),
        )),
    }
}
