//! The text encodings of descriptors and `.vmx` files.

use std::borrow::Cow;

use encoding_rs::Encoding as Table;

/// A text encoding, as named by `encoding="..."` or `.encoding = "..."`.
///
/// VMware writes the name that its ICU library has for the encoding of the host. Of a name that is not known here only
/// ASCII can be read, which is nearly all of a descriptor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Encoding {
    label: String,
    table: Option<&'static Table>,
}

impl Encoding {
    /// UTF-8, which ESXi and all recent products write.
    pub fn utf8() -> Self {
        Self::of_table(encoding_rs::UTF_8)
    }

    /// The encoding of this name: one of the Encoding Standard's (WHATWG), IANA's, IBM's, Microsoft's or ICU's.
    pub fn of_label(label: &str) -> Self {
        let label = label.trim();
        match known(label) {
            Some(table) => Self::of_table(table),
            None => Self { label: label.to_owned(), table: None },
        }
    }

    /// Its name: that of the Encoding Standard if it is known, else as it was given.
    pub fn name(&self) -> &str {
        &self.label
    }

    /// Whether more than ASCII can be read.
    pub fn is_known(&self) -> bool {
        self.table.is_some()
    }

    /// What a text without a declaration is in: UTF-8 if it can be, else what most Windows hosts of that time wrote.
    pub(crate) fn guess(bytes: &[u8]) -> Self {
        let is_utf8 = std::str::from_utf8(bytes).is_ok();
        Self::of_table(if is_utf8 { encoding_rs::UTF_8 } else { encoding_rs::WINDOWS_1252 })
    }

    /// Text of `bytes`, or `None` if they are malformed in this encoding.
    pub(crate) fn decode<'b>(&self, bytes: &'b [u8]) -> Option<Cow<'b, str>> {
        match self.table {
            Some(table) => table.decode_without_bom_handling_and_without_replacement(bytes),
            None => std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(Cow::Borrowed),
        }
    }

    /// As [`decode`](Self::decode), with U+FFFD for what is malformed: for text that is shown but decides nothing.
    pub(crate) fn decode_lossy<'b>(&self, bytes: &'b [u8]) -> Cow<'b, str> {
        let shown = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER };
        match self.table {
            Some(table) => table.decode_without_bom_handling(bytes).0,
            None => bytes.iter().map(shown).collect::<String>().into(),
        }
    }

    /// Bytes of `text`, or `None` if it has characters that this encoding lacks.
    pub(crate) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let Some(table) = self.table else { return text.is_ascii().then(|| text.as_bytes().to_vec()) };
        let (bytes, _, unmappable) = table.encode(text);
        (!unmappable).then(|| bytes.into_owned())
    }

    fn of_table(table: &'static Table) -> Self {
        Self { label: table.name().to_owned(), table: Some(table) }
    }
}

/// The table of a name. What does not have ASCII as it is cannot be what a descriptor is written in.
fn known(label: &str) -> Option<&'static Table> {
    let of_label = |label: &str| Table::for_label(label.as_bytes());
    let lower = label.to_ascii_lowercase();
    let alias = || ALIASES.iter().find(|(alias, _)| *alias == lower).and_then(|(_, label)| of_label(label));
    let page = || of_label(label_of_page(code_page(&lower)?)?);
    of_label(label).or_else(alias).or_else(page).filter(|table| table.is_ascii_compatible())
}

/// Names that ICU gives to converters, and older ones, whose number is none of a code page.
const ALIASES: &[(&str, &str)] = &[
    ("iso-8859_10-1998", "iso-8859-10"),
    ("iso-8859_11-2001", "windows-874"),
    ("iso-8859_14-1998", "iso-8859-14"),
    ("ascii7", "us-ascii"),
    ("euc-jp-2007", "euc-jp"),
    ("ibm-eucjp", "euc-jp"),
    ("ujis", "euc-jp"),
    ("eucjis", "euc-jp"),
    ("ibm-euckr", "euc-kr"),
    ("ksc", "euc-kr"),
    ("euc-cn", "gbk"),
    ("euccn", "gbk"),
    ("ibm-euccn", "gbk"),
    ("hp15cn", "gbk"),
    ("pck", "shift_jis"),
    ("tis620", "tis-620"),
    ("macos-0_2-10.2", "macintosh"),
    ("macos-7_3-10.2", "x-mac-cyrillic"),
];

/// The number in `ibm-943_P15A-2003`, `windows-949-2000`, `cp1251`, `ms936` and their like.
fn code_page(lower: &str) -> Option<u32> {
    const PREFIXES: [&str; 8] = ["x-windows-", "windows-", "x-ms-cp", "ibm-", "ibm", "cp", "ms", "ansi-"];
    let rest = PREFIXES.iter().find_map(|prefix| lower.strip_prefix(prefix)).unwrap_or(lower);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, variant) = rest.split_at_checked(digits)?;
    // What follows names a revision (`_P100-1995`, `-2000`), swapped control codes (`,swaplfnl`) or a letter.
    let sound = variant.is_empty() || variant.starts_with(['_', '-', ',']) || variant == "c";
    number.parse().ok().filter(|_| sound)
}

/// The label of a code page of Microsoft's or IBM's, whose numbers do not contradict each other here.
fn label_of_page(page: u32) -> Option<&'static str> {
    Some(match page {
        367 | 646 | 20127 => "us-ascii",
        819 | 1252 | 5348 | 28591 => "windows-1252",
        866 => "ibm866",
        874 | 1162 | 9066 => "windows-874",
        878 | 20866 => "koi8-r",
        1168 | 21866 => "koi8-u",
        912 | 28592 => "iso-8859-2",
        913 | 28593 => "iso-8859-3",
        914 | 28594 => "iso-8859-4",
        915 | 28595 => "iso-8859-5",
        1089 | 28596 => "iso-8859-6",
        813 | 4909 | 9005 | 28597 => "iso-8859-7",
        916 | 5012 | 28598 => "iso-8859-8",
        920 | 1254 | 5350 | 28599 => "windows-1254",
        921 | 28603 => "iso-8859-13",
        923 | 28605 => "iso-8859-15",
        932 | 943 => "shift_jis",
        936 | 1383 | 1386 | 5478 => "gbk",
        1392 | 54936 => "gb18030",
        949 | 970 | 1363 | 5601 | 51949 => "euc-kr",
        950 | 951 | 1373 | 1375 => "big5",
        954 | 5050 | 20932 | 33722 | 51932 => "euc-jp",
        1250 | 5346 => "windows-1250",
        1251 | 5347 => "windows-1251",
        1253 | 5349 => "windows-1253",
        1255 | 5351 | 9447 => "windows-1255",
        1256 | 5352 | 9448 => "windows-1256",
        1257 | 5353 | 9449 => "windows-1257",
        1258 | 5354 => "windows-1258",
        1208 | 65001 => "utf-8",
        10000 => "macintosh",
        10007 => "x-mac-cyrillic",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as hosts of these languages write them, and a word.
    #[test]
    fn every_encoding_reads_back_its_own_words() {
        let words = [
            ("UTF-8", "UTF-8", "Übung 仮想 虚拟 虛擬"),
            ("windows-1252", "windows-1252", "Übung €"),
            ("Shift_JIS", "Shift_JIS", "仮想ディスク"),
            ("GBK", "GBK", "虚拟磁盘"),
            ("Big5", "Big5", "虛擬磁碟"),
            ("windows-949-2000", "EUC-KR", "가상 디스크"),
            ("windows-1251", "windows-1251", "Диск"),
            ("ibm-5347_P100-1998", "windows-1251", "Диск"),
            ("ibm-5348_P100-1997", "windows-1252", "Übung"),
            ("ibm-943_P15A-2003", "Shift_JIS", "仮想"),
            ("windows-936-2000", "GBK", "虚拟"),
            ("windows-950-2000", "Big5", "虛擬"),
            ("ibm-1386_P100-2001", "GBK", "虚拟"),
            ("ibm-970_P110_P110-2006_U2", "EUC-KR", "가상"),
            ("ibm-912_P100-1995", "ISO-8859-2", "Łódź"),
            ("ibm-920_P100-1995", "windows-1254", "İstanbul"),
            ("ISO_8859-2:1987", "ISO-8859-2", "Łódź"),
            ("ibm-9005_X110-2007", "ISO-8859-7", "δίσκος"),
            ("windows-874-2000", "windows-874", "ดิสก์"),
            ("IBM-943C", "Shift_JIS", "仮想"),
            ("koi8-r", "KOI8-R", "Диск"),
            ("GB18030", "gb18030", "虚拟"),
            ("cp1250", "windows-1250", "Łódź"),
            ("ms949", "EUC-KR", "가상"),
        ];
        for (label, name, word) in words {
            let encoding = Encoding::of_label(&label.to_uppercase());
            assert_eq!((encoding.name(), encoding.is_known()), (name, true), "{label}");
            let bytes = encoding.encode(word).expect("in its repertoire");
            assert_eq!(encoding.decode(&bytes).as_deref(), Some(word), "{label}");
            assert_eq!(Encoding::of_label(encoding.name()), encoding);
        }
    }

    #[test]
    fn malformed_and_unmappable_text_is_told_apart_from_good() {
        assert_eq!(Encoding::utf8().decode(b"\xff"), None);
        assert_eq!(Encoding::utf8().decode_lossy(b"a\xff"), "a\u{fffd}");
        assert_eq!(Encoding::of_label("windows-1252").encode("仮"), None);
    }

    #[test]
    fn of_an_unknown_encoding_ascii_is_read() {
        // Names of no table, and of tables that do not have ASCII as it is.
        for label in ["EBCDIC", "cp437", "ibm-37_P100-1995", "UTF-16LE", "ISO-2022-JP", "replacement", "", "1", "ms"] {
            let encoding = Encoding::of_label(label);
            assert_eq!((encoding.is_known(), encoding.name()), (false, label));
            assert_eq!(encoding.decode(b"a-flat.vmdk").as_deref(), Some("a-flat.vmdk"));
            assert_eq!((encoding.decode(b"\x84"), encoding.decode("ü".as_bytes())), (None, None));
            assert_eq!(encoding.decode_lossy(b"a\x84b"), "a\u{fffd}b");
            assert_eq!((encoding.encode("a"), encoding.encode("ü")), (Some(b"a".to_vec()), None));
        }
    }
}
