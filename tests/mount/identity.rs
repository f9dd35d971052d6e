//! Which file is which: names, nodes, handles and inode numbers, however the kernel forgets and the backing folder changes.

use std::fs::{self, File};

use rustix::mount::{MountFlags, mount_remount};

use crate::host::{Host, Mount};

/// Makes the kernel forget all names of a mount that nothing uses, as it does when memory runs short.
fn shrink_caches(mount: &Mount<'_>) {
    mount_remount(mount.root(), MountFlags::NOSUID | MountFlags::NODEV, "").unwrap();
}

#[test]
fn a_file_stays_reachable_by_one_name_when_the_folder_of_another_is_forgotten() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for folder in ["first", "second"] {
        fs::create_dir(mount.path(folder)).unwrap();
    }
    for name in ["name.raw", "name.txt"] {
        let [first, second, third] =
            [format!("first/{name}"), format!("second/{name}"), name.to_owned()].map(|below| mount.path(&below));
        fs::write(&first, "content").unwrap();
        fs::hard_link(&first, &second).unwrap();
        let held = File::open(&second).unwrap();
        shrink_caches(&mount);
        assert_eq!(fs::read(&second).unwrap(), b"content");
        fs::hard_link(&second, &third).unwrap();
        drop(held);
    }
    mount.unmount();
}
