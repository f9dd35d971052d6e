//! The text encodings of descriptors and `.vmx` files.

use std::borrow::Cow;

use crate::error::{Error, Kind, Result, shown};

/// A text encoding that VMware's products write, as named by `encoding="..."` or `.encoding = "..."`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Encoding {
    /// UTF-8, which ESXi and all recent products write.
    Utf8,
    /// Western European Windows.
    Windows1252,
    /// Japanese Windows.
    ShiftJis,
    /// Simplified Chinese Windows.
    Gbk,
    /// Traditional Chinese Windows.
    Big5,
}

impl Encoding {
    /// The encoding of this name, in any case.
    ///
    /// # Errors
    /// `Unsupported` if no VMware product writes an encoding of that name.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::new(Kind::Unsupported, format!("encoding {} is none of {known}", shown(name)))
        })
    }

    /// Its name as VMware writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Windows1252 => "windows-1252",
            Self::ShiftJis => "Shift_JIS",
            Self::Gbk => "GBK",
            Self::Big5 => "Big5",
        }
    }

    const ALL: [Self; 5] = [Self::Utf8, Self::Windows1252, Self::ShiftJis, Self::Gbk, Self::Big5];

    /// What a text without a declaration is in: UTF-8 if it can be, else what Windows hosts of that time wrote.
    pub(crate) fn guess(bytes: &[u8]) -> Self {
        if std::str::from_utf8(bytes).is_ok() { Self::Utf8 } else { Self::Windows1252 }
    }

    /// Text of `bytes`, or `None` if they are malformed in this encoding.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        self.table().decode_without_bom_handling_and_without_replacement(bytes)
    }

    /// As [`decode`](Self::decode), with U+FFFD for what is malformed: for text that is shown but decides nothing.
    pub(crate) fn decode_lossy(self, bytes: &[u8]) -> Cow<'_, str> {
        self.table().decode_without_bom_handling(bytes).0
    }

    /// Bytes of `text`, or `None` if it has characters that this encoding lacks.
    pub(crate) fn encode(self, text: &str) -> Option<Vec<u8>> {
        let (bytes, _, unmappable) = self.table().encode(text);
        (!unmappable).then(|| bytes.into_owned())
    }

    fn table(self) -> &'static encoding_rs::Encoding {
        match self {
            Self::Utf8 => encoding_rs::UTF_8,
            Self::Windows1252 => encoding_rs::WINDOWS_1252,
            Self::ShiftJis => encoding_rs::SHIFT_JIS,
            Self::Gbk => encoding_rs::GBK,
            Self::Big5 => encoding_rs::BIG5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_reads_back_its_own_words() {
        let words = [
            (Encoding::Utf8, "Übung 仮想 虚拟 虛擬"),
            (Encoding::Windows1252, "Übung €"),
            (Encoding::ShiftJis, "仮想ディスク"),
            (Encoding::Gbk, "虚拟磁盘"),
            (Encoding::Big5, "虛擬磁碟"),
        ];
        for (encoding, word) in words {
            let bytes = encoding.encode(word).expect("in its repertoire");
            assert_eq!(encoding.decode(&bytes).as_deref(), Some(word));
            assert_eq!(Encoding::from_name(&encoding.name().to_lowercase()).unwrap(), encoding);
        }
    }

    #[test]
    fn malformed_and_unmappable_text_is_told_apart_from_good() {
        assert_eq!(Encoding::Utf8.decode(b"\xff"), None);
        assert_eq!(Encoding::Utf8.decode_lossy(b"a\xff"), "a\u{fffd}");
        assert_eq!(Encoding::Windows1252.encode("仮"), None);
        assert_eq!(Encoding::from_name("EBCDIC").unwrap_err().kind(), Kind::Unsupported);
    }
}
