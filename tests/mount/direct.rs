//! Disks whose data go past the page cache of the backing files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::host::Host;
use crate::not_run::not_run;
use crate::page_cache;

const DIRECT: &[&str] = &["--backing-io", "direct"];
const DATA_OFFSET: u64 = 8 << 20;

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Whether the page cache has what lies at an offset; `None` on a file system that is nothing but cache.
fn is_cached(path: &str, offset: u64) -> Option<bool> {
    let file = open(Path::new(path));
    let is_memory = rustix::fs::fstatfs(&file).unwrap().f_type == libc::TMPFS_MAGIC;
    if is_memory {
        not_run("the file system beneath is nothing but page cache");
    }
    (!is_memory).then(|| page_cache::is_cached(&file, offset))
}

#[test]
fn ciphertext_is_cached_unless_it_goes_past_the_cache() {
    let host = Host::with_vm();
    for (options, cached) in [(&["--backing-io", "buffered"][..], true), (DIRECT, false)] {
        let mount = host.mount("web01", options);
        let disk = open(&mount.path("root.raw"));
        disk.write_all_at(&[1; 1 << 20], 0).unwrap();
        let mut data = vec![0; 1 << 20];
        disk.read_exact_at(&mut data, 0).unwrap();
        assert!(data.iter().all(|&byte| byte == 1));
        let found = is_cached(host.path("web01/root.raw"), DATA_OFFSET + 8192);
        assert!(found.is_none_or(|found| found == cached), "{options:?}: cached {found:?}");
        assert!(!host.log().contains("page cache"), "{}", host.log());
        // What is cached from before is dropped by writing past it, unless the system is just writing it back.
        disk.sync_all().unwrap();
        drop(disk);
        mount.unmount();
    }
}

/// Neighbours in one page, by requests that go past the cache and by others: no one's bytes are lost.
#[test]
fn writers_of_one_page_do_not_undo_each_other() {
    let host = Host::with_vm();
    let mount = host.mount("web01", DIRECT);
    let path = mount.path("root.raw");
    // Whole units, which may go past the cache, and the odd bytes between them, which cannot.
    let ranges = [(0, 512), (512, 512), (1024, 100), (1200, 700), (2048, 1024), (3072, 1000), (4096, 4096)];
    std::thread::scope(|scope| {
        for (offset, len) in ranges {
            let path = &path;
            scope.spawn(move || {
                let file = open(path);
                for round in 0..200_u8 {
                    let page = u64::from(round % 8) * 8192;
                    file.write_all_at(&vec![round; len], page + offset).unwrap();
                    let mut seen = vec![!round; len];
                    file.read_exact_at(&mut seen, page + offset).unwrap();
                    assert!(seen.iter().all(|&byte| byte == round), "round {round} at {offset}: {seen:?}");
                }
            });
        }
    });
    mount.unmount();
    // The last ones to be written are on the medium, too.
    let mount = host.mount("web01", &[]);
    let file = open(&mount.path("root.raw"));
    for round in 192..200_u8 {
        for (offset, len) in ranges {
            let mut seen = vec![0; len];
            file.read_exact_at(&mut seen, u64::from(round % 8) * 8192 + offset).unwrap();
            assert!(seen.iter().all(|&byte| byte == round), "round {round} at {offset}");
        }
    }
    drop(file);
    mount.unmount();
}

#[test]
fn a_disk_that_can_only_be_read_is_read_past_the_cache() {
    let host = Host::with_vm();
    let mount = host.mount("web01", DIRECT);
    open(&mount.path("root.raw")).write_all_at(&[3; 8192], 0).unwrap();
    mount.unmount();
    let mount = host.mount("web01", &["--backing-io", "direct", "-o", "ro"]);
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(mount.path("root.raw")).unwrap();
    let mut memory = vec![0; 3 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    file.read_exact_at(&mut memory[start..start + 4096], 4096).unwrap();
    assert!(memory[start..start + 4096].iter().all(|&byte| byte == 3));
    drop(file);
    mount.unmount();
    assert!(!host.log().contains("page cache"), "{}", host.log());
}

/// No error, but the way that there is.
#[test]
fn where_there_is_no_way_past_the_cache_the_log_says_so() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root mounts a ramfs");
        return;
    }
    let host = Host::with_vm();
    let memory = host.path("memory");
    fs::create_dir(memory).unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "ramfs", "none", memory]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        not_run("no ramfs can be mounted");
        return;
    }
    host.run(&["create", host.path("memory/vm")]);
    host.run(&["create-disk", host.path("memory/vm/root.raw"), "--size", "1M"]);
    let mount = host.mount("memory/vm", DIRECT);
    let file = open(&mount.path("root.raw"));
    file.write_all_at(&[5; 8192], 4096).unwrap();
    let mut seen = [0; 8192];
    file.read_exact_at(&mut seen, 4096).unwrap();
    drop(file);
    mount.unmount();
    let unmounted = std::process::Command::new("umount").arg(memory).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(seen, [5; 8192]);
    assert!(host.log().contains("page cache") && host.log().contains("O_DIRECT"), "{}", host.log());
}

#[test]
fn another_way_is_refused() {
    let host = Host::with_vm();
    let mountpoint = host.path("mnt");
    fs::create_dir(mountpoint).unwrap();
    let output = host.try_run(&["mount", "--backing-io", "cached", host.path("web01"), mountpoint]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("expected buffered or direct"), "{said}");
}
