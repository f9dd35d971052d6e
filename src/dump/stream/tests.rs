use std::io::Cursor;

use super::*;

const DEK: [u8; 32] = [9; 32];
const HEADER: &[u8] = b"header";

/// A medium of limited size that begins with a header.
struct Medium {
    bytes: Vec<u8>,
    size: usize,
}

impl Write for Medium {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.size.saturating_sub(self.bytes.len()));
        if len == 0 && !bytes.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.bytes.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Medium {
    fn take_back(&mut self, len: u64) -> io::Result<()> {
        self.bytes.truncate(usize::try_from(len).unwrap());
        Ok(())
    }
}

/// Gives some bytes, a few at a time, and then fails.
struct Failing<'b>(&'b [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.is_empty() {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => self.0.read(buffer),
        }
    }
}

fn seal_into(medium: &mut Medium, mut source: impl Read, room: &mut Room<'_>) -> Result<Ended> {
    medium.bytes = HEADER.to_vec();
    seal(&mut source, medium, HEADER.len() as u64, &DEK, room)
}

fn sealed(plain: &[u8], size: usize) -> Result<(Ended, Vec<u8>)> {
    let mut medium = Medium { bytes: Vec::new(), size };
    let ended = seal_into(&mut medium, plain, &mut |_| Ok(()))?;
    Ok((ended, medium.bytes))
}

/// What a dump opens to, and whether it says that it was cut.
fn opened(bytes: &[u8], dek: &[u8]) -> Result<(Vec<u8>, bool)> {
    let mut source = Cursor::new(&bytes[HEADER.len()..]);
    let mut reader = DumpReader::new(&mut source, dek)?;
    let mut plain = Vec::new();
    while let Some(part) = reader.next_part()? {
        match part {
            Part::Bytes(bytes) => plain.extend_from_slice(bytes),
            Part::Zeros(len) => plain.resize(plain.len() + usize::try_from(len).unwrap(), 0),
        }
    }
    Ok((plain, reader.is_cut()))
}

/// Data, zeros, data, and an end that is no whole piece.
fn sample() -> Vec<u8> {
    let mut plain = vec![1; PIECE_LEN];
    plain.resize(4 * PIECE_LEN, 0);
    plain.resize(5 * PIECE_LEN, 2);
    plain.extend_from_slice(b"end");
    plain
}

#[test]
fn dumps_of_all_lengths_come_back_and_zeros_take_no_room() {
    for len in [0, 1, PIECE_LEN - 1, PIECE_LEN, PIECE_LEN + 1, 3 * PIECE_LEN] {
        for byte in [0, 7] {
            let plain = vec![byte; len];
            let (ended, bytes) = sealed(&plain, usize::MAX).unwrap();
            assert!(ended.cut.is_none() && ended.plain_len == len as u64, "{len} bytes of {byte}");
            assert!(opened(&bytes, &DEK).unwrap() == (plain, false), "{len} bytes of {byte}");
        }
    }
    let (_, bytes) = sealed(&vec![0; 100 * PIECE_LEN], usize::MAX).unwrap();
    assert_eq!(bytes.len() as u64, HEADER.len() as u64 + 2 * OVERHEAD);
    let plain = sample();
    assert!(opened(&sealed(&plain, usize::MAX).unwrap().1, &DEK).unwrap() == (plain, false));
}

#[test]
fn a_full_medium_ends_the_dump_as_one_that_was_cut() {
    let plain = sample();
    let whole = sealed(&plain, usize::MAX).unwrap().1.len();
    // Around all ends of pieces, and in their midst.
    let piece = PIECE_LEN + HEAD_LEN + TAG_LEN;
    let ends = [0, piece, piece + 24, 2 * piece + 24, whole - HEADER.len()];
    let near = |end: usize| (end.saturating_sub(30)..end + 30).step_by(3).chain([end + 30_000]);
    let mut cuts = 0;
    for size in ends.into_iter().flat_map(near).map(|size| size + HEADER.len()).filter(|size| *size < whole) {
        let Ok((ended, bytes)) = sealed(&plain, size) else {
            assert!(size < HEADER.len() + 24, "{size} bytes have room for a piece that says it was cut");
            continue;
        };
        let (kept, is_cut) = opened(&bytes, &DEK).unwrap();
        assert!(is_cut && bytes.len() <= size && plain.starts_with(&kept), "{size} bytes");
        assert_eq!((ended.plain_len, ended.cut.unwrap().os_error()), (kept.len() as u64, Some(libc::ENOSPC)), "{size}");
        cuts += 1;
    }
    assert!(cuts > 50, "{cuts}");
}

#[test]
fn what_has_no_room_and_what_cannot_be_read_is_cut() {
    let plain = sample();
    let mut medium = Medium { bytes: Vec::new(), size: usize::MAX };
    let mut room = |growth: Growth| match growth.plain_len > 2 * PIECE_LEN as u64 {
        true => Err(Error::new(Kind::Io, "too much")),
        false => Ok(()),
    };
    let ended = seal_into(&mut medium, plain.as_slice(), &mut room).unwrap();
    assert_eq!((ended.plain_len, ended.cut.unwrap().to_string().as_str()), (2 * PIECE_LEN as u64, "too much"));
    assert!(opened(&medium.bytes, &DEK).unwrap() == (plain[..2 * PIECE_LEN].to_vec(), true));

    let ended = seal_into(&mut medium, Failing(&plain), &mut |_| Ok(())).unwrap();
    assert_eq!((ended.plain_len, ended.cut.unwrap().os_error()), (plain.len() as u64, Some(libc::EIO)));
    assert!(opened(&medium.bytes, &DEK).unwrap() == (plain, true));
}

#[test]
fn endless_zeros_end_where_the_room_does() {
    let mut medium = Medium { bytes: Vec::new(), size: usize::MAX };
    let mut room = |growth: Growth| match growth.plain_len > 1 << 24 {
        true => Err(Error::new(Kind::Io, "too much")),
        false => Ok(()),
    };
    let ended = seal_into(&mut medium, io::repeat(0), &mut room).unwrap();
    assert!(ended.plain_len == 1 << 24 && medium.bytes.len() < 100);
}

#[test]
fn a_dump_that_ends_early_or_was_changed_is_refused() {
    let bytes = sealed(&sample(), usize::MAX).unwrap().1;
    let piece = PIECE_LEN + HEAD_LEN + TAG_LEN;
    for end in [HEADER.len(), HEADER.len() + 1, HEADER.len() + piece, bytes.len() - 27, bytes.len() - 1] {
        let refusal = opened(&bytes[..end], &DEK).unwrap_err();
        assert!(refusal.kind() == Kind::Corrupt && refusal.to_string().contains("cut off"), "{end}: {refusal}");
    }
    for at in [0, 5, 8, 100, piece - 1, piece, piece + 4, piece + 9, bytes.len() - HEADER.len() - 1] {
        let mut wrong = bytes.clone();
        wrong[HEADER.len() + at] ^= 1;
        assert_eq!(opened(&wrong, &DEK).unwrap_err().kind(), Kind::Corrupt, "byte {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(opened(&longer, &DEK).unwrap_err().to_string().contains("bytes follow the last piece"));
    assert!(opened(&bytes, &[8; 32]).is_err());
}

#[test]
fn a_dump_is_sealed_again_as_it_is() {
    let plain = sample();
    for is_cut in [false, true] {
        let mut medium = Medium { bytes: Vec::new(), size: usize::MAX };
        let ended = match is_cut {
            false => seal_into(&mut medium, plain.as_slice(), &mut |_| Ok(())),
            true => seal_into(&mut medium, Failing(&plain), &mut |_| Ok(())),
        };
        assert_eq!(ended.unwrap().cut.is_some(), is_cut);
        let mut source = &medium.bytes[HEADER.len()..];
        let mut again = Medium { bytes: HEADER.to_vec(), size: usize::MAX };
        let mut plaintext = Plaintext::new(DumpReader::new(&mut source, &DEK).unwrap());
        seal(&mut plaintext, &mut again, HEADER.len() as u64, &[3; 32], &mut |_| Ok(())).unwrap();
        assert!(plaintext.failure.is_none() && plaintext.reader.is_cut() == is_cut);
        assert!(opened(&again.bytes, &[3; 32]).unwrap() == (plain.clone(), is_cut));
    }
    let bytes = sealed(&plain, usize::MAX).unwrap().1;
    let mut source = &bytes[HEADER.len()..bytes.len() - 1];
    let mut plaintext = Plaintext::new(DumpReader::new(&mut source, &DEK).unwrap());
    io::copy(&mut plaintext, &mut io::sink()).unwrap_err();
    assert_eq!(plaintext.failure.unwrap().kind(), Kind::Corrupt);
}
