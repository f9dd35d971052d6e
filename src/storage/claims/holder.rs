//! Who has claimed a file, told to those who are refused by locks that stand for text.
//!
//! A lock says at which byte it begins, to everyone who is refused and on every file system on which locks hold at all. So a holder
//! locks one byte in each of a few ranges of which no byte need exist, and where it lies there are seven bytes of its name. A name
//! thus ends with its claim, also when the holder is killed; it takes no file, no key and no right to write.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::sys::file::{self, Lock};
use crate::sys::process;
use crate::text::Show;
use crate::timestamp::Timestamp;

/// After the lock of a home.
const START: i64 = (1 << 62) + (1 << 61);
/// Locks do not meet: a value is less than half of its range.
const RANGE_LEN: i64 = 1 << 57;
const PIECE_LEN: usize = 7;
/// Most bytes of a name: the last byte of their ranges is less than the largest that can be locked.
const MAX_LEN: usize = 15 * PIECE_LEN;
/// Check, length, process and time.
const PREFIX_LEN: usize = 2 + 1 + 4 + 4;

/// An opener of a file that has it claimed, by what it says of itself. Advisory: it is shown, and decides nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    host: OsString,
    process: u32,
    /// Since when it has this claim, by its own clock.
    since: Timestamp,
    /// Its mountpoint; empty for work without a mount.
    place: OsString,
}

impl Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on host {}", self.process, self.host.shown())?;
        if !self.place.is_empty() {
            write!(f, ", mounted at {},", self.place.shown())?;
        }
        write!(f, " has it open since {}", self.since.to_seconds().as_deref().unwrap_or("an unknown time"))
    }
}

impl Holder {
    /// The host, by its own name.
    pub fn host(&self) -> &OsStr {
        &self.host
    }

    /// The process on that host.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Since when it has this claim, by its own clock.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Where it has the file mounted; none for work without a mount.
    pub fn mountpoint(&self) -> Option<&Path> {
        (!self.place.is_empty()).then(|| Path::new(&self.place))
    }

    /// Whether it is this process.
    pub fn is_this_process(&self) -> bool {
        self.process == std::process::id() && self.host.as_bytes() == shortened(process::host_name().as_bytes())
    }

    /// This process, from now on.
    pub(super) fn this_process(mountpoint: &Path) -> Self {
        let place = mountpoint.as_os_str().to_owned();
        Self { host: process::host_name(), process: std::process::id(), since: Timestamp::now(), place }
    }

    /// Shows it to others of the file, in place of what was shown for this open file description before.
    pub(super) fn show(&self, file: &File) -> io::Result<()> {
        hide(file)?;
        for (number, piece) in self.encode().chunks(PIECE_LEN).enumerate() {
            let at = range(number).start + value(piece);
            file::try_lock(file, at..at + 1, Lock::Shared)?;
        }
        Ok(())
    }

    /// One who has the file claimed; none where pieces of several do not fit together.
    pub(super) fn of(file: &File) -> Option<Self> {
        let mut bytes = Vec::new();
        for number in 0..MAX_LEN / PIECE_LEN {
            if bytes.get(2).is_some_and(|&len| bytes.len() >= usize::from(len)) {
                break;
            }
            let range = range(number);
            let at = file::locked_from(file, range.clone()).ok()??.checked_sub(range.start)?;
            bytes.extend(&at.to_le_bytes()[..PIECE_LEN]);
        }
        Self::decode(&bytes)
    }

    /// What is too long ends early: of the mountpoint the end is kept.
    fn encode(&self) -> Vec<u8> {
        let host = shortened(self.host.as_bytes());
        let place = self.place.as_bytes();
        let room = MAX_LEN - PREFIX_LEN - host.len() - 1;
        let place = &place[place.len().saturating_sub(room)..];
        let len = u8::try_from(PREFIX_LEN + host.len() + 1 + place.len()).unwrap_or(u8::MAX);
        let since = u32::try_from(self.since.since_1970().as_secs()).unwrap_or(u32::MAX);
        let mut bytes = vec![0, 0, len];
        bytes.extend(self.process.to_le_bytes());
        bytes.extend(since.to_le_bytes());
        bytes.extend(host);
        bytes.push(0);
        bytes.extend(place);
        let check = check(&bytes[2..]);
        bytes[..2].copy_from_slice(&check);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..usize::from(*bytes.get(2)?))?;
        let (prefix, text) = bytes.split_first_chunk::<PREFIX_LEN>()?;
        if prefix[..2] != check(&bytes[2..]) {
            return None;
        }
        let number = |at: usize| Some(u32::from_le_bytes(prefix.get(at..at + 4)?.try_into().ok()?));
        let nul = text.iter().position(|&byte| byte == 0)?;
        Some(Self {
            host: OsString::from_vec(text[..nul].to_vec()),
            process: number(3)?,
            since: Timestamp::from_secs(number(7)?.into()),
            place: OsString::from_vec(text[nul + 1..].to_vec()),
        })
    }
}

/// Shows no name any more.
pub(super) fn hide(file: &File) -> io::Result<()> {
    file::try_lock(file, START..range(MAX_LEN / PIECE_LEN).start, Lock::None).map(|_| ())
}

/// As much of a host's name as is shown.
fn shortened(host: &[u8]) -> &[u8] {
    &host[..host.len().min(64)]
}

fn range(number: usize) -> Range<i64> {
    let start = START + RANGE_LEN * i64::try_from(number).unwrap_or(0);
    start..start + (RANGE_LEN - 1)
}

fn value(piece: &[u8]) -> i64 {
    let mut bytes = [0; 8];
    bytes[..piece.len()].copy_from_slice(piece);
    i64::from_le_bytes(bytes)
}

/// Tells pieces of one name from those of several (FNV-1a, folded).
fn check(bytes: &[u8]) -> [u8; 2] {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_le_bytes();
    [a ^ c, b ^ d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(host: &str, place: &str) -> Holder {
        Holder { host: host.into(), process: 4711, since: Timestamp::from_secs(1_800_000_000), place: place.into() }
    }

    #[test]
    fn a_name_of_any_length_is_read_by_others_while_it_is_shown() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(named.path()).unwrap();
        let long = "/run/".repeat(40);
        for shown in [holder("h", ""), holder("esx01", "/run/vm/web01"), holder("esx01.example", &long)] {
            let (owner, other) = (open(), open());
            assert_eq!(Holder::of(&other), None);
            holder("before", "/mnt").show(&owner).unwrap();
            shown.show(&owner).unwrap();
            let found = Holder::of(&other).unwrap();
            assert_eq!((&found.host, found.process, found.since), (&shown.host, 4711, shown.since));
            assert!(shown.place.as_bytes().ends_with(found.place.as_bytes()) && found.place.len() <= MAX_LEN);
            assert_eq!(found.place.is_empty(), shown.place.is_empty());
            assert_eq!(Holder::of(&owner), None, "an own name is not another one's");
            hide(&owner).unwrap();
            assert_eq!(Holder::of(&other), None);
            shown.show(&owner).unwrap();
            drop(owner);
            assert_eq!(Holder::of(&other), None, "it ends with the open file, so with the process");
        }
    }

    #[test]
    fn of_several_openers_one_is_named() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(named.path()).unwrap();
        let (first, second) = (open(), open());
        let names = [holder("esx01", "/run/vm/a"), holder("esx02", "/run/vm/b")];
        names[0].show(&first).unwrap();
        names[1].show(&second).unwrap();
        assert!(names.contains(&Holder::of(&open()).unwrap()));
        drop(first);
        assert_eq!(Holder::of(&open()).as_ref(), Some(&names[1]));
    }

    #[test]
    fn what_others_say_of_themselves_does_not_control_a_terminal() {
        let shown = holder("esx\x1b[2J\n01", "/mnt/\u{202e}").to_string();
        assert_eq!(
            shown,
            "process 4711 on host esx\\x1b[2J\\x0a01, mounted at /mnt/\\u{202e}, has it open since 2027-01-15T08:00:00Z"
        );
    }

    #[test]
    fn no_bytes_are_taken_for_a_name_but_those_of_one() {
        let bytes = holder("esx01", "/run/vm/web01").encode();
        assert!(Holder::decode(&bytes).is_some());
        for at in 0..bytes.len() {
            assert_eq!(Holder::decode(&bytes[..at]), None);
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert_eq!(Holder::decode(&wrong), None, "byte {at}");
        }
    }
}
