//! This host's certificate, its private key, and the certificates that servers are checked against: read from files, and
//! read again when these change.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::super::private_file;
use super::expiry;
use super::notices::Notices;
use super::settings::Settings;
use crate::error::{Context, Error, Kind, Result};
use crate::text::Show;

/// Longest file of certificates that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Permission of others than the owner to write.
const WRITABLE: u32 = 0o022;

/// The files, and what was in them.
#[derive(Debug)]
pub(super) struct Credentials {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    stamps: [Stamp; 3],
    config: Arc<ClientConfig>,
    days_left: Option<i64>,
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
        let (ca, cert, key) = (file(&settings.ca), file(&settings.cert), file(&settings.key));
        let loaded = Mutex::new(read_all(&ca, &cert, &key)?);
        Ok(Self { ca, cert, key, loaded })
    }

    /// What a new connection is to use. When the files cannot be read any more, what was in them is used on.
    pub(super) fn current(&self, notices: &Notices) -> Arc<ClientConfig> {
        let mut loaded = self.loaded.lock();
        if loaded.stamps != stamps([&self.ca, &self.cert, &self.key]) {
            match read_all(&self.ca, &self.cert, &self.key) {
                Ok(fresh) => *loaded = fresh,
                Err(error) => notices.add(format!("changed certificates are not used: {}", error.chain())),
            }
        }
        Arc::clone(&loaded.config)
    }

    /// Whole days until this host's certificate ends, negative when it has ended; `None` when it is not understood.
    pub(super) fn days_left(&self) -> Option<i64> {
        self.loaded.lock().days_left
    }
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

fn read_all(ca: &Path, cert: &Path, key: &Path) -> Result<Loaded> {
    let stamps = stamps([ca, cert, key]);
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        roots.add(authority).map_err(|error| invalid("using", ca, error))?;
    }
    let chain = certificates(cert)?;
    let days_left = chain.first().and_then(|own| expiry::days_left(own));
    // TLS 1.2 and 1.3, with the one cryptographic library that Cargo.toml gives to rustls.
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private_key(key)?)
        .map_err(|error| {
            let message = format!("using certificate {} with private key {}", cert.shown(), key.shown());
            Error::with_source(Kind::Invalid, message, error)
        })?;
    config.resumption = Resumption::disabled(); // each session is to be judged by the certificates of now
    Ok(Loaded { stamps, config: Arc::new(config), days_left })
}

/// The certificates of a file that nobody but its owner can change: they decide which server is believed.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let file = File::open(path).context(|| format!("opening {}", path.shown()))?;
    let mode = file.metadata().context(|| format!("looking at {}", path.shown()))?.mode();
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
    let text = read(path, file)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| invalid("reading the certificates of", path, error))?;
    match found.is_empty() {
        true => Err(Error::new(Kind::Invalid, format!("no certificate in {}, expected PEM", path.shown()))),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read(path, private_file::open(path)?)?;
    if text.windows(9).any(|word| word == b"ENCRYPTED") {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the private key in {} is under a passphrase, expected one without", path.shown()),
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| invalid("reading the private key of", path, error))
}

fn read(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>> {
    let reading = || format!("reading {}", path.shown());
    let len = file.metadata().context(reading)?.len();
    if len > MAX_FILE {
        return Err(Error::new(Kind::Invalid, format!("{} has {len} bytes, at most {MAX_FILE}", path.shown())));
    }
    // As long as the file, so that it never grows: growing would leave a copy of a key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut text).context(reading)?;
    Ok(text)
}

fn invalid(doing: &str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(Kind::Invalid, format!("{doing} {}", path.shown()), error)
}
