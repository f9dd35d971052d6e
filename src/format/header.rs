//! The header of a home or a disk: one copy of 8192 bytes (docs/FORMAT.md, section 2).
//!
//! Decoding happens in stages. [`UnverifiedHeader`] has valid fields, but anyone can write those; only
//! [`verify`](UnverifiedHeader::verify) with the component's DEK gives a [`Header`] that may be acted upon.

mod decode;
mod slots;
mod state;
mod transition;

pub use crate::format::component::ComponentKind;
pub use crate::format::disk_kind::DEFAULT_DATA_OFFSET;
use decode::{decode_checked, known_features};
pub use slots::{MAX_SLOTS, Slot, Slots};
pub use state::StoredState;
pub use transition::{TRANSITION_ID_LEN, Transition, TransitionId};

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::crypto::derive;
use crate::error::{Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::erasure::{self, Erasure};
use crate::format::names::DiskNames;
use crate::format::{Reader, Writer};
use crate::key::Dek;

/// Bytes of one copy.
pub const COPY_LEN: usize = 8192;
/// Bytes at the front of a copy that show whether, and of what kind, a file is a component.
pub const PREFIX_LEN: usize = 11;
/// Name of the file in a VM folder that makes it encrypted.
pub const HOME_FILE: &str = "vmcryptfs.home";
/// Beginning of all other names in a VM folder that belong to vmcryptfs.
pub const RESERVED_PREFIX: &str = ".vmcryptfs-";
/// Beginning of the names of components under construction.
pub const NEW_PREFIX: &str = ".vmcryptfs-new-";
/// Name of a home's header while the home's files are being encrypted.
pub const ENCRYPTING_FILE: &str = ".vmcryptfs-encrypting";
/// Name of a home's header while the home's files are being decrypted.
pub const DECRYPTING_FILE: &str = ".vmcryptfs-decrypting";
/// Bytes of [`UnverifiedHeader::state_mark`].
pub const STATE_MARK_LEN: usize = 16;
/// Longest label in bytes.
pub const MAX_LABEL_LEN: usize = 255;

const MAGIC: [u8; 8] = *b"VMCRYPTF";
const VERSION: u16 = 1;
const SEQUENCE: std::ops::Range<usize> = 16..24;
const FIXED_LEN: usize = 64;
const HMAC_OFFSET: usize = 8128;
const CHECKSUM_OFFSET: usize = 8160;
const MAX_BODY_LEN: usize = HMAC_OFFSET - FIXED_LEN;
/// Code of XAES-256-GCM.
const HOME_CIPHER: u8 = 2;
const HOME_BLOCK_SIZE: u32 = 4096;
const DATA_OFFSET_STEP: u64 = 1 << 20;
const MAX_DATA_OFFSET: u64 = 1 << 30;
const WRAP_AES_256_KWP: u8 = 1;
/// The feature flag of a disk that names its home, and of a home all of whose disks do.
const OWNED: u32 = 4;
/// The feature flag of a home that lists its disks.
const LISTED: u32 = 8;
/// Features that a component never loses once it has them.
pub const LASTING_FEATURES: u32 = state::HAS_STATE | OWNED | LISTED;
/// What KWP (RFC 5649) adds to a key whose length is a multiple of 8.
const KWP_OVERHEAD: usize = 8;

/// Names that a mount never shows and a user never makes.
pub fn is_reserved(name: &OsStr) -> bool {
    name == HOME_FILE || name.as_bytes().starts_with(RESERVED_PREFIX.as_bytes())
}

/// What a component is, and how its data is laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// Files of a VM folder that are not disks: XAES-256-GCM, 4096-byte blocks.
    Home,
    /// A disk image.
    Disk(DiskShape),
}

impl Shape {
    /// Home or disk.
    pub fn kind(self) -> ComponentKind {
        match self {
            Self::Home => ComponentKind::Home,
            Self::Disk(_) => ComponentKind::Disk,
        }
    }

    /// Kind and geometry of a disk.
    pub fn disk(self) -> Option<DiskShape> {
        match self {
            Self::Home => None,
            Self::Disk(disk) => Some(disk),
        }
    }

    /// What people call the cipher of its data.
    pub fn cipher(self) -> &'static str {
        self.disk().map_or("XAES-256-GCM", |disk| disk.kind.layout().cipher())
    }

    fn codes(self) -> [u8; 2] {
        let cipher = self.disk().map_or(HOME_CIPHER, |disk| disk.kind.layout().code());
        [self.kind().code(), cipher]
    }
}

/// What a header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// Grows by one on each update; at least 1.
    pub sequence: u64,
    /// Identity of the component; never changes.
    pub uuid: Uuid,
    /// Kind and geometry.
    pub shape: Shape,
    /// How many deep rekeys were begun: headers of one component that agree in it have the same DEK.
    pub dek_generation: u32,
    /// For people; at most 255 bytes, no control characters.
    pub label: String,
    /// Which new files become disks; a home's only.
    pub disk_names: DiskNames,
    /// What opens it.
    pub slots: Slots,
    /// A deep rekey that is under way.
    pub transition: Option<Transition>,
    /// The UUID of the home that a disk belongs to; `None` in the header of a home, and of a disk that an older version made.
    pub owner: Option<Uuid>,
    /// Whether all disks of a home name it.
    pub binds_disks: bool,
    /// Whether a home has a list of its disks.
    pub lists_disks: bool,
    /// How much of a home's files is sealed; `None` in the header of a disk, and of a home that an older version made.
    pub state: Option<StoredState>,
}

impl Header {
    /// That of a new component, whose first slot this is. A new home is encrypted as a whole, and has only disks that name it.
    pub fn new(uuid: Uuid, shape: Shape, label: String, slot: Slot) -> Self {
        let binds_disks = shape == Shape::Home;
        Self {
            sequence: 1,
            uuid,
            shape,
            dek_generation: 0,
            label,
            disk_names: DiskNames::default(),
            slots: slot.into(),
            transition: None,
            owner: None,
            binds_disks,
            lists_disks: binds_disks,
            state: binds_disks.then_some(StoredState::Encrypted),
        }
    }

    /// The bytes of one copy, authenticated by the component's DEK.
    ///
    /// # Errors
    /// `Invalid` when a field is outside its limits.
    pub fn encode(&self, dek: &Dek) -> Result<Vec<u8>> {
        if dek.bytes().len() != self.shape.kind().dek_len() {
            return Err(Error::new(Kind::Invalid, wrong_dek(self.shape.kind(), dek)));
        }
        let mut w = self.encode_fields()?;
        let hmac = derive::hmac(authentication_key(&self.uuid, dek)?.as_slice(), w.bytes());
        w.put(hmac);
        w.put(derive::sha256(w.bytes()));
        // What a reader would refuse is not written.
        match UnverifiedHeader::decode(w.bytes()) {
            Ok(_) => Ok(w.bytes().to_vec()),
            Err(error) => Err(Error::with_source(Kind::Invalid, "a header that could not be read again", error)),
        }
    }

    /// The generation of a DEK that takes the present one's place.
    ///
    /// # Errors
    /// `Denied` when there is none any more.
    pub fn next_dek_generation(&self) -> Result<u32> {
        self.dek_generation.checked_add(1).ok_or_else(|| {
            Error::new(Kind::Denied, "2^32 - 1 deep rekeys were made of this component: no other can be")
        })
    }

    fn encode_fields(&self) -> Result<Writer> {
        let body = self.encode_body()?;
        let (sector_size, data_offset) = match self.shape {
            Shape::Home => (HOME_BLOCK_SIZE, 0),
            Shape::Disk(disk) => (disk.sector_size.to_u32(), disk.data_offset),
        };
        let mut w = Writer::default();
        w.put(MAGIC);
        w.put(VERSION.to_le_bytes());
        w.put(self.shape.codes());
        w.put(self.features().to_le_bytes());
        w.put(self.sequence.to_le_bytes());
        w.put(self.uuid.as_bytes());
        w.put(sector_size.to_le_bytes());
        w.put(self.dek_generation.to_le_bytes());
        w.put(data_offset.to_le_bytes());
        let body_len = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY_LEN).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("header body of {} bytes, at most {MAX_BODY_LEN}", body.len()))
        })?;
        w.put(body_len.to_le_bytes());
        w.put([0; 4]); // reserved
        w.put(body);
        w.pad_to(HMAC_OFFSET)?;
        Ok(w)
    }

    /// The feature flags.
    pub fn features(&self) -> u32 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        flag(self.transition.is_some(), transition::IN_TRANSITION)
            | flag(self.state.is_some(), state::HAS_STATE)
            | flag(self.owner.is_some() || self.binds_disks, OWNED)
            | flag(self.lists_disks, LISTED)
    }

    fn encode_body(&self) -> Result<Vec<u8>> {
        check_label(&self.label)?;
        let mut w = Writer::default();
        w.count_u16(self.label.len(), "bytes of label")?;
        w.put(&self.label);
        w.count_u8(self.disk_names.stored().len(), "patterns of disk names")?;
        for pattern in self.disk_names.stored() {
            w.count_u8(pattern.len(), "bytes of pattern")?;
            w.put(pattern);
        }
        w.count_u8(self.slots.len(), "slots")?;
        for slot in self.slots.iter() {
            w.put([WRAP_AES_256_KWP]);
            w.count_u8(slot.key_id.provider().as_str().len(), "bytes of provider name")?;
            w.put(slot.key_id.provider().as_str());
            w.count_u16(slot.key_id.id().len(), "bytes of key id")?;
            w.put(slot.key_id.id());
            w.put(slot.check.0);
            w.count_u8(slot.wrapped.0.len(), "bytes of wrapped DEK")?;
            w.put(&slot.wrapped.0);
        }
        if let Some(transition) = &self.transition {
            transition.encode(&mut w)?;
        }
        if let Some(state) = self.state {
            w.put([state.code()]);
        }
        if let Some(owner) = self.owner {
            w.put(owner.as_bytes());
        }
        Ok(w.bytes().to_vec())
    }
}

/// A copy whose bytes are intact and whose fields are within their limits; their author is not known yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnverifiedHeader {
    header: Header,
    /// What lies before the HMAC, but for zeros at its end: of 8 KiB, a few hundred bytes. A large datastore has many headers.
    fields: Box<[u8]>,
    /// HMAC and checksum.
    seals: [u8; COPY_LEN - HMAC_OFFSET],
    /// The file that it was read from, if it is known: it tells copies of one component apart.
    place: Option<HeaderPlace>,
}

/// Device and inode number of the file that a header was read from.
pub type HeaderPlace = (u64, u64);

/// SHA-256 of a copy up to its checksum, which it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CopyDigest([u8; COPY_LEN - CHECKSUM_OFFSET]);

/// Whether a file with these bytes at a header copy's offset is a component, or was one, as far as they show, and of what kind.
pub fn component_kind(prefix: &[u8; PREFIX_LEN]) -> Option<ComponentKind> {
    let magic = prefix.starts_with(&MAGIC) || prefix.starts_with(&erasure::MAGIC);
    ComponentKind::of_code(prefix[10]).filter(|_| magic)
}

impl UnverifiedHeader {
    /// Everything that can be checked without a key.
    ///
    /// # Errors
    /// `Invalid` for a foreign file, `Unsupported` for a newer format, `Corrupt` for damage, `KeyUnavailable` for an erased
    /// component.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if let Some(erasure) = Erasure::decode(bytes) {
            return Err(erasure.error());
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::new(Kind::Invalid, "not a vmcryptfs component: it does not begin with \"VMCRYPTF\""));
        }
        if bytes.len() != COPY_LEN {
            return Err(Error::new(Kind::Corrupt, format!("{} bytes of header, expected {COPY_LEN}", bytes.len())));
        }
        let mut r = Reader::new(&bytes[MAGIC.len()..]);
        let version = r.u16()?;
        if version != VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("format version {version}, this program knows {VERSION}"),
            ));
        }
        // Where the checksum lies belongs to the version, so it is judged before anything that a flipped bit could fake.
        if derive::sha256(&bytes[..CHECKSUM_OFFSET]) != bytes[CHECKSUM_OFFSET..] {
            return Err(Error::new(Kind::Corrupt, "header checksum does not match its content"));
        }
        let codes: [u8; 2] = r.array()?;
        let features = r.u32()?;
        let known = known_features(codes[0]);
        if features & !known != 0 {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "feature flags {features:#010x}, this program knows {known:#x}: it is too old for this component"
                ),
            ));
        }
        let header = decode_checked(codes, features, &mut r)?;
        let (fields, seals) = bytes.split_at(HMAC_OFFSET);
        let used = fields.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Ok(Self { header, fields: fields[..used].into(), seals: Reader::new(seals).array()?, place: None })
    }

    /// The same, read from a file.
    #[must_use]
    pub fn at(self, place: Option<HeaderPlace>) -> Self {
        Self { place, ..self }
    }

    /// The file that it was read from, if it is known.
    pub fn place(&self) -> Option<HeaderPlace> {
        self.place
    }

    /// Proves with the component's DEK that its owner wrote this copy.
    ///
    /// # Errors
    /// `Corrupt` when the HMAC does not match: a field was changed, or a slot comes from another component; or when `dek`
    /// is of the other kind's length.
    pub fn verify(self, dek: &Dek) -> Result<Header> {
        if dek.bytes().len() != self.header.shape.kind().dek_len() {
            return Err(Error::new(Kind::Corrupt, wrong_dek(self.header.shape.kind(), dek)));
        }
        let key = authentication_key(&self.header.uuid, dek)?;
        let hmac = &self.seals[..CHECKSUM_OFFSET - HMAC_OFFSET];
        if derive::hmac_verifies(key.as_slice(), &self.bytes()[..HMAC_OFFSET], hmac) {
            Ok(self.header)
        } else {
            Err(Error::new(
                Kind::Corrupt,
                "the header was changed without its key, or a key slot was moved here from another component",
            ))
        }
    }

    /// What the copy claims. Good for showing and for finding the KEK, for nothing else.
    pub fn claims(&self) -> &Header {
        &self.header
    }

    /// The copy as it is stored.
    pub fn bytes(&self) -> [u8; COPY_LEN] {
        let mut bytes = [0; COPY_LEN];
        bytes[..self.fields.len()].copy_from_slice(&self.fields);
        bytes[HMAC_OFFSET..].copy_from_slice(&self.seals);
        bytes
    }

    /// Identity of the copy.
    pub fn digest(&self) -> CopyDigest {
        let mut digest = [0; 32];
        digest.copy_from_slice(&self.seals[CHECKSUM_OFFSET - HMAC_OFFSET..]);
        CopyDigest(digest)
    }

    /// Tells what the copy says, its sequence aside, from what another one of the same component says.
    pub fn state_mark(&self) -> [u8; STATE_MARK_LEN] {
        let mut fields = self.fields.to_vec();
        fields[SEQUENCE].fill(0);
        *derive::sha256(&fields).first_chunk().expect("a digest is longer than a mark")
    }

    /// Whether two copies are the same to the bit.
    pub fn same_bytes(&self, other: &Self) -> bool {
        (&self.fields, &self.seals) == (&other.fields, &other.seals)
    }
}

fn check_label(label: &str) -> Result<()> {
    if label.len() <= MAX_LABEL_LEN && !label.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!("label of {} bytes, expected at most {MAX_LABEL_LEN} without control characters", label.len()),
    ))
}

fn wrong_dek(kind: ComponentKind, dek: &Dek) -> String {
    format!("a DEK of {} bytes for a {}, expected {}", dek.bytes().len(), kind.word(), kind.dek_len())
}

/// In a file, a value outside its limits is damage, whatever it would be as an argument.
fn as_damage(error: Error) -> Error {
    Error::with_source(Kind::Corrupt, "header field outside its limits", error)
}

fn authentication_key(uuid: &Uuid, dek: &Dek) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    derive::hkdf(uuid.as_bytes(), dek.bytes(), "vmcryptfs v1 header authentication", key.as_mut())?;
    Ok(key)
}

#[cfg(test)]
mod tests;
