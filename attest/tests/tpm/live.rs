//! A TPM that runs in the test (swtpm), driven by tpm2-tools: what it activates, and what it quotes after a restart.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmcryptfs_attest::credential::{Credential, PendingEnrolment};
use vmcryptfs_attest::identity::{
    EndorsementEvidence, EndorsementKey, EndorsementRules, Fingerprint, Host as Named, Identity,
};
use vmcryptfs_attest::pcr::{HashAlgorithm, PcrSelection};
use vmcryptfs_attest::quote::{Binding, Expected, Steady, issue};
use vmcryptfs_attest::tpm::Public;

use crate::hosts::{GIVEN, Host, REQUEST, authority, hpke_key, id};

const PCRS: &str = "sha256:0,7,14";
/// Attributes of a key that may attest.
const ATTESTATION: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
/// Attributes of an endorsement key of the templates H-1 to H-7, which need no policy session.
const ENDORSEMENT: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt";

/// A TPM and a folder for what the tools write.
struct Tpm {
    folder: TempDir,
    process: Option<Child>,
}

impl Tpm {
    fn start() -> Self {
        let mut tpm = Self { folder: tempfile::tempdir().unwrap(), process: None };
        fs::create_dir(tpm.path("state")).unwrap();
        tpm.switch_on();
        tpm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn switch_on(&mut self) {
        let (socket, control) = (self.path("socket"), self.path("socket.ctrl"));
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        command.arg("--tpmstate").arg(format!("dir={}", self.path("state").display()));
        command.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", control.display()));
        self.process = Some(command.stderr(fs::File::create(self.path("log")).unwrap()).spawn().unwrap());
        let began = Instant::now();
        while UnixStream::connect(&control).is_err() || !socket.exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As a host that reboots does.
    fn restart(&mut self) {
        self.tool("shutdown", &["--clear"]);
        self.switch_off();
        self.switch_on();
    }

    fn switch_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        for name in ["socket", "socket.ctrl"] {
            let _ = fs::remove_file(self.path(name)); // it may have removed it
        }
    }

    fn tool(&self, verb: &str, arguments: &[&str]) {
        assert!(self.tries(verb, arguments), "tpm2_{verb} {arguments:?} failed: see its output");
    }

    /// Whether a tool succeeds. What it loaded does not stay: there is no resource manager.
    fn tries(&self, verb: &str, arguments: &[&str]) -> bool {
        let run = |verb: &str, arguments: &[&str]| {
            let mut command = Command::new(format!("tpm2_{verb}"));
            command.args(arguments).current_dir(self.folder.path());
            command.env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path("socket").display()));
            command.output().unwrap().status.success()
        };
        let done = run(verb, arguments);
        assert!(run("flushcontext", &["--transient-object"]));
        done
    }

    /// Makes an endorsement key, which an authority has on its list.
    fn endorsement(&self, context: &str, algorithm: &str, hash: &str) -> EndorsementKey {
        let arguments = ["-C", "e", "-G", algorithm, "-g", hash, "-a", ENDORSEMENT, "-c", context];
        self.tool("createprimary", &arguments);
        self.tool("readpublic", &["-c", context, "-o", "ek"]);
        let public = self.read("ek");
        let mut rules = EndorsementRules::new();
        rules.add_listed(Fingerprint::of(&Public::from_tpm2b(&public).unwrap()));
        rules.check(&EndorsementEvidence { public: &public, ..EndorsementEvidence::default() }, GIVEN).unwrap()
    }

    /// Makes an attestation key below an endorsement key.
    fn attestation(&self, parent: &str) -> Host {
        let files = ["-u", "ak", "-r", "ak.private", "--creation-data", "data", "-t", "ticket", "-d", "hash"];
        let key = ["-C", parent, "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", ATTESTATION];
        self.tool("create", &[&key[..], &files].concat());
        self.tool("load", &["-C", parent, "-u", "ak", "-r", "ak.private", "-c", "ak.ctx"]);
        self.certified("ak.ctx")
    }

    /// Makes an attestation key that has no parent but the hierarchy of endorsement keys.
    fn primary_attestation(&self) -> Host {
        let key = ["-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", ATTESTATION, "-c", "ak.ctx"];
        let files = ["--creation-data", "data", "-t", "ticket", "-d", "hash"];
        self.tool("createprimary", &[&key[..], &files].concat());
        self.tool("readpublic", &["-c", "ak.ctx", "-o", "ak"]);
        self.certified("ak.ctx")
    }

    /// Has `signer` certify the creation of the key that was made last.
    fn certified(&self, signer: &str) -> Host {
        let key = ["-C", signer, "-c", "ak.ctx", "-d", "hash", "-t", "ticket", "-g", "sha256"];
        self.tool(
            "certifycreation",
            &[&key[..], &["-o", "signature", "--attestation", "statement", "-f", "tss"]].concat(),
        );
        Host {
            id: id("one"),
            public: self.read("ak"),
            creation: [self.read("data"), self.read("statement"), self.read("signature")],
            challenge: Vec::new(),
            quote: Vec::new(),
            signature: Vec::new(),
            values: Vec::new(),
            hpke_key: hpke_key(),
            request: REQUEST.to_vec(),
        }
    }

    /// What TPM2_ActivateCredential returns, if it does.
    fn activates(&self, endorsement: &str, credential: &Credential) -> Option<Vec<u8>> {
        let header = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
        let file = [&header[..], &credential.id_object, &credential.encrypted_secret].concat();
        fs::write(self.path("credential"), file).unwrap();
        let arguments = ["-c", "ak.ctx", "-C", endorsement, "-i", "credential", "-o", "answer"];
        self.tries("activatecredential", &arguments).then(|| self.read("answer"))
    }

    /// A quote of these registers for a new challenge.
    fn quote_of(&self, host: &Host, pcrs: &str, selection: PcrSelection) -> Host {
        let challenge = issue(&authority(), host.id, selection, GIVEN).unwrap();
        let binding = Binding { hpke_key: &host.hpke_key, request: &host.request };
        let data = data_encoding::HEXLOWER.encode(binding.extra_data(&challenge, host.id).as_bytes());
        let arguments = ["-c", "ak.ctx", "-l", pcrs, "-g", "sha256", "-q", &data, "-m", "quote", "-s", "signature"];
        self.tool("quote", &[&arguments[..], &["-o", "values", "-F", "values"]].concat());
        let (quote, signature, values) = (self.read("quote"), self.read("signature"), self.read("values"));
        Host { challenge, quote, signature, values, ..host.clone() }
    }

    fn quote(&self, host: &Host) -> Host {
        self.quote_of(host, PCRS, PCRS.parse().unwrap())
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.switch_off();
    }
}

/// Begins the enrolment of this TPM's keys.
fn begin(host: &Host, endorsement: EndorsementKey) -> (PendingEnrolment, Credential) {
    PendingEnrolment::begin(Named::new(host.id, "node-1").unwrap(), endorsement, host.attestation_key().unwrap())
        .unwrap()
}

#[test]
fn a_tpm_enrols_by_each_kind_of_endorsement_key_and_attests_until_it_restarts() {
    let mut tpm = Tpm::start();
    let endorsement = tpm.endorsement("ek.ctx", "ecc256:aes128cfb", "sha256");
    let (pending, credential) = begin(&tpm.primary_attestation(), endorsement);
    assert!(pending.finish(&tpm.activates("ek.ctx", &credential).unwrap()).is_ok());

    let templates = [
        ("rsa2048:aes128cfb", "sha256"),
        ("rsa3072:aes256cfb", "sha384"),
        ("ecc256:aes128cfb", "sha256"),
        ("ecc384:aes256cfb", "sha384"),
    ];
    let mut last = None;
    for (algorithm, hash) in templates {
        let endorsement = tpm.endorsement("ek.ctx", algorithm, hash);
        let host = tpm.attestation("ek.ctx");
        let (pending, credential) = begin(&host, endorsement);
        let answer = tpm.activates("ek.ctx", &credential).unwrap_or_else(|| panic!("{algorithm}: not activated"));
        last = Some((host, Arc::new(pending.finish(&answer).unwrap())));
    }
    let (host, identity) = last.unwrap();
    let record = identity.to_record(&authority()).unwrap();
    let identity = Arc::new(Identity::from_record(&authority(), &record).unwrap());

    let quoted = tpm.quote(&host).quoted(&identity).unwrap();
    assert!(quoted.values().iter().all(|(_, value)| value.as_bytes() == [0; 32]));
    let boot = Steady::check(&quoted, Expected::Any).unwrap().boot();

    // Of no register, for a policy that asks for nothing but the TPM.
    let none = tpm.quote_of(&host, "sha256:none", PcrSelection::new(HashAlgorithm::Sha256, []));
    assert_eq!(none.quoted(&identity).unwrap().values().iter().count(), 0);

    // What is measured shows.
    tpm.tool("pcrextend", &[&format!("7:sha256={}", "11".repeat(32))]);
    let quoted = tpm.quote(&host).quoted(&identity).unwrap();
    assert!(quoted.values().iter().any(|(_, value)| value.as_bytes() != [0; 32]));
    assert_eq!(Steady::check(&quoted, Expected::Same(boot)).unwrap().boot(), boot);

    // The same key after a restart.
    tpm.restart();
    tpm.endorsement("ek.ctx", "ecc384:aes256cfb", "sha384");
    tpm.tool("load", &["-C", "ek.ctx", "-u", "ak", "-r", "ak.private", "-c", "ak.ctx"]);
    let quoted = tpm.quote(&host).quoted(&identity).unwrap();
    let error = Steady::check(&quoted, Expected::Same(boot)).unwrap_err();
    assert!(error.to_string().contains("was started again since it attested"), "{error}");
    assert!(Steady::check(&quoted, Expected::Any).is_ok());
}

#[test]
fn a_credential_of_another_endorsement_key_or_for_another_name_is_not_activated() {
    let tpm = Tpm::start();
    let endorsement = tpm.endorsement("ek.ctx", "ecc256:aes128cfb", "sha256");
    let other_endorsement = tpm.endorsement("other.ctx", "ecc384:aes256cfb", "sha384");
    let other = tpm.attestation("other.ctx");
    let host = tpm.attestation("ek.ctx");
    let (_, of_other_key) = begin(&host, other_endorsement);
    assert_eq!(tpm.activates("ek.ctx", &of_other_key), None);
    let (_, for_other_name) = begin(&other, endorsement.clone());
    assert_eq!(tpm.activates("ek.ctx", &for_other_name), None);
    let (_, credential) = begin(&host, endorsement.clone());
    let answer = tpm.activates("ek.ctx", &credential).unwrap();
    // An answer is of its own enrolment.
    let (again, _) = begin(&host, endorsement);
    assert!(again.finish(&answer).is_err());
}

#[test]
fn a_key_certifies_its_own_creation_not_that_of_another() {
    let tpm = Tpm::start();
    tpm.endorsement("ek.ctx", "ecc256:aes128cfb", "sha256");
    let host = tpm.attestation("ek.ctx");
    fs::rename(tpm.path("ak.ctx"), tpm.path("first.ctx")).unwrap();
    let other = tpm.attestation("ek.ctx");
    let by_first = tpm.certified("first.ctx");
    // The statement is the first key's, and is true: of the other key.
    let error = Host { creation: by_first.creation, ..host }.attestation_key().unwrap_err();
    assert!(error.to_string().contains("its statement is of the creation of"), "{error}");
    assert!(other.attestation_key().is_ok());
}
