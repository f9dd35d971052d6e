//! Which file systems other hosts may use at the same time, and on which of them claims hold between hosts.

use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount_table::{self, FileSystemMount};
use crate::text::Show;

/// Types of file systems, as the table of mounts names them, that several hosts use.
const SHARED: [&str; 10] =
    ["nfs", "nfs4", "ceph", "fuse.ceph", "fuse.ceph-fuse", "glusterfs", "fuse.glusterfs", "gfs2", "ocfs2", "beegfs"];

/// Set by an administrator: the kernel claims again what it lost, without a word.
const RECOVER_LOST_LOCKS: &str = "/sys/module/nfs/parameters/recover_lost_locks";

/// What a folder's file system is to other hosts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sharing {
    /// Whether other hosts may use it at the same time.
    pub is_shared: bool,
    /// Why claims would not hold there.
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Trouble {
    why: String,
    /// Whether an administrator may know better.
    may_be_forced: bool,
}

impl Sharing {
    /// That of the file system on which a folder lies, and of those that are mounted below it by now. One that the table of mounts
    /// does not have is taken for this host's own.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(folder: &Path) -> Result<Self> {
        let found = mount_table::file_systems_of(folder)
            .context(|| format!("looking for the file systems of {}", folder.shown()))?;
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        Ok(Self::of_all(&found, read))
    }

    /// Of several reasons the first that nobody can force counts.
    fn of_all(all: &[FileSystemMount], read: impl Fn(&Path) -> Option<String>) -> Self {
        let troubles = all.iter().filter_map(|one| {
            let Trouble { why, may_be_forced } = trouble(&one.kind, &one.options, &read)?;
            Some(Trouble { why: format!("{}: {why}", one.mountpoint.shown()), may_be_forced })
        });
        Self {
            is_shared: all.iter().any(|one| SHARED.contains(&one.kind.as_str())),
            trouble: troubles.min_by_key(|trouble| trouble.may_be_forced),
        }
    }

    /// Refuses a file system on which two hosts could write one disk. `forced`: the administrator knows that no other host does.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn refuse_lost_locks(&self, forced: bool) -> Result<()> {
        match &self.trouble {
            Some(trouble) if !(forced && trouble.may_be_forced) => {
                let unless = if trouble.may_be_forced { "; --force-locks mounts it all the same" } else { "" };
                Err(Error::new(Kind::Unsupported, format!("{}{unless}", trouble.why)))
            }
            _ => Ok(()),
        }
    }
}

fn trouble(kind: &str, options: &str, read: &impl Fn(&Path) -> Option<String>) -> Option<Trouble> {
    let value = |name: &str| {
        let words = options.split(',').filter_map(|word| word.split_once('='));
        words.filter(|(found, _)| *found == name).map(|(_, value)| value).next_back()
    };
    let has = |name: &str| options.split(',').any(|word| word == name);
    let forcible = |why: &str| Some(Trouble { why: why.to_owned(), may_be_forced: true });
    let refused = |why: &str| Some(Trouble { why: why.to_owned(), may_be_forced: false });
    match kind {
        "nfs" | "nfs4"
            if has("nolock") || value("local_lock").is_some_and(|which| which != "none" && which != "flock") =>
        {
            forcible("this mount of NFS keeps locks on this host alone (nolock, local_lock), expected local_lock=none")
        }
        "nfs" if !value("vers").is_some_and(|version| version.starts_with('4')) => {
            forcible("NFS before version 4 has locks without a lease, which a restart loses; expected vers=4.2")
        }
        "nfs" | "nfs4" if read(Path::new(RECOVER_LOST_LOCKS)).is_some_and(|set| set.trim() == "Y") => refused(
            "NFS with recover_lost_locks takes locks again that it lost, and another host may have written the same \
             disk by then; expected N in /sys/module/nfs/parameters/recover_lost_locks",
        ),
        "ceph" if value("recover_session") == Some("clean") => refused(
            "CephFS with recover_session=clean goes on without the locks that it lost, and another host may write the \
             same disk by then; expected recover_session=no",
        ),
        "gfs2" if value("lockproto") == Some("lock_nolock") || has("localflocks") => {
            forcible("this mount of GFS2 keeps locks on this host alone (lock_nolock, localflocks)")
        }
        "beegfs" => {
            let config =
                read(Path::new(value("cfgFile").unwrap_or("/etc/beegfs/beegfs-client.conf"))).unwrap_or_default();
            let mut settings = config.lines().filter_map(|line| line.split_once('='));
            let is_global =
                settings.any(|(name, value)| name.trim() == "tuneUseGlobalFileLocks" && value.trim() == "true");
            if is_global {
                None
            } else {
                forcible("BeeGFS keeps locks on this host alone unless tuneUseGlobalFileLocks = true")
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str, kind: &str, options: &str) -> FileSystemMount {
        FileSystemMount { mountpoint: at.into(), kind: kind.into(), options: options.into() }
    }

    fn refused(kind: &str, options: &str, config: &str, forced: bool) -> Option<String> {
        let found = Sharing::of_all(&[mount("/vms", kind, options)], |_| Some(config.to_owned()));
        found.refuse_lost_locks(forced).err().map(|error| error.chain())
    }

    #[test]
    fn file_systems_that_several_hosts_use_are_known() {
        let is_shared = |kind: &str| Sharing::of_all(&[mount("/vms", kind, "rw")], |_| None).is_shared;
        for kind in ["nfs", "nfs4", "ceph", "fuse.glusterfs", "gfs2", "ocfs2", "beegfs"] {
            assert!(is_shared(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "fuse.vmcryptfs", "nfsd", ""] {
            assert!(!is_shared(kind), "{kind}");
        }
        let here = tempfile::tempdir().unwrap();
        assert!(Sharing::of(here.path()).unwrap().refuse_lost_locks(false).is_ok());
    }

    #[test]
    fn file_systems_that_lose_locks_are_refused_with_a_reason() {
        for (kind, options, config) in [
            ("nfs4", "rw,relatime,vers=4.2,hard,local_lock=none,addr=10.0.0.1", ""),
            ("nfs", "rw,vers=4.1", ""),
            ("ceph", "rw,acl,recover_session=no", ""),
            ("gfs2", "rw,lockproto=lock_dlm", ""),
            ("ocfs2", "rw", ""),
            ("beegfs", "rw,cfgFile=/etc/beegfs/a.conf", "x = 1\n tuneUseGlobalFileLocks        = true\n"),
            ("ext4", "rw,nolock", ""),
        ] {
            assert_eq!(refused(kind, options, config, false), None, "{kind} {options}");
        }
        for (kind, options, config, word) in [
            ("nfs", "rw,vers=3,local_lock=none", "", "without a lease"),
            ("nfs", "rw", "", "without a lease"),
            ("nfs", "rw,vers=3,nolock", "", "this host alone"),
            ("nfs4", "rw,vers=4.2,local_lock=all", "", "this host alone"),
            ("nfs4", "rw,vers=4.2,local_lock=posix", "", "this host alone"),
            ("gfs2", "rw,lockproto=lock_nolock", "", "this host alone"),
            ("beegfs", "rw", "tuneUseGlobalFileLocks = false\n", "tuneUseGlobalFileLocks"),
            ("beegfs", "rw", "", "tuneUseGlobalFileLocks"),
        ] {
            let said = refused(kind, options, config, false).unwrap();
            assert!(said.contains(word) && said.ends_with("--force-locks mounts it all the same"), "{said}");
            assert_eq!(refused(kind, options, config, true), None, "{kind} {options}");
        }
        for (kind, options, config, word) in [
            ("ceph", "rw,recover_session=clean", "", "without the locks that it lost"),
            ("nfs4", "rw,vers=4.2", "Y\n", "recover_lost_locks"),
        ] {
            let said = refused(kind, options, config, true).unwrap();
            assert!(said.contains(word) && !said.contains("force"), "{said}");
        }
        assert_eq!(refused("nfs4", "rw,vers=4.2", "N\n", false), None);
    }

    #[test]
    fn a_file_system_below_the_folder_counts_as_well() {
        let local = mount("/", "ext4", "rw");
        let nfs3 = mount("/vms/a", "nfs", "rw,vers=3");
        let ceph = mount("/vms/b", "ceph", "rw,recover_session=clean");
        let of = |all: &[&FileSystemMount]| {
            Sharing::of_all(&all.iter().map(|one| (*one).clone()).collect::<Vec<_>>(), |_| None)
        };
        assert_eq!(of(&[&local]), Sharing::default());
        let said = |sharing: Sharing, forced| sharing.refuse_lost_locks(forced).unwrap_err().chain();
        assert!(of(&[&local, &nfs3]).is_shared);
        assert!(said(of(&[&local, &nfs3]), false).starts_with("/vms/a: NFS before version 4"));
        assert!(of(&[&local, &nfs3]).refuse_lost_locks(true).is_ok());
        for all in [[&local, &nfs3, &ceph], [&ceph, &nfs3, &local]] {
            assert!(said(of(&all), true).starts_with("/vms/b: CephFS"), "what cannot be forced counts first");
        }
    }
}
