//! Names of files within a VM folder, taken from input that may be hostile.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Kind, Result, shown};
use crate::limits::MAX_NAME_LEN;

/// The name of a file directly in a VM folder: one path component that cannot lead elsewhere.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileName {
    text: String,
    /// The bytes that were read as the text, where they are not its UTF-8.
    written: Option<Vec<u8>>,
}

/// Which file of a folder a name means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Meant<T> {
    /// The file of this name, or the only one whose name differs only in case or Unicode form.
    One(T),
    /// None has this name, and several differ from it only in case or Unicode form.
    Several(Vec<T>),
    /// None has this name or one that resembles it.
    None,
}

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
        Ok(Self { text: text.to_owned(), written: None })
    }

    /// As [`new`](Self::new), for a name that was read from `written`, bytes of another encoding than UTF-8. A file
    /// may have been copied with its name's bytes as they were.
    ///
    /// # Errors
    /// As [`new`](Self::new), for the text and for the bytes.
    pub fn read_from(text: &str, written: &[u8]) -> Result<Self> {
        let name = Self::new(text)?;
        // Bytes of another encoding may well hold `\`, the second byte of a character; no file name holds `/`.
        if written.iter().any(|byte| *byte == b'/' || byte.is_ascii_control()) || written == b".." {
            let message = format!("file name {} is not a name in the bytes that it was written with", shown(text));
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self { written: Some(written.to_vec()), ..name })
    }

    /// The name as text; U+FFFD stands for what could not be decoded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of files on disk that this is, the likeliest first: its UTF-8, unless that is not known, and the bytes
    /// that it was written with.
    pub fn spellings(&self) -> impl Iterator<Item = &[u8]> {
        let decoded = self.written.is_none() || !self.text.contains(char::REPLACEMENT_CHARACTER);
        decoded.then_some(self.text.as_bytes()).into_iter().chain(self.written.as_deref())
    }

    /// Which of a folder's files is meant. `bytes` gives the bytes of a file's name.
    ///
    /// VMware's file systems take letters of either case for the same, and macOS writes names decomposed, so a copy of a
    /// folder may differ from its descriptors in both.
    pub fn find<T>(&self, files: impl IntoIterator<Item = T>, bytes: impl Fn(&T) -> &[u8]) -> Meant<T> {
        let wanted: Vec<String> =
            self.spellings().filter_map(|name| std::str::from_utf8(name).ok()).map(folded).collect();
        let mut found: Vec<T> = Vec::new();
        let mut exact: Option<(usize, T)> = None;
        for file in files {
            let name = bytes(&file);
            match self.spellings().position(|spelling| spelling == name) {
                Some(rank) if exact.as_ref().is_none_or(|(best, _)| rank < *best) => exact = Some((rank, file)),
                Some(_) => {}
                None if std::str::from_utf8(name).is_ok_and(|name| wanted.contains(&folded(name))) => found.push(file),
                None => {}
            }
        }
        match (exact, found.len()) {
            (Some((_, file)), _) => Meant::One(file),
            (None, 0) => Meant::None,
            (None, 1) => found.pop().map_or(Meant::None, Meant::One),
            (None, _) => Meant::Several(found),
        }
    }
}

/// What names have in common that differ only in case or Unicode form.
fn folded(name: &str) -> String {
    name.nfd().flat_map(char::to_lowercase).nfc().collect()
}

impl AsRef<str> for FileName {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for FileName {
    /// The text; where it could not be decoded, the bytes, those outside ASCII as `\xfc`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.written {
            Some(written) if self.text.contains(char::REPLACEMENT_CHARACTER) => written.escape_ascii().fmt(f),
            Some(_) | None => f.write_str(&self.text),
        }
    }
}

/// The last component of a path of either kind of host.
pub(crate) fn last_component(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// The part of `written` that was read as the last component of a path; `decode` reads bytes. In some encodings a
/// separator's byte may be a part of a character, so what the bytes say is compared with `component`.
pub(crate) fn written_component<'b>(
    written: &'b [u8],
    component: &str,
    decode: impl Fn(&[u8]) -> String,
) -> Option<&'b [u8]> {
    let after = |at: usize| written.get(at..).unwrap_or_default();
    let separators = written.iter().enumerate().rev().filter(|(_, byte)| matches!(byte, b'/' | b'\\'));
    let starts = separators.map(|(at, _)| at + 1).chain([0]);
    starts.map(after).find(|part| decode(part) == component)
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
    fn a_name_is_found_as_written_else_where_only_one_resembles_it() {
        let find = |name: &FileName, files: &[&'static [u8]]| name.find(files.to_vec(), |file| *file);
        let name = FileName::new("\u{dc}ber.vmdk").unwrap();
        let (own, lower, decomposed) =
            ("\u{dc}ber.vmdk".as_bytes(), "\u{fc}BER.vmdk".as_bytes(), "U\u{308}ber.vmdk".as_bytes());
        assert_eq!(find(&name, &[lower, own, decomposed]), Meant::One(own));
        assert_eq!(find(&name, &[b"other", decomposed]), Meant::One(decomposed));
        assert_eq!(find(&name, &[b"\xff", lower]), Meant::One(lower));
        assert_eq!(find(&name, &[lower, decomposed]), Meant::Several(vec![lower, decomposed]));
        assert_eq!(find(&name, &[b"uber.vmdk", b""]), Meant::None);
    }

    #[test]
    fn a_name_of_another_encoding_is_found_by_its_bytes_too() {
        let find = |name: &FileName, files: &[&'static [u8]]| name.find(files.to_vec(), |file| *file);
        let name = FileName::read_from("\u{fc}.vmdk", b"\xfc.vmdk").unwrap();
        assert_eq!(find(&name, &[b"\xfc.vmdk"]), Meant::One(&b"\xfc.vmdk"[..]));
        assert_eq!(find(&name, &[b"\xfc.vmdk", "\u{fc}.vmdk".as_bytes()]), Meant::One("\u{fc}.vmdk".as_bytes()));
        let unknown = FileName::read_from("\u{fffd}.vmdk", b"\x84.vmdk").unwrap();
        assert_eq!(find(&unknown, &["\u{fffd}.vmdk".as_bytes()]), Meant::None);
        assert_eq!(find(&unknown, &[b"\x84.vmdk"]), Meant::One(&b"\x84.vmdk"[..]));
        assert_eq!((unknown.to_string().as_str(), name.to_string().as_str()), ("\\x84.vmdk", "\u{fc}.vmdk"));
        for bytes in [&b"a/b"[..], b"..", b"\0", b"\x1b$B"] {
            assert!(FileName::read_from("a", bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_last_component_is_found_in_bytes_whose_characters_hold_separators() {
        let decode = |bytes: &[u8]| crate::Encoding::of_label("Shift_JIS").decode_lossy(bytes).into_owned();
        let path = b"C:\\vm\\\x83\x5c\x95\x5c.vmdk";
        let name = last_component("C:\\vm\\\u{30bd}\u{8868}.vmdk");
        assert_eq!(written_component(path, name, decode), Some(&b"\x83\x5c\x95\x5c.vmdk"[..]));
        assert_eq!(written_component(b"x", "y", decode), None);
    }

    #[test]
    fn suffixes_ignore_case_and_respect_characters() {
        assert_eq!(strip_suffix_ignoring_case("A-FLAT.VMDK", "-flat.vmdk"), Some("A"));
        assert_eq!(strip_suffix_ignoring_case("é", "x"), None);
    }
}
