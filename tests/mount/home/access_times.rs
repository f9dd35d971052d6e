//! Times of last access: they follow the reads of programs, as far as the backing file system keeps them, and nothing else.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::host::Host;
use crate::transport::wait_for_the_close_of;

fn long_ago() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

fn reset(path: &Path) {
    File::open(path).unwrap().set_times(FileTimes::new().set_accessed(long_ago())).unwrap();
}

/// By `stat` of the backing file, so that nothing is asked of the mount.
fn has_moved(beneath: &Path) -> bool {
    fs::metadata(beneath).unwrap().atime() != 1_000_000_000
}

#[test]
fn they_move_only_with_reads_and_not_where_a_program_says_so() {
    let host = Host::with_vm();
    let beneath = |name: &str| Path::new(host.path("web01")).join(name);
    let first = host.mount("web01", &[]);
    for name in ["home.txt", "root.raw"] {
        fs::write(first.path(name), vec![7; 10_000]).unwrap();
    }
    first.unmount();
    for name in ["home.txt", "root.raw"] {
        reset(&beneath(name));
    }
    let mount = host.mount("web01", &[]);
    let keeps_times = {
        let probe = host.path("probe");
        fs::write(probe, "x").unwrap();
        reset(Path::new(probe));
        fs::read(probe).unwrap();
        has_moved(Path::new(probe))
    };
    for name in ["home.txt", "root.raw"] {
        let path = mount.path(name);
        assert_eq!(fs::metadata(&path).unwrap().atime(), 1_000_000_000, "{name}");
        drop(File::open(&path).unwrap());
        File::options().write(true).open(&path).unwrap().write_all_at(b"written", 100).unwrap();
        fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap();
        assert!(!has_moved(&beneath(name)), "{name}: nothing was read");
        wait_for_the_close_of(&beneath(name), mount.pid());
        let quiet = File::options().read(true).custom_flags(OFlags::NOATIME.bits().cast_signed()).open(&path).unwrap();
        quiet.read_exact_at(&mut [0; 5000], 0).unwrap();
        drop(quiet);
        assert!(!has_moved(&beneath(name)), "{name}: O_NOATIME");
        fs::read(&path).unwrap();
        assert_eq!(has_moved(&beneath(name)), keeps_times, "{name}: read");
        assert_eq!(fs::metadata(&path).unwrap().atime() != 1_000_000_000, keeps_times, "{name}: seen in the mount");
    }
    mount.unmount();
}
