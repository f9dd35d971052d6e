//! Several runs of one verb, or of verbs that exclude each other, on one folder at the same time.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::host::Host;

const AT_MOST: Duration = Duration::from_secs(60);

fn clear_folder(host: &Host, name: &str) -> &'static str {
    let vm = host.path(name);
    fs::create_dir_all(vm).unwrap();
    for number in 0..12 {
        fs::write(format!("{vm}/{number}.txt"), format!("plaintext {number}")).unwrap();
    }
    for number in 0..3 {
        fs::write(format!("{vm}/{number}.raw"), [number; 5000]).unwrap();
    }
    vm
}

fn is_as_it_was(vm: &str) {
    for number in 0..12 {
        assert_eq!(fs::read_to_string(format!("{vm}/{number}.txt")).unwrap(), format!("plaintext {number}"));
    }
    for number in 0..3 {
        assert_eq!(fs::read(format!("{vm}/{number}.raw")).unwrap(), [number; 5000]);
    }
}

/// Starts all verbs at once, and waits for them.
fn at_once(host: &Host, verbs: &[&[&str]]) -> Vec<Output> {
    let start = |verb: &&[&str]| host.command(verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children: Vec<Child> = verbs.iter().map(start).collect();
    let begun = Instant::now();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(begun.elapsed() < AT_MOST, "{verbs:?} took {:?}", begun.elapsed());
    outputs
}

fn codes(outputs: &[Output]) -> Vec<i32> {
    outputs.iter().map(|output| output.status.code().unwrap()).collect()
}

fn said(outputs: &[Output]) -> String {
    outputs.iter().map(|output| String::from_utf8_lossy(&output.stderr)).collect()
}

fn headers(vm: &str) -> Vec<String> {
    let names = fs::read_dir(vm).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("vmcryptfs") && !name.contains("-members-")).collect()
}

#[test]
fn runs_of_encrypt_at_once_encrypt_a_folder_once() {
    let host = Host::new();
    for round in 0..6 {
        let vm = clear_folder(&host, &format!("vm{round}"));
        let verb: &[&str] = if round % 3 == 0 { &["encrypt", vm, "--disk", "1.raw"] } else { &["encrypt", vm] };
        let outputs = at_once(&host, &[verb, &["encrypt", vm], verb]);
        let codes = codes(&outputs);
        // 7: one that chose a disk was first, and left the others to runs that name them.
        let allowed = if round % 3 == 0 { &[0, 6, 7][..] } else { &[0, 6] };
        assert!(codes.iter().all(|code| allowed.contains(code)), "{codes:?} {}", said(&outputs));
        assert!(codes.contains(&0), "{}", said(&outputs));
        host.run(&["encrypt", vm, "--disk", "0.raw", "--disk", "1.raw", "--disk", "2.raw"]);
        assert_eq!(headers(vm), ["vmcryptfs.home"]);
        host.run(&["check", vm]);
        host.run(&["decrypt", vm, "--all"]);
        is_as_it_was(vm);
    }
}

#[test]
fn verbs_that_exclude_each_other_at_once_lose_nothing() {
    let host = Host::new();
    for round in 0..2 {
        let vm = clear_folder(&host, &format!("vm{round}"));
        host.run(&["encrypt", vm, "--disk", "0.raw"]);
        let clone = host.path(&format!("clone{round}"));
        let outputs = at_once(
            &host,
            &[
                &["decrypt", vm, "--all"],
                &["encrypt", vm],
                &["rekey", "--deep", vm],
                &["clone", vm, clone],
                &["clone", vm, clone],
            ],
        );
        // 2: not encrypted any more; 7: a disk that came, or a rekey that is not finished; 8: gone; 9: made by the other one.
        let allowed = [0, 2, 6, 7, 8, 9];
        assert!(codes(&outputs).iter().all(|code| allowed.contains(code)), "{:?} {}", codes(&outputs), said(&outputs));
        if Path::new(clone).exists() {
            host.run(&["decrypt", clone, "--all"]);
            is_as_it_was(clone);
        }
        if host.try_run(&["info", vm]).status.success() && !headers(vm).is_empty() {
            host.try_run(&["rekey", "--deep", vm]);
            host.run(&["decrypt", vm, "--all"]);
        }
        assert_eq!(headers(vm), Vec::<String>::new());
        is_as_it_was(vm);
    }
}

#[test]
fn folders_and_disks_made_at_once_are_made_once() {
    let host = Host::new();
    fs::create_dir(host.path("ds")).unwrap();
    host.run(&["create", host.path("ds/first")]);
    let mount = host.mount("ds", &[]);
    for round in 0..3 {
        let vm = host.path(&format!("ds/vm{round}"));
        let below = mount.path(&format!("vm{round}")).display().to_string();
        let mut mkdir = Command::new("mkdir").arg(&below).stderr(Stdio::null()).spawn().unwrap();
        let outputs = at_once(&host, &[&["create", vm], &["create", vm], &["encrypt", vm]]);
        let made = mkdir.wait().unwrap().success() || codes(&outputs).contains(&0);
        let allowed = [0, 6, 7, 8, 9];
        assert!(codes(&outputs).iter().all(|code| allowed.contains(code)), "{:?} {}", codes(&outputs), said(&outputs));
        // Two that make headers of different names may each give way to the other. Then none says that it made one.
        if !made {
            fs::create_dir_all(vm).unwrap();
            assert_eq!(headers(vm), Vec::<String>::new(), "{}", said(&outputs));
            host.run(&["encrypt", vm]);
        }
        assert_eq!(headers(vm), ["vmcryptfs.home"], "{}", said(&outputs));
        let disk: &[&str] = &["create-disk", &format!("{vm}/d.vmdk"), "--size", "1M"];
        let mut made = codes(&at_once(&host, &[disk, disk, disk]));
        made.sort_unstable();
        assert_eq!(made, [0, 9, 9]);
        host.run(&["check", vm]);
    }
    mount.unmount();
}

#[test]
fn two_headers_of_one_home_are_seen_by_every_verb() {
    let host = Host::with_vm();
    let vm = host.path("web01");
    fs::copy(format!("{vm}/vmcryptfs.home"), format!("{vm}/.vmcryptfs-encrypting")).unwrap();
    let mountpoint = host.path("at");
    fs::create_dir(mountpoint).unwrap();
    let (disk, saved) = (host.path("web01/root.raw"), host.path("home.header"));
    let verbs: [&[&str]; 13] = [
        &["rekey", vm],
        &["rekey", "--deep", vm],
        &["rekey", disk],
        &["adopt", vm],
        &["upgrade", vm],
        &["key", "add", "--all", vm],
        &["header", "repair", disk],
        &["header", "backup", vm, saved],
        &["check", vm],
        &["encrypt", vm],
        &["decrypt", vm, "--all"],
        &["mount", vm, mountpoint],
        &["create-disk", host.path("web01/b.raw"), "--size", "1M"],
    ];
    for verb in verbs {
        let output = host.try_run(verb);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(3), "{verb:?}: {said}");
        assert!(said.contains("headers of one home") && said.contains("docs/CLI.md"), "{verb:?}: {said}");
    }
}

#[test]
fn erase_and_header_repair_are_done_once() {
    let host = Host::with_vm();
    let (vm, disk) = (host.path("web01"), host.path("web01/root.raw"));
    let damaged = fs::File::options().write(true).open(disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, &[7; 100], 4000).unwrap();
    let repair: &[&str] = &["header", "repair", disk];
    let outputs = at_once(&host, &[repair, repair, repair]);
    assert!(codes(&outputs).iter().all(|code| [0, 6].contains(code)), "{}", said(&outputs));
    host.run(&["check", vm]);
    let erase: &[&str] = &["erase", "--yes", vm];
    let outputs = at_once(&host, &[erase, erase, erase]);
    assert!(codes(&outputs).iter().all(|code| [0, 6, 8].contains(code)), "{}", said(&outputs));
    host.refuses(&["erase", "--yes", vm], 8, "erased on ");
    host.run(&["check", vm]);
}
