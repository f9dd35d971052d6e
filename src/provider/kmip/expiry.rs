//! When a certificate ends: the one field of X.509 (RFC 5280 section 4.1.2.5) that TLS does not hand out.

use std::time::{SystemTime, UNIX_EPOCH};

/// Fewer days than this until a certificate ends are told.
pub(super) const EXPIRES_SOON: i64 = 30;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const DAY: i64 = 24 * 60 * 60;

/// Whole days until a certificate (DER) ends, negative when it has ended; `None` when it is not understood.
pub(super) fn days_left(certificate: &[u8]) -> Option<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some((not_after(certificate)? - i64::try_from(now.as_secs()).ok()?).div_euclid(DAY))
}

/// Seconds since 1970.
fn not_after(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = element(SEQUENCE, certificate)?;
    let (mut body, _) = element(SEQUENCE, certificate)?;
    if let Some((_, rest)) = element(VERSION, body) {
        body = rest;
    }
    let (_serial, body) = element(INTEGER, body)?;
    let (_algorithm, body) = element(SEQUENCE, body)?;
    let (_issuer, body) = element(SEQUENCE, body)?;
    let (validity, _) = element(SEQUENCE, body)?;
    let (_, not_after) = time(validity)?;
    time(not_after).map(|(seconds, _)| seconds)
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
                assert_eq!(not_after(&certificate(version, &validity)), Some(seconds), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let validity = [der(UTC_TIME, b"700101000000Z"), der(UTC_TIME, b"700101000001Z")].concat();
        let whole = certificate(true, &validity);
        for len in 0..whole.len() {
            not_after(&whole[..len]); // must not panic
        }
        for (at, _) in whole.iter().enumerate() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            not_after(&damaged);
        }
        assert_eq!(not_after(b"-----BEGIN"), None);
    }
}
