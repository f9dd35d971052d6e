//! Names of files within a VM folder, taken from input that may be hostile.

use std::fmt;

use crate::error::{Error, Kind, Result, shown};
use crate::limits::MAX_NAME_LEN;

/// The name of a file directly in a VM folder: one path component that cannot lead elsewhere.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileName(String);

impl FileName {
    /// Checks that `text` names a file of the folder itself.
    ///
    /// Both `/` and `\` separate components, since descriptors are written on both kinds of host.
    ///
    /// # Errors
    /// `Denied` for absolute paths, drive letters, devices, `..`, and files of other folders; `Invalid` for names that
    /// no file system takes.
    pub fn new(text: &str) -> Result<Self> {
        let denied = |what: &str| Error::new(Kind::Denied, format!("{} is {what}", shown(text)));
        let invalid = |what: &str| Error::new(Kind::Invalid, format!("file name {} {what}", shown(text)));
        let mut drive = text.chars();
        if text.starts_with(['/', '\\']) {
            return Err(denied("an absolute path or a device, not a file of the VM folder"));
        }
        if matches!(
            (drive.next(), drive.next(), drive.next()),
            (Some('A'..='Z' | 'a'..='z'), Some(':'), Some('/' | '\\'))
        ) {
            return Err(denied("an absolute path of a Windows host, not a file of the VM folder"));
        }
        if text.contains("://") {
            return Err(denied("a URL, not a file of the VM folder"));
        }
        if text.split(['/', '\\']).any(|part| part == "..") {
            return Err(denied("a path that leaves the VM folder through \"..\""));
        }
        if text.contains(['/', '\\']) {
            return Err(denied("a file of another folder, expected one of the VM folder itself"));
        }
        if text.is_empty() || text == "." {
            return Err(invalid("names no file"));
        }
        if text.len() > MAX_NAME_LEN {
            return Err(invalid(&format!("is {} bytes long, expected at most {MAX_NAME_LEN}", text.len())));
        }
        if text.contains(|c: char| c.is_control()) {
            return Err(invalid("contains control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for FileName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last component of a path of either kind of host.
pub(crate) fn last_component(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Whether `name` ends in `suffix`, ASCII letters of either case being the same.
pub(crate) fn ends_with_ignoring_case(name: &str, suffix: &str) -> bool {
    strip_suffix_ignoring_case(name, suffix).is_some()
}

/// `name` without `suffix`, ASCII letters of either case being the same.
pub(crate) fn strip_suffix_ignoring_case<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let (stem, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_denied() {
        for bad in [
            "/etc/shadow",
            "\\\\.\\PhysicalDrive0",
            "C:\\vm\\a.vmdk",
            "c:/vm/a.vmdk",
            "..",
            "../a.vmdk",
            "..\\a.vmdk",
            "a/../../b",
            "sub/a.vmdk",
            "sub\\a.vmdk",
            "vsan://uuid",
            "./a.vmdk",
        ] {
            assert_eq!(FileName::new(bad).unwrap_err().kind(), Kind::Denied, "{bad}");
        }
    }

    #[test]
    fn names_that_no_file_has_are_invalid() {
        for bad in ["", ".", "a\0b", "a\nb", &"x".repeat(256)] {
            assert_eq!(FileName::new(bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn ordinary_names_pass_unchanged() {
        for good in ["a.vmdk", "Windows 11 x64-s001.vmdk", "..a", "a..vmdk", "仮想-flat.vmdk", "a:b"] {
            assert_eq!(FileName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn suffixes_ignore_case_and_respect_characters() {
        assert_eq!(strip_suffix_ignoring_case("A-FLAT.VMDK", "-flat.vmdk"), Some("A"));
        assert_eq!(strip_suffix_ignoring_case("é", "x"), None);
    }
}
