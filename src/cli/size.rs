//! Sizes as people write and read them: binary units, `20G` is 20 GiB.

use crate::error::{Error, Kind, Result};

const UNITS: [(char, u32); 6] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];

/// Parses `512`, `64K`, `20G`, `1.5T`, `20GiB`. Units are powers of 1024.
///
/// # Errors
/// `Invalid` for anything else, or more than 2^62 bytes.
pub(super) fn parse(text: &str) -> Result<u64> {
    let wrong = || {
        Error::new(Kind::Invalid, format!("size {text:?}, expected a number of bytes such as 512, 64K, 20G or 1.5T"))
    };
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &upper[digits.len()..];
    if let (Some(letter), true) = (unit.strip_suffix('B'), unit.len() == 2 && unit != "IB") {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "size {text:?}: is {unit} 1000s or 1024s? Expected {digits}{letter} or {digits}{letter}iB, powers of 1024, or a number of bytes"
            ),
        ));
    }
    let shift = match unit.strip_suffix("IB").unwrap_or(unit) {
        "" => 0,
        "B" => 0,
        unit => UNITS.iter().find(|(letter, _)| unit.len() == 1 && unit.starts_with(*letter)).ok_or_else(wrong)?.1,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if fraction.len() > 9 || shift == 0 && digits.contains('.') {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let numerator: u128 = fraction.parse().map_err(|_| wrong())?;
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let bytes = whole.checked_mul(1 << shift).and_then(|bytes| bytes.checked_add((numerator << shift) / denominator));
    bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|&bytes| bytes <= crate::sector::MAX_OFFSET)
        .ok_or_else(wrong)
}

/// `21474836480` as `20 GiB`; three digits where the unit does not divide it.
pub(super) fn show(bytes: u64) -> String {
    let Some((letter, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    if bytes.is_multiple_of(1 << shift) {
        return format!("{} {letter}iB", bytes >> shift);
    }
    let hundredths = (u128::from(bytes) * 100) >> shift;
    format!("{}.{:02} {letter}iB", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64k", 65_536),
            ("20G", 20 << 30),
            ("1.5T", 3 << 39),
            ("2GiB", 2 << 30),
            ("7B", 7),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "G", "-1", "1..5G", "20GB5", "1.5", "5Q", "99E", "1.0000000001G", "1e5", "0x10", "20 G x"] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Invalid, "{text}");
        }
    }

    #[test]
    fn a_decimal_unit_is_explained() {
        let error = parse("20gb").unwrap_err().to_string();
        assert!(error.contains("20G or 20GiB"), "{error}");
    }

    #[test]
    fn sizes_show() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (20 << 30, "20 GiB"), (1536, "1.50 KiB"), (1 << 62, "4 EiB")]
        {
            assert_eq!(show(bytes), text);
        }
    }
}
