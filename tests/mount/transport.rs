//! The way that requests take is as robust as the mount above it. What it is, the machine decides: scripts/test runs these
//! tests once with each.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::host::Host;

const BLOCK: usize = 4096;

fn kernel_offers_rings() -> bool {
    fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|value| value.trim() == "Y")
}

fn open_direct(path: &Path) -> File {
    File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// Memory that O_DIRECT takes, in which `BLOCK` bytes begin at the second value.
fn aligned(byte: u8) -> (Vec<u8>, usize) {
    let bytes = vec![byte; 2 * BLOCK];
    let start = bytes.as_ptr().align_offset(BLOCK);
    (bytes, start)
}

/// Writes a block and reads it again.
fn exercise(file: &File, block: u64, byte: u8) {
    fill(file, block, byte);
    expect(file, block, byte);
}

fn fill(file: &File, block: u64, byte: u8) {
    let (bytes, start) = aligned(byte);
    file.write_all_at(&bytes[start..start + BLOCK], block * BLOCK as u64).unwrap();
}

fn expect(file: &File, block: u64, byte: u8) {
    let (mut read, start) = aligned(!byte);
    file.read_exact_at(&mut read[start..start + BLOCK], block * BLOCK as u64).unwrap();
    assert!(read[start..start + BLOCK].iter().all(|&found| found == byte), "block {block}");
}

fn cpus_of(mask: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect()
}

/// Keeps the calling thread on a CPU.
fn stay_on(cpu: usize) {
    let mut mask = CpuSet::new();
    mask.set(cpu);
    sched_setaffinity(None, &mask).unwrap();
}

pub(crate) fn wait_for_the_end_of(pid: i64) {
    let began = Instant::now();
    // One that nobody has waited for yet has no command line any more.
    while fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(began.elapsed() < Duration::from_secs(20), "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The kernel tells a mount of a close after the program that closed has continued. `beneath` is on the backing side.
pub(crate) fn wait_for_the_close_of(beneath: &Path, pid: i64) {
    let began = Instant::now();
    let beneath = fs::canonicalize(beneath).unwrap();
    let is_open = || {
        let mut links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
        links.any(|link| fs::read_link(link.path()).is_ok_and(|to| to == beneath))
    };
    while is_open() {
        assert!(began.elapsed() < Duration::from_secs(20), "{} stays open", beneath.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_transport_is_told_and_one_that_the_kernel_lacks_is_refused() {
    let host = Host::with_vm();
    host.mount("web01", &["-v", "--transport", "dev-fuse"]).unmount();
    assert!(host.log().contains("transport dev-fuse"), "{}", host.log());
    if kernel_offers_rings() {
        host.mount("web01", &["-v", "--transport", "io-uring"]).unmount();
        assert!(host.log().contains("transport io-uring"), "{}", host.log());
    } else {
        let at = host.path("not-mounted");
        fs::create_dir(at).unwrap();
        let output = host.try_run(&["mount", "--transport", "io-uring", host.path("web01"), at]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("enable_uring"), "{said}");
        assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(at), "something stays mounted");
        host.mount("web01", &["-v"]).unmount();
        assert!(host.log().contains("transport dev-fuse, not io-uring"), "{}", host.log());
    }
}

/// `umount -f` breaks the connection under all its users: they get errors, and the process ends without being asked.
#[test]
fn a_connection_that_is_aborted_ends_its_process_and_nothing_is_lost() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let pid = mount.pid();
    let file = open_direct(&mount.path("root.raw"));
    exercise(&file, 7, 0x5a);
    file.sync_all().unwrap();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let (mut bytes, start) = aligned(0);
            (0_u64..)
                .find_map(|n| file.read_exact_at(&mut bytes[start..][..BLOCK], n % 64 * BLOCK as u64).err())
                .unwrap()
        });
        std::thread::sleep(Duration::from_millis(100));
        // It is in use, so it stays mounted; but nobody serves it any more.
        let _ = Command::new("umount").arg("-f").arg(mount.root()).output().unwrap();
        let error = busy.join().unwrap();
        assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO)), "{error}");
    });
    wait_for_the_end_of(pid);
    drop(file);
    drop(mount);
    let mount = host.mount("web01", &[]);
    let (mut read, start) = aligned(0);
    open_direct(&mount.path("root.raw")).read_exact_at(&mut read[start..start + BLOCK], 7 * BLOCK as u64).unwrap();
    assert!(read[start..start + BLOCK].iter().all(|&found| found == 0x5a), "what was synced is there");
    mount.unmount();
}

/// Fewer threads than the kernel has queues: requests come from each CPU, and the process may use one.
#[test]
fn a_process_that_is_kept_on_one_cpu_serves_requests_of_all() {
    let host = Host::with_vm();
    let usable = sched_getaffinity(None).unwrap();
    let cpus = cpus_of(&usable);
    // What is started inherits it.
    stay_on(cpus[0]);
    let mount = host.mount("web01", &[]);
    sched_setaffinity(None, &usable).unwrap();
    std::thread::scope(|scope| {
        for &cpu in &cpus {
            let path = mount.path("root.raw");
            scope.spawn(move || {
                stay_on(cpu);
                let file = open_direct(&path);
                for block in 0..200 {
                    exercise(&file, cpu as u64 * 200 + block, u8::try_from(block).unwrap());
                }
            });
        }
    });
    mount.unmount();
}

/// Which thread serves clients changes as long as they ask in turns from different CPUs, and changes back when many ask at once.
#[test]
fn clients_on_several_cpus_find_what_they_wrote() {
    const BLOCKS: u64 = 64;
    let host = Host::with_vm();
    let mut cpus = cpus_of(&sched_getaffinity(None).unwrap());
    cpus.truncate(2);
    let mount = host.mount("web01", &[]);
    let file = open_direct(&mount.path("root.raw"));
    let in_turns = |round: u8| {
        let turn = AtomicUsize::new(0);
        let client = |number: usize| {
            stay_on(cpus[number]);
            for n in 0..100 {
                while turn.load(Ordering::Acquire) % cpus.len() != number {
                    std::hint::spin_loop();
                }
                let began = Instant::now();
                fill(&file, number as u64 * BLOCKS + n % BLOCKS, round);
                // Long enough for it to be one client that moves.
                while began.elapsed() < Duration::from_micros(40) {}
                turn.fetch_add(1, Ordering::Release);
            }
            (0..BLOCKS).for_each(|n| expect(&file, number as u64 * BLOCKS + n, round));
        };
        std::thread::scope(|scope| (0..cpus.len()).for_each(|number| drop(scope.spawn(move || client(number)))));
    };
    let at_once = |round: u8| {
        let client = |number: u64| (0..50).for_each(|n| exercise(&file, (2 + number) * BLOCKS + n % BLOCKS, round));
        std::thread::scope(|scope| (0..8).for_each(|number| drop(scope.spawn(move || client(number)))));
    };
    for round in 0..10 {
        in_turns(round);
        at_once(round ^ 0xff);
    }
    drop(file);
    mount.unmount();
}

/// A thread that looks for requests instead of sleeping stops looking when none come.
#[test]
fn a_mount_that_nobody_asks_takes_no_cpu_time() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let stat = format!("/proc/{}/stat", mount.pid());
    // User and system time, in hundredths of a second: the 14th and 15th field; the 2nd is in brackets.
    let used = || -> u64 {
        let line = fs::read_to_string(&stat).unwrap();
        let fields = line.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let file = open_direct(&mount.path("root.raw"));
    for block in 0..2000 {
        exercise(&file, block, 1);
    }
    assert!(used() > 0, "the times are not those of the mount");
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    let idle = used() - before;
    assert!(idle <= 5, "{idle} hundredths of a second in a second without requests");
    drop(file);
    mount.unmount();
}

/// Interrupts, forgotten names and replies to nobody.
#[test]
fn readers_that_are_killed_leave_the_rest_alone() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("root.raw");
    fs::write(mount.path("notes.txt"), vec![b'x'; 1 << 20]).unwrap();
    for round in 0..30 {
        let mut readers: Vec<_> = ["root.raw", "notes.txt", "root.raw"]
            .iter()
            .map(|name| {
                let input = format!("if={}", mount.path(name).display());
                Command::new("dd").args([&input, "of=/dev/null", "bs=1M", "status=none"]).spawn().unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(2 + round % 11));
        for reader in &mut readers {
            reader.kill().unwrap();
            reader.wait().unwrap();
        }
        exercise(&open_direct(&path), round, u8::try_from(round).unwrap());
    }
    mount.unmount();
}

#[test]
fn one_mount_after_the_other_leaves_nothing_behind() {
    let host = Host::with_vm();
    for round in 0..25 {
        let mount = host.mount("web01", &[]);
        let pid = mount.pid();
        exercise(&open_direct(&mount.path("root.raw")), round, u8::try_from(round).unwrap());
        mount.unmount();
        wait_for_the_end_of(pid);
    }
}
