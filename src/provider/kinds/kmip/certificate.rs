//! What of a certificate TLS does not hand out: the times that it begins and ends, and its version (X.509, RFC 5280 section 4.1).

use crate::timestamp::Timestamp;

/// A certificate that expires in fewer days than this is reported.
pub(super) const EXPIRES_SOON: i64 = 30;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const DAY: i64 = 24 * 60 * 60;

/// Whole days until a certificate (DER) ends, negative when it has ended; `None` when it is not understood.
pub(super) fn days_left(certificate: &[u8]) -> Option<i64> {
    Some((Validity::of(certificate)?.not_after - now()?).div_euclid(DAY))
}

/// Why a certificate (DER) is not accepted now, as far as its times tell.
pub(super) fn out_of_time(certificate: &[u8]) -> Option<String> {
    let (validity, now) = (Validity::of(certificate)?, now()?);
    if now < validity.not_before {
        let (from, now) = (show_time(validity.not_before), show_time(now));
        return Some(format!("is not valid before {from}, and by this host's clock it is {now}"));
    }
    (now > validity.not_after).then(|| format!("expired at {}", show_time(validity.not_after)))
}

/// Whether a certificate (DER) is of X.509 version 1, which has no extensions, and which TLS libraries refuse.
pub(super) fn is_version_1(certificate: &[u8]) -> bool {
    body(certificate).is_some_and(|body| body.first() == Some(&INTEGER))
}

/// Seconds since 1970 as people read them.
pub(super) fn show_time(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).ok();
    seconds
        .and_then(|seconds| Timestamp::from_secs(seconds).to_seconds())
        .unwrap_or_else(|| "an unknown time".to_owned())
}

fn now() -> Option<i64> {
    i64::try_from(Timestamp::now().since_1970().as_secs()).ok()
}

/// In seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    fn of(certificate: &[u8]) -> Option<Self> {
        let mut body = body(certificate)?;
        if let Some((_, rest)) = element(VERSION, body) {
            body = rest;
        }
        let (_serial, body) = element(INTEGER, body)?;
        let (_algorithm, body) = element(SEQUENCE, body)?;
        let (_issuer, body) = element(SEQUENCE, body)?;
        let (validity, _) = element(SEQUENCE, body)?;
        let (not_before, rest) = time(validity)?;
        let (not_after, _) = time(rest)?;
        Some(Self { not_before, not_after })
    }
}

/// What is signed of a certificate.
fn body(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(SEQUENCE, certificate)?;
    element(SEQUENCE, certificate).map(|(body, _)| body)
}

/// The content of the element of this type that `der` begins with, and what follows it.
fn element(kind: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, len], rest) = der.split_first_chunk()?;
    if found != kind {
        return None;
    }
    if len < 0x80 {
        return rest.split_at_checked(len.into());
    }
    let (long, rest) = rest.split_at_checked(usize::from(len & 0x7f)).filter(|(long, _)| long.len() <= 4)?;
    let len = long.iter().fold(0_u64, |len, &byte| len << 8 | u64::from(byte));
    rest.split_at_checked(usize::try_from(len).ok()?)
}

fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century) = match element(UTC_TIME, der) {
        // Years of two digits: 50 to 99 are of the last century.
        Some((text, rest)) => (text, rest, if text.first()? >= &b'5' { "19" } else { "20" }),
        None => element(GENERALIZED_TIME, der).map(|(text, rest)| (text, rest, ""))?,
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let digits =
        text.strip_suffix('Z').filter(|digits| digits.len() == 14 && digits.bytes().all(|c| c.is_ascii_digit()))?;
    let number = |from: usize, to: usize| digits[from..to].parse::<i64>().ok();
    let days = days_since_1970(number(0, 4)?, number(4, 6)?, number(6, 8)?);
    Some((((days * 24 + number(8, 10)?) * 60 + number(10, 12)?) * 60 + number(12, 14)?, rest))
}

/// Of the Gregorian calendar. Years are counted from March, so that a leap day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    365 * year + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(kind: u8, content: &[u8]) -> Vec<u8> {
        let len = u8::try_from(content.len()).unwrap();
        let header = if len < 0x80 { vec![kind, len] } else { vec![kind, 0x81, len] };
        [header, content.to_vec()].concat()
    }

    fn certificate(version: bool, validity: &[u8]) -> Vec<u8> {
        let version = if version { der(VERSION, &der(INTEGER, &[2])) } else { Vec::new() };
        let before = [der(INTEGER, &[7]), der(SEQUENCE, &[]), der(SEQUENCE, &[0; 90])].concat();
        let body = [version, before, der(SEQUENCE, validity), der(SEQUENCE, b"subject")].concat();
        der(SEQUENCE, &[der(SEQUENCE, &body), der(SEQUENCE, &[])].concat())
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let start = der(UTC_TIME, b"700101000000Z");
        for (kind, text, seconds) in [
            (UTC_TIME, "700101000001Z", 1),
            (UTC_TIME, "490228235959Z", 2_498_169_599),
            (UTC_TIME, "000301000000Z", 951_868_800),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ] {
            let validity = [start.clone(), der(kind, text.as_bytes())].concat();
            for version in [false, true] {
                let certificate = certificate(version, &validity);
                let expected = Validity { not_before: 0, not_after: seconds };
                assert_eq!(Validity::of(&certificate), Some(expected), "{text}");
                assert_eq!(is_version_1(&certificate), !version);
            }
        }
    }

    #[test]
    fn files_that_are_not_certificates_have_no_expiry() {
        let validity = [der(UTC_TIME, b"700101000000Z"), der(UTC_TIME, b"700101000001Z")].concat();
        let whole = certificate(true, &validity);
        for len in 0..whole.len() {
            let _ = Validity::of(&whole[..len]); // must not panic
        }
        for (at, _) in whole.iter().enumerate() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = (out_of_time(&damaged), is_version_1(&damaged));
        }
        assert_eq!(Validity::of(b"-----BEGIN"), None);
    }

    #[test]
    fn a_certificate_out_of_its_time_says_which() {
        let certificate = |start: &[u8], end: &[u8]| {
            let validity = [der(GENERALIZED_TIME, start), der(GENERALIZED_TIME, end)].concat();
            certificate(true, &validity)
        };
        let (past, future) = (b"20200101000000Z", b"99991231235959Z");
        assert_eq!(out_of_time(&certificate(past, future)), None);
        assert_eq!(out_of_time(&certificate(past, past)), Some("expired at 2020-01-01T00:00:00Z".into()));
        let told = out_of_time(&certificate(future, future)).unwrap();
        assert!(
            told.starts_with("is not valid before 9999-12-31T23:59:59Z, and by this host's clock it is 2"),
            "{told}"
        );
        assert_eq!((show_time(-1), show_time(i64::MAX)), ("an unknown time".into(), "an unknown time".into()));
    }
}
