//! Trusted providers: an authority, an agent with a TPM, and mounts, each a process.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::process::Signal;
use serde_json::Value;
use vmcryptfs::provider::kinds::trusted::Pin;
use vmcryptfs_attest::event_log::EventLog;
use vmcryptfs_attest::identity::Fingerprint;
use vmcryptfs_attest::pcr::{HashAlgorithm, PcrIndex, PcrSelection};
use vmcryptfs_attest::policy::{ApprovedSet, Evidence};
use vmcryptfs_attest::tpm::Public;
use vmcryptfs_services::authority::enrolment::Token;
use vmcryptfs_services::tpm::{HostTpm, QUOTE_LIMIT};

use crate::agents::Agent;
use crate::emulator::Emulator;
use crate::host::{Host, Mount};
use crate::process::Authority;

const POLICY: &str = "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"kvm*\"]\n";

/// An authority with a policy, and a host with a TPM and an agent.
pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) host: Host,
    tpm: Emulator,
    pub(crate) agent: Option<Agent>,
}

impl Site {
    /// The authority accepts the host's TPM, and the host has not enrolled.
    fn new() -> Self {
        let (mut authority, tpm) = (Authority::made(&[]), Emulator::start());
        accept(&authority, &[&tpm]);
        authority.start();
        authority.keep_port();
        approve(&authority, "level = \"identity\"\n");
        let host = Host::configured(&settings(&tpm));
        let agent = Some(Agent::start(&host));
        Self { authority, host, tpm, agent }
    }

    /// The host has enrolled and was approved, and `ta` is its provider.
    pub(crate) fn enrolled() -> Self {
        let site = Self::new();
        site.enrol(&["--approve"]);
        site.add();
        site
    }

    fn token(&self, options: &[&str]) -> Token {
        let mut token = Token::parse(&self.authority.run(&[&["host", "token", "kvm1"], options].concat())).unwrap();
        token.urls = vec![self.authority.url()];
        token
    }

    fn enrol_by(&self, token: &Token) -> Output {
        let file = self.host.path("token");
        fs::write(file, &*token.to_text().unwrap()).unwrap();
        self.host.try_run(&["trust", "enrol", "--token-file", file, "--name", "kvm1", "--json"])
    }

    fn enrol(&self, options: &[&str]) -> Value {
        let output = self.enrol_by(&self.token(options));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Adds the provider `ta`. Before its member there is another address, where nothing listens.
    fn add(&self) {
        self.add_after("127.0.0.1:1");
    }

    fn add_after(&self, address: &str) {
        let (pin, urls) =
            (Pin(self.authority.pin()).to_string(), format!("https://{address},{}", self.authority.url()));
        self.host.run(&["provider", "add", "trusted", "ta", "--authority", &urls, "--pin", &pin]);
    }

    /// A VM whose disk begins with sevens.
    fn vm(&self) -> PathBuf {
        let vm = self.host.path("web01");
        self.host.run(&["create", vm]);
        self.host.run(&["create-disk", self.host.path("web01/root.raw"), "--size", "1M"]);
        let mount = self.host.mount("web01", &[]);
        fs::write(mount.path("root.raw"), [7; 4096]).unwrap();
        mount.unmount();
        vm.into()
    }

    fn configure(&self, tpm: &Emulator) {
        let config = fs::read_to_string(self.host.config()).unwrap();
        let others = config.split_once("[provider").unwrap().1;
        fs::write(self.host.config(), format!("{}\n[provider{others}", settings(tpm))).unwrap();
    }

    fn attested(&self) -> usize {
        self.host
            .events()
            .iter()
            .filter(|event| event["operation"] == "trust-attest" && event["result"] == "ok")
            .count()
    }
}

fn settings(tpm: &Emulator) -> String {
    let nowhere = "/nonexistent/log";
    format!(
        "[agent]\ntpm = {:?}\nfirmware-log = {nowhere:?}\nuserspace-log = {nowhere:?}\n",
        tpm.path().to_str().unwrap()
    )
}

fn accept(authority: &Authority, tpms: &[&Emulator]) {
    let fingerprint = |tpm: &&Emulator| {
        let key = HostTpm::open(&tpm.path(), QUOTE_LIMIT).unwrap().endorsement().unwrap();
        format!("{}\n", Fingerprint::of(&Public::from_tpm2b(&key.public).unwrap()))
    };
    authority.write("config/authority/endorsement-keys", &tpms.iter().map(fingerprint).collect::<String>());
}

fn approve(authority: &Authority, class: &str) {
    let file = authority.write("kvm.toml", &format!("{POLICY}{class}"));
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
}

/// The root disk of a mount, if it is unlocked; else why it is not.
fn root_disk(mount: &Mount<'_>) -> Result<(), String> {
    let status = mount.status();
    let disk = status["components"].as_array().unwrap().iter().find(|component| component["path"] == "root.raw");
    match disk.is_some_and(|disk| disk["unlocked"] == true) {
        true => {
            assert_eq!(fs::read(mount.path("root.raw")).unwrap()[..4096], [7; 4096]);
            Ok(())
        }
        false => Err(status.to_string()),
    }
}

#[test]
fn an_attested_host_makes_opens_and_changes_vms_and_opens_none_once_it_is_removed() {
    let site = Site::new();
    let host = &site.host;
    assert_eq!(host.run(&["trust", "status", "--json"]).trim(), "[]");
    host.refuses(&["trust", "attest"], 8, "has not enrolled");
    site.add();
    host.refuses(&["provider", "test", "ta"], 4, "has not enrolled at this provider's authority");
    let enrolled = site.enrol(&[]);
    assert_eq!(enrolled["enrolled"], "pending");
    let listed = site.authority.json(&["host", "list"]);
    assert_eq!(listed[0]["ek"], enrolled["endorsement_key"], "an administrator can compare them");
    host.refuses(&["provider", "test", "ta"], 4, "host kvm1 is pending, expected approved");
    site.authority.run(&["host", "approve", "kvm1"]);
    let attested: Value = serde_json::from_str(&host.run(&["trust", "attest", "--json"])).unwrap();
    let now = &attested[0]["attested"];
    assert_eq!((&now["level"], now["seconds"].as_u64().unwrap() > 500), (&"identity".into(), true), "{attested}");
    let tested = host.run(&["provider", "test", "ta"]);
    assert!(tested.contains("this host is kvm1") && tested.contains("level identity, policy kvm"), "{tested}");

    let vm = site.vm();
    let vm = vm.to_str().unwrap();
    host.run(&["check", vm]);
    host.run(&["provider", "add", "native", "local"]);
    host.run(&["rekey", vm, "--provider", "local"]);
    host.run(&["rekey", vm, "--provider", "ta"]);
    host.run(&["clone", vm, host.path("copy")]);
    host.run(&["decrypt", host.path("copy"), "--all"]);
    assert_eq!(fs::read(host.path("copy/root.raw")).unwrap()[..4096], [7; 4096]);
    assert_eq!(site.attested(), 1, "what was proved is used until it ends");

    let running = host.mount("web01", &[]);
    root_disk(&running).unwrap();
    site.authority.run(&["host", "remove", "kvm1"]);
    root_disk(&running).unwrap();
    fs::write(running.path("root.raw"), [7; 8192]).unwrap();
    running.unmount();
    let locked = host.mount("web01", &[]);
    let why = root_disk(&locked).unwrap_err();
    assert!(why.contains("host kvm1 is removed, expected approved"), "{why}");
    let ids: Vec<_> = host.events().into_iter().map(|event| event["vsphere_event"].clone()).collect();
    assert!(ids.contains(&"com.vmware.vc.vm.Crypto.VMLocked.TAKeyMissingOnHost".into()), "{ids:?}");
}

#[test]
fn what_runs_goes_on_without_agent_and_authority_and_what_is_locked_opens_when_they_are_back() {
    let mut site = Site::enrolled();
    site.vm();
    let running = site.host.mount("web01", &[]);
    site.agent.take().unwrap().end(Signal::KILL);
    site.authority.end(Signal::KILL);
    root_disk(&running).unwrap();
    running.unmount();
    let agent = Agent::start(&site.host);
    site.host.refuses(&["create", site.host.path("web02")], 4, "no trust authority answers at");
    let locked = site.host.mount("web01", &[]);
    let why = root_disk(&locked).unwrap_err();
    assert!(why.contains("no trust authority answers at"), "{why}");
    let ids: Vec<_> = site.host.events().into_iter().map(|event| event["vsphere_event"].clone()).collect();
    assert!(ids.contains(&"com.vmware.vc.vm.Crypto.VMLocked.TAKMSClusterUnavaliable".into()), "{ids:?}");
    site.authority.start();
    // It may have been asked a moment before it was there again.
    let began = Instant::now();
    while root_disk(&locked).is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", root_disk(&locked));
        site.host.try_run(&["unlock", locked.root().to_str().unwrap()]);
    }
    drop(agent);
}

#[test]
fn a_token_is_not_used_for_another_boot_or_after_the_authority_began_again_and_another_tpm_proves_nothing() {
    let mut site = Site::enrolled();
    site.vm();
    let opens = |site: &Site| {
        let checked = site.host.try_run(&["check", site.host.path("web01")]);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    };
    let before = site.attested();
    opens(&site);
    assert_eq!(site.attested(), before);
    site.tpm.restart(); // as after a loss of power: nobody has told it to shut down
    opens(&site);
    assert_eq!(site.attested(), before + 1, "its TPM began again");
    site.authority.end(Signal::TERM);
    site.authority.start();
    opens(&site);
    assert_eq!(site.attested(), before + 2, "the token was of another run");

    let other = Emulator::start();
    site.configure(&other);
    site.host.refuses(&["trust", "attest"], 4, "the trust authority gives this host no keys: the quote of kvm1");
    site.configure(&site.tpm);
    site.host.run(&["trust", "attest"]);
    let config = fs::read_to_string(site.host.config()).unwrap();
    fs::write(site.host.config(), config.replace(site.tpm.path().to_str().unwrap(), "/nonexistent/tpm")).unwrap();
    site.host.refuses(&["provider", "test", "ta"], 4, "this host has no TPM 2.0");
}

#[test]
fn another_authority_is_noticed_and_one_whose_log_went_back() {
    let mut site = Site::enrolled();
    site.host.run(&["provider", "test", "ta"]);
    let before = fs::read(site.authority.folder().join("log/entries")).unwrap();
    let checkpoint = fs::read(site.authority.folder().join("log/checkpoint")).unwrap();
    site.host.run(&["trust", "attest"]);
    site.host.run(&["trust", "attest"]);
    site.authority.end(Signal::TERM);
    fs::write(site.authority.folder().join("log/entries"), before).unwrap();
    fs::write(site.authority.folder().join("log/checkpoint"), checkpoint).unwrap();
    site.authority.start();
    site.host.refuses(&["provider", "test", "ta"], 4, "it was cut, or restored from a backup");

    // One that listens in its place has another key.
    let mut other = Authority::made(&[]);
    other.start();
    other.keep_port();
    let mut token = site.token(&["--approve"]);
    token.urls = vec![other.url()];
    let refused = site.enrol_by(&token);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(4) && said.contains("it has the key"), "{said}");
}

#[test]
fn a_member_that_hangs_or_is_not_the_authority_costs_a_moment() {
    let (site, mut other) = (Site::new(), Authority::made(&[]));
    site.enrol(&["--approve"]);
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap(); // connections are made, and nobody takes them
    other.start();
    other.keep_port();
    let others = format!("{},{}", hangs.local_addr().unwrap(), other.url());
    site.add_after(&others);
    let began = Instant::now();
    site.host.run(&["provider", "test", "ta"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_refusal_says_the_rule_and_the_register() {
    let site = Site::enrolled();
    let measured = format!("sha256:{}", "ab".repeat(32));
    approve(
        &site.authority,
        &format!(
            "level = \"secureboot\"\nsets = [\"one\"]\n[[set]]\nname = \"one\"\napproved = \"2026-11-30\"\n[[set.pcr]]\nnumber = 7\nmeasured = [\"{measured}\"]\n"
        ),
    );
    site.host.refuses(&["trust", "attest"], 4, "is securityfs mounted");
    let log = site.host.path("log-of-firmware");
    let content = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";
    let header = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20], &33_u32.to_le_bytes(), content].concat();
    fs::write(log, header).unwrap();
    let config = fs::read_to_string(site.host.config()).unwrap();
    fs::write(site.host.config(), config.replacen("/nonexistent/log", log, 1)).unwrap();
    site.host.refuses(&["trust", "attest"], 4, "PCR 7");
    let status = site.host.run(&["trust", "status"]);
    assert!(status.contains("TROUBLE") && status.contains("PCR 7"), "{status}");
}

#[test]
fn what_a_host_proposes_waits_until_it_is_approved_and_is_no_rule_before() {
    let site = Site::enrolled();
    let file = site.host.path("set.toml");
    let digest = "ab".repeat(32);
    let set =
        format!("name = \"next\"\napproved = \"2026-11-30\"\n[[pcr]]\nnumber = 7\nmeasured = [\"sha256:{digest}\"]\n");
    fs::write(file, &set).unwrap();
    let propose = || serde_json::from_str::<Value>(&site.host.run(&["trust", "propose", file, "--json"])).unwrap();
    let proposed = propose();
    assert_eq!(proposed[0]["is_approved"], false, "{proposed}");
    let id = proposed[0]["name"].as_str().unwrap();
    assert!(site.host.run(&["trust", "propose", file]).contains(&format!("policy approve --proposal {id}`")), "{id}");
    let policy = site.authority.json(&["policy", "list"]);
    assert_eq!(
        (policy["proposals"][0]["id"].as_str(), policy["sets"].as_array().unwrap().len()),
        (Some(id), 0),
        "{policy}"
    );
    site.host.run(&["trust", "attest"]);
    fs::write(site.host.path("other.toml"), format!("keep = true\n{set}")).unwrap();
    site.host.refuses(&["trust", "propose", site.host.path("other.toml")], 2, "keep");
    site.authority.run(&["policy", "approve", "--proposal", id, "--level", "secureboot"]);
    let policy = site.authority.json(&["policy", "list"]);
    assert_eq!(
        (policy["proposals"].as_array().unwrap().len(), &policy["sets"][0]["name"]),
        (0, &"next".into()),
        "{policy}"
    );
    site.host.refuses(&["trust", "propose", file], 4, "this host cannot attest"); // it has no log of that register
}

/// What firmware, loader and kernel of a guest have measured that was booted with Secure Boot.
const BOOT: &[u8] = include_bytes!("../../../attest/tests/vectors/boots/secure-boot.log");

/// Lets a TPM measure what is in that log.
fn measure_boot(tpm: &Emulator) {
    let log = EventLog::parse(BOOT).unwrap();
    let digests = log.events().iter().filter(|event| event.extends()).filter_map(|event| {
        let digest = HEXLOWER.encode(event.digest(HashAlgorithm::Sha256)?.as_bytes());
        Some(format!("{}:sha256={digest}", event.register()?.number()))
    });
    extend(tpm, &digests.collect::<Vec<_>>());
}

fn extend(tpm: &Emulator, measured: &[String]) {
    let mut command = Command::new("tpm2_pcrextend");
    command.args(measured).env("TPM2TOOLS_TCTI", format!("swtpm:path={}", tpm.path().display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A policy that demands what this TPM has measured.
fn measured_policy(tpm: &Emulator) -> String {
    let registers = [4, 7, 9, 11, 12].map(|number| PcrIndex::new(number).unwrap());
    let selection = PcrSelection::new(HashAlgorithm::Sha256, registers);
    let values = HostTpm::open(&tpm.path(), QUOTE_LIMIT).unwrap().values(selection).unwrap();
    let evidence = Evidence { host: "kvm1", firmware_log: BOOT, userspace_log: b"", values: &values };
    let set = ApprovedSet::of_host("first", "2026-11-30", &evidence.replay().unwrap(), selection).unwrap();
    let set = set.to_text().replace("[[pcr]]", "[[set.pcr]]");
    format!("{POLICY}level = \"measured\"\nsets = [\"first\"]\n[[set]]\n{set}")
}

#[test]
fn a_measured_host_gets_keys_until_it_measures_something_else() {
    let site = Site::enrolled();
    measure_boot(&site.tpm);
    let log = site.host.path("firmware.log");
    fs::write(log, BOOT).unwrap();
    let config = fs::read_to_string(site.host.config()).unwrap();
    fs::write(site.host.config(), config.replacen("/nonexistent/log", log, 1)).unwrap();
    let file = site.authority.write("measured.toml", &measured_policy(&site.tpm));
    site.authority.run(&["policy", "approve", file.to_str().unwrap()]);
    let attested: Value = serde_json::from_str(&site.host.run(&["trust", "attest", "--json"])).unwrap();
    assert_eq!(attested[0]["attested"]["level"], "measured", "{attested}");
    assert_eq!(attested[0]["attested"]["sets"], serde_json::json!(["first"]));
    site.vm();
    extend(&site.tpm, &[format!("4:sha256={}", "ab".repeat(32))]);
    site.host.refuses(&["trust", "attest"], 4, "PCR 4");
    let locked = site.host.mount("web01", &[]);
    let why = root_disk(&locked).unwrap_err();
    assert!(why.contains("PCR 4"), "{why}");
}
