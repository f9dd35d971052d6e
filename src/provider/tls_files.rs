//! Files of TLS: a certificate with its private key, and the certificates that a server is checked against.

use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};
use serde::{Deserialize, Serialize};

use super::{pem, private_file};
use crate::error::{Error, Kind, Result};
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

/// What this host proves itself with to a server, and what the server must prove itself with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates that sign those of the servers.
    pub ca: PathBuf,
    /// This host's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// How a connection to a server begins, with what is in the files now.
    ///
    /// # Errors
    /// `NotFound`, `Denied` when others can change a file or read the key, `Invalid` when one is not what it should be, `Io`.
    pub fn client(&self) -> Result<ClientConfig> {
        for (name, path) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            refuse_content(name, path)?;
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots(&self.ca)?)
            .with_client_auth_cert(certificates(&self.cert)?, private_key(&self.key)?)
            .map_err(|error| unusable(&self.cert, &self.key, &error))?;
        config.resumption = Resumption::disabled(); // each session is to be judged by the certificates of now
        Ok(config)
    }
}

/// The certificates of a file, as those that sign a server's.
pub(super) fn roots(ca: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca)? {
        let using = || format!("using certificate {}", ca.shown());
        roots.add(authority).map_err(|error| Error::with_source(Kind::Invalid, using(), error))?;
    }
    Ok(roots)
}

/// A private key that was put where the name of its file belongs would be quoted by whatever looks for that file.
pub(super) fn refuse_content(name: &str, path: &Path) -> Result<()> {
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

/// What is wrong with a certificate and its key, by the error of the library that takes them. It quotes neither.
pub(super) fn unusable(cert: &Path, key: &Path, error: &rustls::Error) -> Error {
    let (cert, key) = (cert.shown(), key.shown());
    if let rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) = error {
        return Error::new(Kind::Invalid, format!("private key {key} is not the one of certificate {cert}"));
    }
    if let rustls::Error::General(_) = error {
        let expected = "expected RSA of 2048 bits or more, ECDSA of P-256, P-384 or P-521, or Ed25519";
        return Error::new(Kind::Invalid, format!("private key {key} is damaged or not of a known kind, {expected}"));
    }
    Error::with_source(Kind::Invalid, format!("using certificate {cert} with private key {key}"), error.clone())
}

/// The certificates of a file that only this user or root can change: they decide which server is believed.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
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
    if let Some(extended) = sections.iter().find(|section| section.is("TRUSTED CERTIFICATE")) {
        let label = extended.label();
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

/// The private key of a file that only this user or root can read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
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
