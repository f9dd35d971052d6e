//! Which file systems other hosts may use at the same time, and on which of them claims hold between hosts.

use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount_table;
use crate::text::Show;

/// Types of file systems, as the table of mounts names them, that several hosts use.
const SHARED: [&str; 10] =
    ["nfs", "nfs4", "ceph", "fuse.ceph", "fuse.ceph-fuse", "glusterfs", "fuse.glusterfs", "gfs2", "ocfs2", "beegfs"];

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
    /// That of the file system on which a folder lies. One that the table of mounts does not have is taken for this host's own.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(folder: &Path) -> Result<Self> {
        let found = mount_table::file_system_of(folder)
            .context(|| format!("looking for the file system of {}", folder.shown()))?;
        let beegfs_config = |path: &Path| std::fs::read_to_string(path).ok();
        Ok(found.map_or_else(Self::default, |(kind, options)| Self::by(&kind, &options, beegfs_config)))
    }

    fn by(kind: &str, options: &str, read: impl Fn(&Path) -> Option<String>) -> Self {
        Self { is_shared: SHARED.contains(&kind), trouble: trouble(kind, options, read) }
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

fn trouble(kind: &str, options: &str, read: impl Fn(&Path) -> Option<String>) -> Option<Trouble> {
    let value = |name: &str| {
        let words = options.split(',').filter_map(|word| word.split_once('='));
        words.filter(|(found, _)| *found == name).map(|(_, value)| value).next_back()
    };
    let has = |name: &str| options.split(',').any(|word| word == name);
    let forcible = |why: &str| Some(Trouble { why: why.to_owned(), may_be_forced: true });
    match kind {
        "nfs" | "nfs4"
            if has("nolock") || value("local_lock").is_some_and(|which| which != "none" && which != "flock") =>
        {
            forcible("this mount of NFS keeps locks on this host alone (nolock, local_lock), expected local_lock=none")
        }
        "nfs" if !value("vers").is_some_and(|version| version.starts_with('4')) => {
            forcible("NFS before version 4 has locks without a lease, which a restart loses; expected vers=4.2")
        }
        "ceph" if value("recover_session") == Some("clean") => Some(Trouble {
            why:
                "CephFS with recover_session=clean goes on without the locks that it lost, and another host may write \
                  the same disk by then; expected recover_session=no"
                    .into(),
            may_be_forced: false,
        }),
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

    fn refused(kind: &str, options: &str, config: &str, forced: bool) -> Option<String> {
        let found = Sharing::by(kind, options, |_| Some(config.to_owned()));
        found.refuse_lost_locks(forced).err().map(|error| error.chain())
    }

    #[test]
    fn file_systems_that_several_hosts_use_are_known() {
        let is_shared = |kind: &str| Sharing::by(kind, "rw", |_| None).is_shared;
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
        let said = refused("ceph", "rw,recover_session=clean", "", true).unwrap();
        assert!(said.contains("without the locks that it lost") && !said.contains("force"), "{said}");
    }
}
