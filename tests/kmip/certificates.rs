//! Certificates as an administrator makes them: with openssl.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority with a folder of its own.
pub(crate) struct Authority {
    folder: PathBuf,
}

/// A certificate and its private key.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What a certificate is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Of 127.0.0.1 and localhost.
    Server,
    /// Of the server `elsewhere.example`.
    OtherServer,
    Client,
}

/// First and last moment of a certificate.
const VALID: [&str; 2] = ["20200101000000Z", "20991231235959Z"];
const EXPIRED: [&str; 2] = ["20200101000000Z", "20200201000000Z"];

impl Authority {
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let authority = Self { folder: folder.to_path_buf() };
        fs::write(authority.path("index.txt"), "").unwrap();
        let settings = "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n\
                        unique_subject=no\nrand_serial=yes\n[any]\ncommonName=supplied\n";
        fs::write(authority.path("ca.conf"), settings).unwrap();
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 3650 \
             -subj /CN=test-ca -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign",
        );
        authority
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for the common name `name`.
    pub(crate) fn issue(&self, name: &str, purpose: Purpose) -> Issued {
        self.issue_for(name, purpose, VALID)
    }

    /// One that has ended.
    pub(crate) fn issue_expired(&self, name: &str, purpose: Purpose) -> Issued {
        self.issue_for(name, purpose, EXPIRED)
    }

    /// Its own certificate.
    pub(crate) fn own(&self) -> Issued {
        Issued { cert: self.cert(), key: self.path("ca.key") }
    }

    /// One without extensions, for the key of `name`, as openssl makes it if nothing is said.
    pub(crate) fn issue_version_1(&self, name: &str) -> Issued {
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out v1.pem"));
        Issued { cert: self.path("v1.pem"), key: self.path(&format!("{name}.key")) }
    }

    fn issue_for(&self, name: &str, purpose: Purpose, [start, end]: [&str; 2]) -> Issued {
        let usage = match purpose {
            Purpose::Server => "serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1",
            Purpose::OtherServer => "serverAuth\nsubjectAltName=DNS:elsewhere.example",
            Purpose::Client => "clientAuth",
        };
        let extensions =
            format!("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage={usage}\n");
        fs::write(self.path(&format!("{name}.ext")), extensions).unwrap();
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr \
             -subj /CN={name}"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config ca.conf -cert ca.pem -keyfile ca.key -extfile {name}.ext \
             -startdate {start} -enddate {end} -in {name}.csr -out {name}.pem"
        ));
        let issued = Issued { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        fs::set_permissions(&issued.cert, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&issued.key, fs::Permissions::from_mode(0o600)).unwrap();
        issued
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.folder)
            .output()
            .unwrap_or_else(|error| panic!("openssl cannot be run, and these tests need it: {error}"));
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
