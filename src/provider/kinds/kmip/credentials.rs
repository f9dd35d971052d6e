//! This host's certificate, its private key, and the certificates that servers are checked against: read from files, and
//! read again when these change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;

use super::certificate;
use super::notices::Notices;
use super::settings::Settings;
use super::trust::Required;
use crate::error::{Error, Kind, Result};
use crate::provider::tls_files;
use crate::text::Show;

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
            tls_files::refuse_content(name, path)?;
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
    let roots = tls_files::roots(ca)?;
    let chain = tls_files::certificates(cert)?;
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
        .with_client_auth_cert(chain, tls_files::private_key(key)?)
        .map_err(|error| tls_files::unusable(cert, key, &error))?;
    config.resumption = Resumption::disabled(); // each session is to be judged by the certificates of now
    Ok(Loaded { stamps, config: Arc::new(config), own })
}
