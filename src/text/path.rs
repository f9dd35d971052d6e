//! Paths in JSON, for `#[serde(with = "crate::text::path")]` on fields that hold one, several or none.
//!
//! A path that is UTF-8 stands as it is. A byte that is not is `\xNN`, with two lower-case hexadecimal digits; so is a
//! backslash that begins such a sequence in the name itself, as `\x5c`. Hence `\xNN` always is one byte, and every path
//! arrives byte for byte (docs/CLI.md, "JSON").

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text of a path.
pub fn to_text(path: &Path) -> Cow<'_, str> {
    let bytes = path.as_os_str().as_bytes();
    if let Ok(text) = std::str::from_utf8(bytes)
        && !(0..bytes.len()).any(|at| escaped_byte(&bytes[at..]).is_some())
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for (at, c) in chunk.valid().char_indices() {
            match escaped_byte(&chunk.valid().as_bytes()[at..]) {
                Some(_) => text.push_str("\\x5c"),
                None => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| _ = write!(text, "\\x{byte:02x}"));
    }
    Cow::Owned(text)
}

/// The path of a text that [`to_text`] made.
pub fn from_text(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let byte = escaped_byte(rest);
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[4..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The byte that `\xNN` at the beginning of a text is.
pub(super) fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digits =
        text.strip_prefix(b"\\x")?.first_chunk::<2>().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// What a field of paths may be.
pub trait Paths {
    /// Its form in JSON.
    ///
    /// # Errors
    /// Those of the serializer.
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

impl Paths for Path {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_text(self))
    }
}

impl Paths for PathBuf {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_path().write(serializer)
    }
}

impl<P: Paths + ?Sized> Paths for &P {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        P::write(self, serializer)
    }
}

impl Paths for Option<PathBuf> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_deref().map(to_text).serialize(serializer)
    }
}

impl Paths for Vec<PathBuf> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|path| to_text(path)))
    }
}

/// What a field of paths is read from.
pub trait FromPaths: Sized {
    /// Reads what [`Paths::write`] wrote.
    ///
    /// # Errors
    /// Those of the deserializer.
    fn read<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error>;
}

impl FromPaths for PathBuf {
    fn read<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(from_text(&Cow::<str>::deserialize(deserializer)?))
    }
}

impl FromPaths for Option<PathBuf> {
    fn read<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Cow<'_, str>>::deserialize(deserializer)?.map(|text| from_text(&text)))
    }
}

impl FromPaths for Vec<PathBuf> {
    fn read<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Cow<'_, str>>::deserialize(deserializer)?.iter().map(|text| from_text(text)).collect())
    }
}

/// For serde.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<P: Paths + ?Sized, S: Serializer>(paths: &P, serializer: S) -> Result<S::Ok, S::Error> {
    paths.write(serializer)
}

/// For serde.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'d, P: FromPaths, D: Deserializer<'d>>(deserializer: D) -> Result<P, D::Error> {
    P::read(deserializer)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    fn path(bytes: &[u8]) -> &Path {
        Path::new(OsStr::from_bytes(bytes))
    }

    #[test]
    fn only_what_is_not_utf_8_is_changed() {
        for (bytes, text) in [
            (&b"vms/web 01\n\\x \\e9"[..], "vms/web 01\n\\x \\e9"),
            ("\u{e9}t\u{e9}".as_bytes(), "\u{e9}t\u{e9}"),
            (b"caf\xe9.raw", "caf\\xe9.raw"),
            (br"dev\x2dsda", r"dev\x5cx2dsda"),
            (b"\\\xe9", "\\\\xe9"),
        ] {
            assert_eq!(to_text(path(bytes)), text);
            assert_eq!(from_text(text), path(bytes));
        }
    }

    proptest! {
        #[test]
        fn every_path_arrives(parts in prop::collection::vec(
            prop_oneof![Just(b"\\".to_vec()), Just(b"\\x".to_vec()), Just(b"e9".to_vec()), prop::collection::vec(1u8.., 1..3)],
            0..12,
        )) {
            let bytes = parts.concat();
            prop_assert_eq!(from_text(&to_text(path(&bytes))), path(&bytes));
        }
    }

    #[test]
    fn fields_of_one_several_or_none_arrive() {
        #[derive(Debug, Deserialize, PartialEq, Serialize)]
        struct Fields {
            #[serde(with = "crate::text::path")]
            one: PathBuf,
            #[serde(with = "crate::text::path")]
            several: Vec<PathBuf>,
            #[serde(with = "crate::text::path", default)]
            none: Option<PathBuf>,
        }
        let odd = path(b"\xe9").to_path_buf();
        let fields = Fields { one: odd.clone(), several: vec![odd.clone(), "\n".into()], none: None };
        let text = serde_json::to_string(&fields).unwrap();
        assert_eq!(text, r#"{"one":"\\xe9","several":["\\xe9","\n"],"none":null}"#);
        assert_eq!(serde_json::from_str::<Fields>(&text).unwrap(), fields);
        assert_eq!(serde_json::from_str::<Fields>(r#"{"one":"a","several":[]}"#).unwrap().none, None);
    }
}
