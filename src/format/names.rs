//! Which new files become disks: patterns over file names (docs/FORMAT.md, section 6).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Kind, Result};

/// Patterns of a home that names none of its own: endings of disk formats, VMware's extents, what libvirt calls the copies of
/// a backup (the disk's name and a time), and the names that OpenNebula and OpenStack give without an ending.
const DEFAULT: [&str; 22] = [
    "*.raw",
    "*.img",
    "*.qcow2",
    "*.vdi",
    "*.vhdx",
    "*.vhd",
    "*.qed",
    "*-flat.vmdk",
    "*-s###.vmdk",
    "*-f###.vmdk",
    "*-delta.vmdk",
    "*-sesparse.vmdk",
    "*.raw.##########",
    "*.img.##########",
    "*.qcow2.##########",
    "disk",
    "disk.#",
    "disk.##",
    "disk.local",
    "disk.swap",
    "disk.eph#",
    "disk.eph##",
];
/// What stands before and after a disk's name while a program writes the file: rsync, rclone, Syncthing, downloads. `?` is a
/// letter or digit.
const UNFINISHED: [(&str, &str); 5] =
    [(".", ".??????"), ("", ".????????.partial"), ("", ".partial"), ("", ".part"), (".syncthing.", ".tmp")];
/// Maximum number of patterns that a home stores.
pub const MAX_PATTERNS: usize = 32;
/// Longest pattern in bytes.
pub const MAX_PATTERN_LEN: usize = 64;

/// Patterns over file names: `*` is any text of at least one character, `#` a decimal digit, letters match either case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DiskNames(Vec<String>);

impl DiskNames {
    /// The patterns a home stores; none means the default list.
    ///
    /// # Errors
    /// `Invalid` when there are over 32, or one is empty, longer than 64 bytes or holds control characters or `/`.
    pub fn new(patterns: Vec<String>) -> Result<Self> {
        if patterns.len() > MAX_PATTERNS {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} patterns of disk names, at most {MAX_PATTERNS}", patterns.len()),
            ));
        }
        match patterns.iter().find(|pattern| !is_pattern(pattern)) {
            None => Ok(Self(patterns)),
            Some(bad) => Err(Error::new(
                Kind::Invalid,
                format!(
                    "disk name pattern {bad:?}, expected 1 to {MAX_PATTERN_LEN} bytes without '/' or control codes"
                ),
            )),
        }
    }

    /// What the header stores: empty for the default list.
    pub fn stored(&self) -> &[String] {
        &self.0
    }

    /// The patterns that count: those that are stored, else the default list.
    pub fn patterns(&self) -> Vec<String> {
        if self.0.is_empty() { DEFAULT.map(str::to_owned).to_vec() } else { self.0.clone() }
    }

    /// Whether a new file of this name becomes a disk: by a pattern, or as what a program makes until the file has such a
    /// name.
    pub fn matches(&self, name: &OsStr) -> bool {
        let name = name.as_bytes();
        self.lists(name) || UNFINISHED.iter().any(|around| finished(name, around).is_some_and(|name| self.lists(name)))
    }

    fn lists(&self, name: &[u8]) -> bool {
        if self.0.is_empty() {
            DEFAULT.iter().any(|pattern| matches(pattern.as_bytes(), name))
        } else {
            self.0.iter().any(|pattern| matches(pattern.as_bytes(), name))
        }
    }
}

/// The name that a file will have when it is finished.
fn finished<'n>(name: &'n [u8], (before, after): &(&str, &str)) -> Option<&'n [u8]> {
    let (name, end) =
        name.strip_prefix(before.as_bytes())?.split_at_checked(name.len().checked_sub(before.len() + after.len())?)?;
    let fits =
        |(wanted, found): (u8, &u8)| if wanted == b'?' { found.is_ascii_alphanumeric() } else { wanted == *found };
    after.bytes().zip(end).all(fits).then_some(name)
}

fn is_pattern(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.len() <= MAX_PATTERN_LEN && !pattern.chars().any(|c| c.is_control() || c == '/')
}

/// Whether all of `name` matches `pattern`. On a mismatch only the last `*` takes one more byte, so the cost is at most
/// pattern times name.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    loop {
        if n == name.len() {
            return p == pattern.len();
        }
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            n += 1;
            last_star = Some((p, n));
        } else if pattern.get(p).is_some_and(|wanted| byte_matches(*wanted, name[n])) {
            p += 1;
            n += 1;
        } else if let Some((after_star, taken)) = last_star {
            p = after_star;
            n = taken + 1;
            last_star = Some((after_star, n));
        } else {
            return false;
        }
    }
}

fn byte_matches(wanted: u8, found: u8) -> bool {
    if wanted == b'#' { found.is_ascii_digit() } else { wanted.eq_ignore_ascii_case(&found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_list_knows_disk_images() {
        let names = DiskNames::default();
        for disk in
            ["root.raw", "ROOT.IMG", "a.b.qcow2", "x-flat.vmdk", "x-s001.vmdk", "x-000001-sesparse.vmdk", "a.raw.raw"]
        {
            assert!(names.matches(OsStr::new(disk)), "{disk}");
        }
        for disk in [
            "k.qcow2.1795974193",
            "disk",
            "disk.0",
            "disk.12",
            "disk.eph0",
            "disk.local",
            "vm-100-disk-0.qcow2",
            "a.vhd",
        ] {
            assert!(names.matches(OsStr::new(disk)), "{disk}");
        }
        for other in
            [".raw", "raw", "root.raw.bak", "x.vmdk", "x-s01.vmdk", "x-sabc.vmdk", "web01.vmx", "", "disk.info"]
        {
            assert!(!names.matches(OsStr::new(other)), "{other}");
        }
        for other in
            ["k.qcow2.17959741", "k.qcow2.xml", "root.raw.md5", "vmware.log.1795974193", "my disk", "console.log"]
        {
            assert!(!names.matches(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn what_a_program_writes_first_is_a_disk_if_the_finished_file_is() {
        let names = DiskNames::default();
        for disk in
            [".root.raw.Xa9ZZ0", ".disk.0.abcdef", "a.qcow2.1f2e3d4c.partial", "a.img.part", ".syncthing.a.raw.tmp"]
        {
            assert!(names.matches(OsStr::new(disk)), "{disk}");
        }
        for other in
            [".root.xml.Xa9ZZ0", ".root.raw.Xa9ZZ", ".root.raw.Xa9ZZ00", ".root.raw.a-9ZZ0", "a.xml.part", ".part", "."]
        {
            assert!(!names.matches(OsStr::new(other)), "{other}");
        }
        let own = DiskNames::new(vec!["vm#".into()]).unwrap();
        assert!(own.matches(OsStr::new(".vm1.abcdef")) && !own.matches(OsStr::new(".a.raw.abcdef")));
    }

    #[test]
    fn the_default_list_can_be_stored_and_added_to() {
        let patterns = DiskNames::default().patterns();
        assert!(patterns.len() + 8 <= MAX_PATTERNS);
        assert_eq!(DiskNames::new(patterns.clone()).unwrap().patterns(), patterns);
    }

    #[test]
    fn a_stored_list_replaces_the_default() {
        let names = DiskNames::new(vec!["disk-#*".into()]).unwrap();
        let is_disk = |name: &str| names.matches(OsStr::new(name));
        assert!(is_disk("disk-0x") && !is_disk("disk-0") && !is_disk("root.raw"));
    }

    #[test]
    fn several_stars_backtrack() {
        assert!(matches(b"*ab*ab", b"xabyabzab"));
        assert!(!matches(b"*ab*abc", b"xabyabzab"));
        assert!(!matches(b"**", b"x"));
        assert!(matches(b"**", b"xy"));
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(DiskNames::new(vec!["*".into(); 33]).is_err());
        for bad in ["", "a/b", "a\n", &"x".repeat(65)] {
            assert!(DiskNames::new(vec![bad.into()]).is_err(), "{bad:?}");
        }
    }
}
