//! PEM (RFC 7468), read so that errors name what is wrong with a file without quoting a byte of it: it may hold a private key.
//!
//! Libraries quote in their errors what they do not understand. Here a flaw names what was found, from a list of our own.

use std::fmt;

use data_encoding::BASE64;
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Labels that are named to people. Another one may be part of something secret.
const LABELS: [&str; 19] = [
    "CERTIFICATE",
    "X509 CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "CERTIFICATE REQUEST",
    "NEW CERTIFICATE REQUEST",
    "X509 CRL",
    "PKCS7",
    "CMS",
    "PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "DSA PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PUBLIC KEY",
    "RSA PUBLIC KEY",
    "EC PARAMETERS",
    "DH PARAMETERS",
    "SSH2 ENCRYPTED PRIVATE KEY",
];

/// What is wrong with a file. None of its content is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Flaw(String);

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn flaw(text: impl Into<String>) -> Flaw {
    Flaw(text.into())
}

/// What stands between a BEGIN and its END.
pub(super) struct Section<'t> {
    label: &'t [u8],
    body: &'t [u8],
    /// Of its BEGIN, counted from 1.
    line: usize,
}

impl Section<'_> {
    /// What it says it is.
    pub(super) fn is(&self, label: &str) -> bool {
        self.label == label.as_bytes()
    }

    /// What it says it is, for people.
    pub(super) fn label(&self) -> &'static str {
        known(self.label)
    }

    /// Whether the body is under a passphrase, as OpenSSL's older form has it: in lines before the data.
    pub(super) fn is_encrypted(&self) -> bool {
        self.headers().windows(9).any(|word| word == b"ENCRYPTED")
    }

    /// The data.
    ///
    /// # Errors
    /// When they are not base64.
    pub(super) fn data(&self) -> Result<Vec<u8>, Flaw> {
        let encoded = &self.body[self.headers().len()..];
        // At its final capacity, so that it never grows: growing would leave a copy of a key in memory.
        let mut compact = Zeroizing::new(Vec::with_capacity(encoded.len()));
        compact.extend(encoded.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let decoded = BASE64.decode(&compact).ok().filter(|data| !data.is_empty());
        decoded.ok_or_else(|| {
            let (line, label) = (self.line, self.label());
            flaw(format!("what follows BEGIN {label} in line {line} is damaged: it is not base64"))
        })
    }

    /// Lines like `Proc-Type: 4,ENCRYPTED`, and the empty one after them.
    fn headers(&self) -> &[u8] {
        let first = self.body.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
        if !first.contains(&b':') {
            return &[];
        }
        let ends = [&b"\n\n"[..], b"\r\n\r\n"];
        let end = ends.iter().filter_map(|end| Some(find(self.body, end)? + end.len())).min();
        &self.body[..end.unwrap_or(self.body.len())]
    }
}

/// All sections of a file, also those that follow the one before without a newline.
///
/// # Errors
/// When there is none, or one of them does not begin or end as it should: a file is understood as a whole or not at all.
pub(super) fn sections(text: &[u8]) -> Result<Vec<Section<'_>>, Flaw> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = find(&text[at..], BEGIN).map(|start| at + start) {
        let line = 1 + text[..start].iter().filter(|byte| **byte == b'\n').count();
        let begins_line = start == at && at > 0 || line_before(text, start).trim_ascii().is_empty();
        if !begins_line {
            return Err(flaw(format!("BEGIN in line {line} does not begin the line")));
        }
        let (section, end) = section(text, start, line)?;
        found.push(section);
        at = end;
    }
    match found.is_empty() {
        true => Err(flaw(format!("{}, expected PEM: text with a line -----BEGIN ...-----", nature(text)))),
        false => Ok(found),
    }
}

/// The section whose BEGIN is at `start`, and where it ends.
fn section(text: &[u8], start: usize, line: usize) -> Result<(Section<'_>, usize), Flaw> {
    let label_at = start + BEGIN.len();
    let label_len = find(&text[label_at..], DASHES).filter(|len| !text[label_at..][..*len].contains(&b'\n'));
    let label_len = label_len.ok_or_else(|| flaw(format!("BEGIN in line {line} does not end with five hyphens")))?;
    let label = &text[label_at..label_at + label_len];
    let name = known(label);
    let body = &text[label_at + label_len + DASHES.len()..];
    let rest_of_line = body.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    if !rest_of_line.is_empty() {
        let instead = match rest_of_line.starts_with(b"\\n") || rest_of_line.starts_with(b"\\r\\n") {
            true => "it has the two characters \\n where lines should end",
            false => "its lines are joined into one",
        };
        return Err(flaw(format!("text follows BEGIN {name} in line {line}: {instead}")));
    }
    let missing = || flaw(format!("END {name} is missing after line {line}: the file is cut off"));
    let body_len = find(body, END).ok_or_else(missing)?;
    if find(&body[..body_len], BEGIN).is_some() {
        return Err(missing());
    }
    let after = &body[body_len + END.len()..];
    let closes = after.strip_prefix(label).is_some_and(|after| after.starts_with(DASHES));
    if !closes {
        return Err(flaw(format!("BEGIN {name} in line {line} is followed by the END of something else")));
    }
    let end = text.len() - after.len() + label.len() + DASHES.len();
    Ok((Section { label, body: &body[..body_len], line }, end))
}

/// The part of the line that is before a position.
fn line_before(text: &[u8], at: usize) -> &[u8] {
    let start = text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    &text[start..at]
}

/// What a file is that is not PEM.
fn nature(text: &[u8]) -> &'static str {
    match text {
        [] => "it is empty",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is UTF-16 text",
        [0x30, 0x80..=0x84, ..] => {
            "it is DER or PKCS #12 (`openssl x509`, `openssl pkey` or `openssl pkcs12` convert it)"
        }
        _ if text.trim_ascii().is_empty() => "it is blank",
        _ if std::str::from_utf8(text).is_err() => "it is not text",
        _ if find(text, END).is_some() => "it has an END, but no BEGIN",
        _ => "it has no BEGIN",
    }
}

fn known(label: &[u8]) -> &'static str {
    LABELS.into_iter().find(|known| known.as_bytes() == label).unwrap_or("something of an unknown kind")
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nU0VD\nUkVU\n-----END PRIVATE KEY-----\n";

    fn flaw_of(text: &[u8]) -> String {
        match sections(text) {
            Err(flaw) => flaw.to_string(),
            Ok(sections) => sections.iter().find_map(|section| section.data().err()).unwrap().to_string(),
        }
    }

    #[test]
    fn sections_are_found_however_they_are_separated() {
        let cert = "-----BEGIN CERTIFICATE-----\r\nQQ==\r\n-----END CERTIFICATE-----";
        for text in [
            format!("{cert}\r\n{KEY}"),
            format!("{cert}{KEY}"),
            format!("\u{feff}Bag Attributes: BEGIN UNENCRYPTED\n{cert}  \n# of web01\n  {KEY}after"),
        ] {
            let found = sections(text.as_bytes()).unwrap();
            let labels: Vec<&str> = found.iter().map(Section::label).collect();
            assert_eq!(labels, ["CERTIFICATE", "PRIVATE KEY"], "{text}");
            assert_eq!(found[0].data().unwrap(), b"A");
            assert_eq!(found[1].data().unwrap(), b"SECRET");
        }
    }

    #[test]
    fn lines_before_the_data_are_not_part_of_it() {
        let text = KEY.replacen("U0VD", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nU0VD", 1);
        for text in [text.clone(), text.replace('\n', "\r\n")] {
            let found = sections(text.as_bytes()).unwrap();
            assert!(found[0].is_encrypted());
            assert_eq!(found[0].data().unwrap(), b"SECRET");
        }
        assert!(!sections(KEY.as_bytes()).unwrap()[0].is_encrypted());
    }

    #[test]
    fn damage_is_reported_without_showing_the_file() {
        let line = |text: &str| text.replace('\n', "");
        for (text, told) in [
            (line(KEY), "joined into one"),
            (KEY.replace('\n', " "), "joined into one"),
            (KEY.replace('\n', "\\n"), "the two characters \\n"),
            (KEY.replace("END PRIVATE", "END SECRET"), "the END of something else"),
            (KEY[..40].to_owned(), "END PRIVATE KEY is missing after line 1: the file is cut off"),
            (format!("{}{KEY}", &KEY[..40]), "is missing"),
            (KEY.replace("PRIVATE KEY-----", "PRIVATE KEY"), "five hyphens"),
            (KEY.replace("PRIVATE KEY", "U0VDUkVU"), "of an unknown kind"),
            (KEY.replace("U0VD", "U0V?"), "is not base64"),
            (format!("\n\nkey={KEY}"), "BEGIN in line 3 does not begin the line"),
            (KEY[28..].to_owned(), "it has an END, but no BEGIN"),
            ("U0VDUkVU".to_owned(), "it has no BEGIN"),
            (String::new(), "it is empty"),
            (" \n".to_owned(), "it is blank"),
        ] {
            let text = text.replace("U0VDUkVU-----\nU0VD", "U0VDUkVU-----\n?U0VD");
            let said = flaw_of(text.as_bytes());
            assert!(said.contains(told), "{text:?}: {said}");
            assert!(!["U0V", "UkVU", "SECRET"].iter().any(|secret| said.contains(secret)), "{said}");
        }
        assert!(flaw_of(b"\x30\x82\x01\x00SECRET").contains("DER"));
        assert!(flaw_of(b"\xff\xfe-\0-\0").contains("UTF-16"));
    }

    #[test]
    fn no_cut_and_no_changed_byte_makes_it_panic_or_talk() {
        let whole = format!("-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----{KEY}");
        let read = |text: &[u8]| {
            if let Err(flaw) =
                sections(text).and_then(|found| found.iter().try_for_each(|section| section.data().map(drop)))
            {
                assert!(!["U0V", "UkV"].iter().any(|secret| flaw.0.contains(secret)), "{flaw}");
            }
        };
        for at in 0..whole.len() {
            read(&whole.as_bytes()[..at]);
            read(&whole.as_bytes()[at..]);
            for flip in [0x01, 0x20, 0x80, b'\n' ^ whole.as_bytes()[at]] {
                let mut damaged = whole.clone().into_bytes();
                damaged[at] ^= flip;
                read(&damaged);
            }
        }
    }
}
