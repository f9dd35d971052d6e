//! The encoding of protocol buffers, as much of it as etcd's messages need. What comes from the network is read with bounds, and
//! every error says what was wrong.

use vmcryptfs::error::{Error, Kind, Result};

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A number. Zero is written too: where a message chooses between fields, that one is there.
    pub(super) fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field << 3));
        self.varint(value);
        self
    }

    /// Bytes or a text.
    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field << 3 | 2));
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A message in this one.
    pub(super) fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }
}

/// What a field has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Value<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

impl<'m> Value<'m> {
    /// # Errors
    /// `Corrupt` when it has another type.
    pub(super) fn number(self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(wrong("bytes where a number belongs")),
        }
    }

    /// # Errors
    /// `Corrupt` when it has another type.
    pub(super) fn bytes(self) -> Result<&'m [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(wrong("a number where bytes belong")),
        }
    }

    /// # Errors
    /// `Corrupt` when it has another type or is not UTF-8.
    pub(super) fn text(self) -> Result<&'m str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| wrong("a text that is not UTF-8"))
    }
}

/// The fields of a message, in the order in which they were written. After an error there are no more.
pub(super) struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    pub(super) fn of(message: &'m [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| wrong("a number that has no end"))?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(wrong("a number of more than 64 bits"))
    }

    fn take(&mut self, len: u64) -> Result<&'m [u8]> {
        let split = usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len));
        let (taken, rest) =
            split.ok_or_else(|| wrong(&format!("a field of {len} bytes in the {} that are there", self.0.len())))?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'m>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Bytes(self.take(4)?),
            other => return Err(wrong(&format!("a field of wire type {other}"))),
        };
        Ok((tag >> 3, value))
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u64, Value<'m>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn wrong(found: &str) -> Error {
    Error::new(Kind::Corrupt, format!("etcd's answer is not one: it has {found}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().bytes(1, b"key").number(2, 0);
        let bytes = Message::default().number(1, u64::MAX).message(16, &inner).number(3, 300).into_bytes();
        let fields: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
        assert_eq!(fields[0], (1, Value::Number(u64::MAX)));
        assert_eq!(fields[2], (3, Value::Number(300)));
        let inner: Vec<_> = Fields::of(fields[1].1.bytes().unwrap()).map(Result::unwrap).collect();
        assert_eq!((fields[1].0, inner), (16, vec![(1, Value::Bytes(b"key")), (2, Value::Number(0))]));
        // The example of the encoding's description: field 1 has 150.
        assert_eq!(Message::default().number(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, b"testing").into_bytes()[..3], [0x12, 0x07, b't']);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, words) in [
            (&[0x08][..], "no end"),
            (&[0x08, 0x80], "no end"),
            (&[0x12, 0x05, 1], "a field of 5 bytes in the 1 that are there"),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "bytes in the 0"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], "more than 64 bits"),
            (&[0x0b], "wire type 3"),
            (&[0x09, 1, 2], "a field of 8 bytes"),
        ] {
            let mut fields = Fields::of(bytes);
            let error = fields.next().unwrap().unwrap_err();
            assert!(error.chain().contains(words), "{bytes:?}: {}", error.chain());
            assert!(fields.next().is_none(), "{bytes:?}");
        }
        assert!(Value::Number(1).bytes().is_err() && Value::Bytes(b"").number().is_err());
        assert!(Value::Bytes(&[0xff]).text().is_err());
    }

    /// From any bytes come fields or an error, and an end.
    #[test]
    fn any_bytes_have_an_end() {
        let mut state = 7_u64;
        for len in 0..200 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            assert!(Fields::of(&bytes).count() <= bytes.len());
        }
    }
}
