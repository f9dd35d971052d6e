//! A TPM that runs in the test, and what a host would have it do.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const ATTESTATION: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
const ENDORSEMENT: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt";

/// A TPM, a folder for what the tools write, and in it an endorsement key and an attestation key.
pub(crate) struct Tpm {
    folder: TempDir,
    process: Child,
    /// Whether its endorsement key has a certificate.
    is_certified: bool,
}

/// Where the endorsement key and its certificate are that a vendor puts into a TPM (TCG EK Credential Profile).
const CERTIFIED: [&str; 2] = ["0x81010001", "0x1c00002"];

impl Tpm {
    /// One whose endorsement key nobody vouches for.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        let tpm = Self::switched_on(folder, false);
        tpm.load_endorsement_key();
        tpm.tool("readpublic", &["-c", "ek.ctx", "-o", "ek"]);
        let files = ["-u", "ak", "-r", "ak.private", "--creation-data", "data", "-t", "ticket", "-d", "hash"];
        let key = ["-C", "ek.ctx", "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", ATTESTATION];
        tpm.tool("create", &[&key[..], &files].concat());
        tpm.tool("load", &["-C", "ek.ctx", "-u", "ak", "-r", "ak.private", "-c", "ak.ctx"]);
        tpm.certify_creation();
        tpm
    }

    /// One with an endorsement key and a certificate, as a vendor makes it: by a certification authority of its own, whose certificates
    /// are returned in DER, the root first.
    pub(crate) fn start_certified() -> (Self, [Vec<u8>; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["state", "ca"] {
            fs::create_dir(path(name)).unwrap();
        }
        let ca = path("ca").display().to_string();
        let localca =
            format!("statedir={ca}\nsigningkey={ca}/sign.pem\nissuercert={ca}/issuer.pem\ncertserial={ca}/serial\n");
        fs::write(path("localca.conf"), localca).unwrap();
        let setup = format!(
            "create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config={}\n\
             create_certs_tool_options=/etc/swtpm-localca.options\nactive_pcr_banks=sha256\n",
            path("localca.conf").display()
        );
        fs::write(path("setup.conf"), setup).unwrap();
        let mut command = Command::new("swtpm_setup");
        command.args(["--tpm2", "--create-ek-cert", "--overwrite", "--tpmstate"]).arg(path("state"));
        succeeds(command.arg("--config").arg(path("setup.conf")));
        let certificates = ["swtpm-localca-rootca-cert.pem", "issuer.pem"].map(|name| {
            let mut command = Command::new("openssl");
            command.args(["x509", "-outform", "der", "-in"]).arg(path("ca").join(name)).arg("-out").arg(path("der"));
            succeeds(&mut command);
            fs::read(path("der")).unwrap()
        });
        let tpm = Self::switched_on(folder, true);
        let [key, certificate] = CERTIFIED;
        tpm.tool("readpublic", &["-c", key, "-o", "ek"]);
        tpm.tool("nvread", &["-C", "o", certificate, "-o", "ek.der"]);
        let key = ["-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", ATTESTATION, "-c", "ak.ctx"];
        let files = ["--creation-data", "data", "-t", "ticket", "-d", "hash"];
        tpm.tool("createprimary", &[&key[..], &files].concat());
        tpm.tool("readpublic", &["-c", "ak.ctx", "-o", "ak"]);
        tpm.certify_creation();
        (tpm, certificates)
    }

    /// The certificate of its endorsement key, if it has one.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        self.is_certified.then(|| self.read("ek.der"))
    }

    fn switched_on(folder: TempDir, is_certified: bool) -> Self {
        let path = |name: &str| folder.path().join(name);
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        command.arg("--tpmstate").arg(format!("dir={}", path("state").display()));
        command.arg("--server").arg(format!("type=unixio,path={}", path("socket").display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", path("socket.ctrl").display()));
        let process = command.stderr(fs::File::create(path("log")).unwrap()).spawn().unwrap();
        let began = Instant::now();
        while UnixStream::connect(path("socket.ctrl")).is_err() || !path("socket").exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { folder, process, is_certified }
    }

    /// Has the attestation key say how it was made.
    fn certify_creation(&self) {
        let key = ["-C", "ak.ctx", "-c", "ak.ctx", "-d", "hash", "-t", "ticket", "-g", "sha256"];
        let files = ["-o", "signature", "--attestation", "statement", "-f", "tss"];
        self.tool("certifycreation", &[&key[..], &files].concat());
    }

    fn load_endorsement_key(&self) {
        let key = ["-C", "e", "-G", "ecc256:aes128cfb", "-g", "sha256", "-a", ENDORSEMENT, "-c", "ek.ctx"];
        self.tool("createprimary", &key);
    }

    /// What a reset of its machine does to it.
    pub(crate) fn reset(&self) {
        self.tool("shutdown", &["-c"]);
        let control = self.path("socket.ctrl");
        succeeds(Command::new("swtpm_ioctl").arg("-i").arg("--unix").arg(control));
        self.tool("startup", &["-c"]);
        self.load_endorsement_key();
        self.tool("load", &["-C", "ek.ctx", "-u", "ak", "-r", "ak.private", "-c", "ak.ctx"]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn tool(&self, verb: &str, arguments: &[&str]) {
        let run = |verb: &str, arguments: &[&str]| {
            let mut command = Command::new(format!("tpm2_{verb}"));
            command.args(arguments).current_dir(self.folder.path());
            command.env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path("socket").display()));
            succeeds(&mut command);
        };
        run(verb, arguments);
        if verb != "shutdown" {
            run("flushcontext", &["--transient-object"]); // there is no resource manager
        }
    }

    /// What TPM2_ActivateCredential makes of a credential.
    pub(crate) fn activate(&self, id_object: &[u8], encrypted_secret: &[u8]) -> Vec<u8> {
        let header = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
        fs::write(self.path("credential"), [&header[..], id_object, encrypted_secret].concat()).unwrap();
        let files = ["-c", "ak.ctx", "-i", "credential", "-o", "answer"];
        if self.is_certified {
            // Its policy wants the secret of the hierarchy of endorsement keys.
            self.tool("startauthsession", &["--policy-session", "-S", "session"]);
            self.tool("policysecret", &["-S", "session", "-c", "e"]);
            self.tool("activatecredential", &[&files[..], &["-C", CERTIFIED[0], "-P", "session:session"]].concat());
        } else {
            self.tool("activatecredential", &[&files[..], &["-C", "ek.ctx"]].concat());
        }
        self.read("answer")
    }

    /// A quote with this extra data: statement, signature and values.
    pub(crate) fn quote(&self, pcrs: &str, extra_data: &[u8]) -> [Vec<u8>; 3] {
        let data = data_encoding::HEXLOWER.encode(extra_data);
        let arguments = ["-c", "ak.ctx", "-l", pcrs, "-g", "sha256", "-q", &data, "-m", "quote", "-s", "signature"];
        self.tool("quote", &[&arguments[..], &["-o", "values", "-F", "values"]].concat());
        [self.read("quote"), self.read("signature"), self.read("values")]
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.process.kill().ok(); // it may have ended
        self.process.wait().ok();
    }
}
