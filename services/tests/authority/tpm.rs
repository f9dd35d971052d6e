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
}

impl Tpm {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("state")).unwrap();
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
        let tpm = Self { folder, process };
        tpm.load_endorsement_key();
        tpm.tool("readpublic", &["-c", "ek.ctx", "-o", "ek"]);
        let files = ["-u", "ak", "-r", "ak.private", "--creation-data", "data", "-t", "ticket", "-d", "hash"];
        let key = ["-C", "ek.ctx", "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", ATTESTATION];
        tpm.tool("create", &[&key[..], &files].concat());
        tpm.tool("load", &["-C", "ek.ctx", "-u", "ak", "-r", "ak.private", "-c", "ak.ctx"]);
        let key = ["-C", "ak.ctx", "-c", "ak.ctx", "-d", "hash", "-t", "ticket", "-g", "sha256"];
        let files = ["-o", "signature", "--attestation", "statement", "-f", "tss"];
        tpm.tool("certifycreation", &[&key[..], &files].concat());
        tpm
    }

    fn load_endorsement_key(&self) {
        let key = ["-C", "e", "-G", "ecc256:aes128cfb", "-g", "sha256", "-a", ENDORSEMENT, "-c", "ek.ctx"];
        self.tool("createprimary", &key);
    }

    /// What a reset of its machine does to it.
    pub(crate) fn reset(&self) {
        self.tool("shutdown", &["-c"]);
        let control = self.path("socket.ctrl");
        let reset = Command::new("swtpm_ioctl").arg("-i").arg("--unix").arg(control).output().unwrap();
        assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
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
            let output = command.output().unwrap();
            assert!(output.status.success(), "{verb} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
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
        let arguments = ["-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "answer"];
        self.tool("activatecredential", &arguments);
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

impl Drop for Tpm {
    fn drop(&mut self) {
        self.process.kill().ok(); // it may have ended
        self.process.wait().ok();
    }
}
