//! Challenges: what a quote must be made after, and for. Every member of an authority knows its own and the others', and keeps
//! nothing of them until they are used.

use crate::authority_key::{AuthorityKey, KEY_LEN, random};
use crate::error::{Error, Result};
use crate::identity::HostId;
use crate::pcr::{PCR_COUNT, PcrIndex, PcrSelection};
use crate::tpm::{Reader, Writer};

/// Seconds in which a challenge must be answered.
pub const CHALLENGE_LIFETIME: u64 = 60;

/// Seconds that the clocks of two members may be apart.
const CLOCK_DIFFERENCE: u64 = 5;

/// What the code of a challenge authenticates.
const PURPOSE: &[u8] = b"vmcryptfs attest challenge 1";
const VERSION: u16 = 1;
/// Random bytes, which are also the name by which a challenge is used once.
pub(super) const ID_LEN: usize = 16;

/// A new challenge for a host, at `now` in seconds of Unix time: the registers that its quote must be of, and random bytes
/// (docs/ATTESTATION.md, "Challenges").
///
/// A selection of no register is what a policy needs that asks for nothing but the TPM.
///
/// # Errors
/// `Failed` when the random generator failed.
pub fn issue(key: &AuthorityKey, host: HostId, selection: PcrSelection, now: u64) -> Result<Vec<u8>> {
    let fields = Writer::default()
        .u16(VERSION)
        .u64(now)
        .u16(selection.bank().id())
        .u32(selection.mask())
        .raw(&random::<ID_LEN>()?)
        .finish();
    let code = key.authenticate(&[PURPOSE, host.as_bytes(), &fields]);
    Ok([&fields[..], &code].concat())
}

/// A challenge that a member of this authority gave to a host less than a minute ago. It may have been used.
#[derive(Debug)]
pub struct FreshChallenge {
    bytes: Vec<u8>,
    host: HostId,
    selection: PcrSelection,
    id: [u8; ID_LEN],
    ends: u64,
}

impl FreshChallenge {
    /// Checks a challenge that `host` sent back, at `now` in seconds of Unix time by the authority's own clock.
    ///
    /// # Errors
    /// `Refused` when no member of this authority gave it to this host, or not in the last minute.
    pub fn check(key: &AuthorityKey, bytes: &[u8], host: HostId, now: u64) -> Result<Self> {
        checked(key, bytes, host, now).map_err(|error| error.within(format_args!("the challenge of the host {host}")))
    }

    /// Uses the challenge up. `use_once` gets its name, and until when that has to be kept, in seconds of Unix time. It returns
    /// whether this is the first use of the name at all members of the authority.
    ///
    /// # Errors
    /// `Refused` when the challenge was used before; what `use_once` fails with, when that is not known.
    pub fn spend(self, use_once: impl FnOnce(&[u8; ID_LEN], u64) -> Result<bool>) -> Result<SpentChallenge> {
        if !use_once(&self.id, self.ends)? {
            return Err(Error::refused(format!("the challenge of the host {} was used before", self.host)));
        }
        Ok(SpentChallenge { bytes: self.bytes, id: self.id, host: self.host, selection: self.selection })
    }
}

/// A challenge that no other quote can be checked with.
#[derive(Debug)]
pub struct SpentChallenge {
    bytes: Vec<u8>,
    id: [u8; ID_LEN],
    host: HostId,
    selection: PcrSelection,
}

impl SpentChallenge {
    /// The host that it was given to.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The registers that a quote for it must be of.
    pub fn selection(&self) -> PcrSelection {
        self.selection
    }

    pub(super) fn id(&self) -> [u8; ID_LEN] {
        self.id
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn checked(key: &AuthorityKey, bytes: &[u8], host: HostId, now: u64) -> Result<FreshChallenge> {
    let (fields, code) = bytes
        .split_last_chunk::<KEY_LEN>()
        .ok_or_else(|| Error::malformed(format!("{} bytes: expected over {KEY_LEN}", bytes.len())))?;
    if !key.is_authentic(&[PURPOSE, host.as_bytes(), fields], code) {
        return Err(Error::refused("no member of this authority gave it to this host"));
    }
    let mut reader = Reader::new(fields);
    match reader.u16("its version")? {
        VERSION => {}
        other => return Err(Error::unsupported(format!("its version is {other}: expected {VERSION}"))),
    }
    let issued = reader.u64("its time")?;
    let bank = reader.hash("its bank")?;
    let mask = reader.u32("its PCRs")?;
    let id = reader.array("its random bytes")?;
    reader.finish()?;
    let ends = issued.saturating_add(CHALLENGE_LIFETIME);
    if now > ends || issued > now.saturating_add(CLOCK_DIFFERENCE) {
        return Err(Error::refused(format!(
            "it was given at {issued} and is good for {CHALLENGE_LIFETIME} seconds, and it is {now} (seconds of Unix time)"
        )));
    }
    if mask >> PCR_COUNT != 0 {
        return Err(Error::malformed(format!("its PCRs are {mask:#010x}: expected those below {PCR_COUNT}")));
    }
    let selection = PcrSelection::new(bank, PcrIndex::all().filter(|index| mask & 1 << index.number() != 0));
    Ok(FreshChallenge { bytes: bytes.to_vec(), host, selection, id, ends })
}
