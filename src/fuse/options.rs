//! Words of `-o`: those of mount(8) and fstab(5). Of contradicting ones the last one counts.

use fuser::SessionACL;
use rustix::mount::MountFlags;

use crate::error::{Error, Kind, Result};
use crate::fs::Durability;

/// Words that set flags of the mount, and words that clear them.
const FLAGS: [(&str, MountFlags, MountFlags); 21] = [
    ("ro", MountFlags::RDONLY, NONE),
    ("rw", NONE, MountFlags::RDONLY),
    ("noexec", MountFlags::NOEXEC, NONE),
    ("exec", NONE, MountFlags::NOEXEC),
    ("sync", MountFlags::SYNCHRONOUS, NONE),
    ("async", NONE, MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC, NONE),
    ("noatime", MountFlags::NOATIME, RELATIVE),
    ("atime", NONE, MountFlags::NOATIME),
    ("relatime", MountFlags::RELATIME, MountFlags::NOATIME.union(MountFlags::STRICTATIME)),
    ("norelatime", NONE, MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME, MountFlags::NOATIME.union(MountFlags::RELATIME)),
    ("nostrictatime", NONE, MountFlags::STRICTATIME),
    ("nodiratime", MountFlags::NODIRATIME, NONE),
    ("diratime", NONE, MountFlags::NODIRATIME),
    ("lazytime", MountFlags::LAZYTIME, NONE),
    ("nolazytime", NONE, MountFlags::LAZYTIME),
    ("silent", MountFlags::SILENT, NONE),
    ("loud", NONE, MountFlags::SILENT),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, NONE),
    ("symfollow", NONE, MountFlags::NOSYMFOLLOW),
];
const NONE: MountFlags = MountFlags::empty();
const RELATIVE: MountFlags = MountFlags::RELATIME.union(MountFlags::STRICTATIME);

/// Those of the flags that fusermount3 of any version accepts; the others make no difference to FUSE, or need root.
const FUSERMOUNT: [(&str, MountFlags); 5] = [
    ("ro", MountFlags::RDONLY),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("sync", MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC),
];

/// Words that fstab, mount(8) and systemd add for themselves; properties of every mount (no devices, no set-user-id bits, permissions
/// that the kernel checks); and words that the kernel has for other file systems, or does not have any more.
const IGNORED: [&str; 22] = [
    "defaults",
    "nodev",
    "dev",
    "nosuid",
    "suid",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "default_permissions",
];
/// The same for words with a value: the source and the type of a mount cannot be changed.
const IGNORED_WITH_VALUE: [&str; 9] =
    ["comment", "context", "fscontext", "defcontext", "rootcontext", "fsname", "subtype", "max_read", "user"];

/// Words of `-o`, decoded.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Which users may enter.
    pub(super) acl: SessionACL,
    pub(super) flags: MountFlags,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { acl: SessionACL::Owner, flags: MountFlags::NODEV | MountFlags::NOSUID }
    }
}

impl MountOptions {
    /// Decodes the words; a later one overrides an earlier one.
    ///
    /// # Errors
    /// `Invalid` for a word that mount(8) does not have.
    pub fn parse<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self> {
        let mut options = Self::default();
        words.into_iter().try_for_each(|word| options.add(word))?;
        Ok(options)
    }

    /// Whether the mount is read-only.
    pub fn is_read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    /// Makes the mount read-only, whatever the words said.
    pub fn make_read_only(&mut self) {
        self.flags |= MountFlags::RDONLY;
    }

    /// Which writes are durable before they are answered.
    pub fn durability(&self) -> Durability {
        if self.flags.contains(MountFlags::SYNCHRONOUS) {
            Durability::Everything
        } else if self.flags.contains(MountFlags::DIRSYNC) {
            Durability::Names
        } else {
            Durability::OnRequest
        }
    }

    fn add(&mut self, word: &str) -> Result<()> {
        if let Some((_, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            self.flags = (self.flags - *clear) | *set;
            return Ok(());
        }
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        match word {
            "allow_other" => self.acl = SessionACL::All,
            "allow_root" => self.acl = SessionACL::RootAndOwner,
            _ if word.is_empty() || IGNORED.contains(&word) || word.starts_with("x-") || word.starts_with("X-") => {}
            _ if name != word && IGNORED_WITH_VALUE.contains(&name) => {}
            _ => {
                let message = format!(
                    "mount option {word:?}, expected ro, noexec, allow_other, allow_root, sync, dirsync or another one \
                     of mount(8)"
                );
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        Ok(())
    }

    /// In the form that fusermount3 accepts.
    pub(super) fn for_fusermount(&self) -> impl Iterator<Item = &'static str> {
        let flags = self.flags;
        FUSERMOUNT.into_iter().filter(move |(_, flag)| flags.contains(*flag)).map(|(word, _)| word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> MountOptions {
        MountOptions::parse(words.split(',')).unwrap()
    }

    #[test]
    fn last_word_counts() {
        for (words, read_only) in [("ro", true), ("ro,rw", false), ("rw,ro", true), ("ro,rw,ro", true), ("", false)] {
            assert_eq!(parse(words).is_read_only(), read_only, "{words}");
        }
        let flags = |words: &str| parse(words).flags - MountFlags::NODEV - MountFlags::NOSUID;
        assert_eq!(flags("noexec,exec"), NONE);
        assert_eq!(flags("exec,noexec"), MountFlags::NOEXEC);
        assert_eq!(flags("noatime,relatime"), MountFlags::RELATIME);
        assert_eq!(flags("relatime,strictatime"), MountFlags::STRICTATIME);
        assert_eq!(flags("strictatime,noatime"), MountFlags::NOATIME);
        assert_eq!(parse("dirsync").durability(), Durability::Names);
        assert_eq!(parse("dirsync,sync").durability(), Durability::Everything);
        assert_eq!(parse("sync,async").durability(), Durability::OnRequest);
        assert!(matches!(parse("allow_other,allow_root").acl, SessionACL::RootAndOwner));
    }

    #[test]
    fn words_of_fstab_are_accepted_and_unknown_ones_refused() {
        let all = "defaults,rw,relatime,noexec,nosuid,nodev,allow_other,_netdev,nofail,user,users,owner,group,suid,dev,\
                   comment=systemd.automount,context=system_u:object_r:virt_image_t:s0,fsname=a,subtype=b,max_read=1,\
                   X-mount.mkdir,x-systemd.requires=a.service,default_permissions,lazytime,nodiratime,strictatime,user=qemu,\
                   iversion,noiversion,mand,nomand,noowner,nogroup,nosymfollow,symfollow,silent,loud,";
        assert!(MountOptions::parse(all.split(',')).is_ok());
        for word in ["nope", "ro=1", "comment", "transport=dev-fuse", "RO"] {
            assert!(MountOptions::parse([word]).is_err(), "{word}");
        }
    }

    #[test]
    fn fusermount_gets_words_that_every_version_has() {
        let words: Vec<&str> = parse("lazytime,ro,relatime,sync,noexec").for_fusermount().collect();
        assert_eq!(words, ["ro", "noexec", "sync"]);
    }
}
