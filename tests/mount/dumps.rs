//! Dumps as the kernel gives them: to a verb that reads them from its standard input.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::host::Host;

const QEMU: &str = "!usr!bin!qemu-system-x86_64";
const SECRET: &str = "VERY-SECRET-DATA-OF-A-GUEST";

/// What the kernel would run, up to the program's name.
fn words<'w>(limit: &'w str, program: &'w str) -> [&'w str; 10] {
    ["dump", "take", "4242", "64055", "994", "11", "1795980246", limit, "kvm1", program]
}

fn taking(host: &Host, args: &[&str], input: impl Into<Stdio>) -> Output {
    host.command(args).stdin(input).output().unwrap()
}

fn take(host: &Host, dump: &[u8]) -> Output {
    let path = PathBuf::from(host.path("input"));
    fs::write(&path, dump).unwrap();
    taking(host, &words("18446744073709551615", QEMU), File::open(path).unwrap())
}

fn list(host: &Host) -> Vec<Value> {
    serde_json::from_str(&host.run(&["dump", "list", "--json"])).unwrap()
}

fn file_of(dump: &Value) -> String {
    dump["file"].as_str().unwrap().to_owned()
}

fn set_up() -> Host {
    let host = Host::new();
    host.run(&["dump", "setup"]);
    host
}

/// With other limits.
fn limit(host: &Host, settings: &str) {
    let path = host.config();
    let text = fs::read_to_string(&path).unwrap();
    let before = text.split("[dumps]").next().unwrap();
    fs::write(path, format!("{before}[dumps]\n{settings}\n")).unwrap();
}

/// A real one of a process that has a secret in its memory, or where the kernel writes none here, what looks like one.
fn core(host: &Host) -> Vec<u8> {
    let folder = host.path("crash");
    fs::create_dir(folder).unwrap();
    let mut process = Command::new("sh");
    process.args(["-c", "ulimit -c unlimited; kill -SEGV $$"]).env("SECRET", SECRET).current_dir(folder);
    let status = process.stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSEGV));
    match fs::read_dir(folder).unwrap().next() {
        Some(core) => fs::read(core.unwrap().path()).unwrap(),
        None => [b"\x7fELF", vec![0; 300_000].as_slice(), SECRET.as_bytes(), &[7; 70_000]].concat(),
    }
}

#[test]
fn a_dump_is_encrypted_listed_decrypted_and_removed() {
    let host = set_up();
    let core = core(&host);
    let holds_secret = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(holds_secret(&core));
    let taken = take(&host, &core);
    assert!(taken.status.success() && taken.stdout.is_empty(), "{}", String::from_utf8_lossy(&taken.stderr));
    let dumps = list(&host);
    let [dump] = dumps.as_slice() else { panic!("{dumps:?}") };
    assert_eq!((&dump["pid"], &dump["uid"], &dump["signal"]), (&4242.into(), &64055.into(), &11.into()));
    assert_eq!((&dump["program"], &dump["finished"]), (&"/usr/bin/qemu-system-x86_64".into(), &true.into()));
    let file = file_of(dump);
    assert!(!holds_secret(&fs::read(&file).unwrap()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let name = PathBuf::from(&file).file_name().unwrap().to_str().unwrap().to_owned();
    let output = host.path("core.out");
    host.run(&["dump", "decrypt", &name, output]);
    assert!(fs::read(output).unwrap() == core);
    assert_eq!(fs::metadata(output).unwrap().permissions().mode() & 0o777, 0o600);
    host.refuses(&["dump", "decrypt", &name, output], 9, "exists already");

    // Other keys from now on: what is there opens as before.
    host.run(&["dump", "setup", "--renew"]);
    assert!(take(&host, b"another").status.success());
    for (dump, number) in list(&host).iter().zip(0..) {
        host.run(&["dump", "decrypt", &file_of(dump), host.path(&format!("core.{number}"))]);
    }
    host.run(&["dump", "remove", &name]);
    assert_eq!(list(&host).len(), 1);
    host.refuses(&["dump", "remove", host.path("core.out")], 2, "is not a dump in");

    let events = host.events();
    let vsphere = |operation: &str| {
        let found = events.iter().find(|event| event["operation"] == operation && event["result"] == "ok");
        found.unwrap_or_else(|| panic!("no {operation}"))["vsphere_event"].clone()
    };
    assert_eq!(vsphere("dump-setup"), "com.vmware.vc.host.Crypto.Enabled");
    assert_eq!(vsphere("dump-renew"), "com.vmware.vc.crypto.HostKeyUpdatedEvent");
    assert_eq!(vsphere("dump-take"), "esx.problem.application.core.dumped.encrypted");
    assert_eq!(vsphere("dump-decrypt"), "com.vmware.vc.crypto.Operation");
}

#[test]
fn a_provider_that_is_not_there_is_not_advised_for_the_host_key() {
    let host = set_up();
    host.refuses(&["dump", "setup", "--provider", "nope"], 8, "nope");
    host.run(&["provider", "add", "native", "other"]);
    host.refuses(&["dump", "setup", "--provider", "other"], 9, "--renew makes one of other");
}

#[test]
fn dumps_are_taken_without_the_key_that_opens_them() {
    let host = Host::new();
    assert_eq!(take(&host, b"core").status.code(), Some(4), "there is no dump key");
    host.run(&["dump", "setup"]);
    let (keys, away) = (host.config().with_file_name("keys"), host.path("keys"));
    fs::rename(&keys, away).unwrap();
    assert!(take(&host, b"core").status.success());
    let file = file_of(&list(&host)[0]);
    host.refuses(&["dump", "decrypt", &file, host.path("out")], 4, "");
    assert!(!PathBuf::from(host.path("out")).exists());
    fs::rename(away, keys).unwrap();
    host.run(&["dump", "decrypt", &file, host.path("out")]);
    assert_eq!(fs::read(host.path("out")).unwrap(), b"core");
    let status: Value = serde_json::from_str(&host.run(&["dump", "status", "--json"])).unwrap();
    assert_eq!((&status["state"], &status["host_key"]["provider"]), (&"incapable".into(), &"local".into()), "{status}");
}

#[test]
fn damaged_dumps_are_refused_and_what_comes_before_is_given_on_request() {
    let host = set_up();
    let core = [vec![1; 100_000], vec![0; 200_000], vec![2; 100_000]].concat();
    assert!(take(&host, &core).status.success());
    let whole = fs::read(file_of(&list(&host)[0])).unwrap();
    let (cut, out) = (host.path("cut.dump"), host.path("out"));
    for (damaged, words) in [
        (whole[..whole.len() - 1].to_vec(), "cut off"),
        ([&whole[..], b"x"].concat(), "bytes follow"),
        ([&whole[..whole.len() - 1], &[whole[whole.len() - 1] ^ 1]].concat(), "does not authenticate"),
        (b"VMCRYPTU".to_vec(), "a field of"),
        (Vec::new(), ""),
    ] {
        fs::write(cut, damaged).unwrap();
        let output = host.try_run(&["dump", "decrypt", cut, out]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words}: {said}");
        assert!(!PathBuf::from(out).exists(), "{words}");
    }
    fs::write(cut, &whole[..whole.len() - 1]).unwrap();
    assert!(!host.try_run(&["dump", "decrypt", "--partial", cut, out]).status.success());
    let kept = fs::read(out).unwrap();
    assert!(kept.len() >= 6 * 65536 - 65536 && core.starts_with(&kept), "{}", kept.len());
}

#[test]
fn endless_empty_and_unwanted_dumps_do_no_harm() {
    let host = set_up();
    limit(&host, "max-mib = 1\nkeep-free-mib = 0");
    for source in ["/dev/zero", "/dev/urandom"] {
        let taken = taking(&host, &words("18446744073709551615", QEMU), File::open(source).unwrap());
        assert!(taken.status.success(), "{source}: {}", String::from_utf8_lossy(&taken.stderr));
    }
    let dumps = list(&host);
    assert!(dumps.len() == 2 && dumps.iter().all(|dump| dump["bytes"].as_u64().unwrap() <= 1 << 20), "{dumps:?}");
    let (file, out) = (file_of(&dumps[0]), host.path("out"));
    let decrypted = host.try_run(&["dump", "decrypt", &file, out]);
    assert!(decrypted.status.success() && String::from_utf8_lossy(&decrypted.stderr).contains("had to stop"));
    assert!(!take(&host, b"").status.success());
    let taken = taking(&host, &words("0", QEMU), File::open("/dev/zero").unwrap());
    assert!(String::from_utf8_lossy(&taken.stderr).contains("limit on dumps is 0"));
    assert!(!host.events().iter().any(|event| event.to_string().contains("limit on dumps is 0")), "it is no event");
    assert!(taking(&host, &words("70000", "-rf\n!\u{e9}"), File::open("/dev/urandom").unwrap()).status.success());
    assert_eq!(list(&host).len(), 3, "nothing stays of dumps that were not kept");
}

#[test]
fn there_are_never_more_dumps_than_allowed_also_of_two_at_once() {
    let host = set_up();
    limit(&host, "max-files = 6\nkeep-free-mib = 0");
    let begin = |uid| {
        let mut of_user = words("18446744073709551615", QEMU);
        of_user[3] = uid;
        let mut child = host.command(&of_user);
        child.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<_> = ["1000", "1001", "1002"].iter().cycle().take(6).map(|uid| begin(uid)).collect();
    for child in &mut children {
        // One that was refused reads nothing.
        child.stdin.take().unwrap().write_all(&[5; 200_000]).ok();
    }
    let taken = children.into_iter().map(|mut child| child.wait().unwrap().success());
    let taken = taken.filter(|taken| *taken).count();
    assert_eq!((taken, list(&host).len()), (3, 3), "of all users half of them");
    let of_qemu = words("18446744073709551615", QEMU);
    let taken = (0..4).filter(|_| taking(&host, &of_qemu, File::open("/bin/sh").unwrap()).status.success()).count();
    assert_eq!((taken, list(&host).len()), (3, 6));
    for dump in list(&host) {
        host.run(&["dump", "decrypt", &file_of(&dump), host.path(dump["uuid"].as_str().unwrap())]);
    }
}

#[test]
fn a_dump_that_finds_no_space_ends_as_one_that_was_cut() {
    let host = set_up();
    let mut limited = Command::new("prlimit");
    limited.arg("--fsize=200000");
    let command = host.command(&words("18446744073709551615", QEMU));
    limited.arg(command.get_program()).args(command.get_args()).stdin(File::open("/dev/urandom").unwrap());
    let taken = limited.output().unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let (file, out) = (file_of(&list(&host)[0]), host.path("out"));
    host.run(&["dump", "decrypt", &file, out]);
    assert!((65536..200_000).contains(&fs::metadata(out).unwrap().len()));
    let events = host.events();
    let event = events.iter().find(|event| event["operation"] == "dump-take").unwrap();
    assert!(event["reason"].as_str().unwrap().contains("cut after"), "{event}");
}

#[test]
fn only_dumps_without_data_of_guests_go_to_another_program() {
    let host = set_up();
    let passed = host.path("passed");
    let on = ["/usr/bin/tee", "-a", passed];
    let limit = "18446744073709551615";
    for program in [QEMU, "!usr!bin!swtpm", "!usr!libexec!vmcryptfs-agent", "!usr!bin!qemu-img"] {
        let taken = taking(&host, &[&words(limit, program)[..], &on].concat(), File::open("/bin/sh").unwrap());
        assert!(taken.status.success() && !PathBuf::from(passed).exists(), "{program}");
    }
    let taken = taking(&host, &[&words(limit, "!usr!bin!vi")[..], &on].concat(), File::open("/bin/sh").unwrap());
    assert!(taken.status.success());
    assert!(fs::read(passed).unwrap() == fs::read("/bin/sh").unwrap());
    assert_eq!(list(&host).len(), 4);
    assert!(taking(&host, &words(limit, "!usr!bin!vi"), File::open("/bin/sh").unwrap()).status.success());
    assert_eq!(list(&host).len(), 5, "without another program all are taken");
}

#[test]
fn the_processes_of_mounts_leave_no_dump() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
    let of_dumps = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(of_dumps.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
    mount.unmount();
}
