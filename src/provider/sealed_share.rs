//! Shares of KEKs that are sealed to the TPM of this host, and their files (docs/FORMAT.md, section 5).

use std::path::Path;

use uuid::Uuid;

use super::kek_share::KekShare;
use super::private_file;
use super::tpm::{LIMIT, Pcrs, SealedObject, Tpm};
use crate::crypto::derive::sha256;
use crate::crypto::ecdh::{COORDINATE_LEN, Point};
use crate::error::{Context, Error, Kind, Result};
use crate::key::KEK_LEN;
use crate::sys::SecretBytes;
use crate::text::Show;

const MAGIC: [u8; 8] = *b"VMCRYPTQ";
const VERSION: u16 = 1;
const HEAD_LEN: usize = 100;
const CHECKSUM_LEN: usize = 32;
const MIN_LEN: usize = HEAD_LEN + CHECKSUM_LEN;
/// Longest private and public part. A TPM's answers have at most 4096 bytes.
const MAX_PART: u16 = 2048;
const UUID_LEN: usize = 16;

/// A share that one TPM can unseal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedShare {
    uuid: Uuid,
    object: SealedObject,
}

impl SealedShare {
    /// Seals a share to the TPM that `tpm` leads to, for as long as the PCRs have the values that they have now, and proves that it
    /// can be unsealed.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is no TPM, or it does not answer or refuses; `Denied` when this user may not use it, or
    /// it wants a password; `Unsupported` when the object is longer than a file may have it.
    pub fn seal(share: &KekShare, tpm: &Path, pcrs: Pcrs) -> Result<Self> {
        let mut secret = SecretBytes::zeroed(UUID_LEN + KEK_LEN);
        secret[..UUID_LEN].copy_from_slice(share.uuid().as_bytes());
        secret[UUID_LEN..].copy_from_slice(share.secret());
        let object = Tpm::open(tpm, LIMIT)?.seal(&secret, pcrs)?;
        let sealed = Self { uuid: share.uuid(), object };
        let unsealed = Self::decode(&sealed.encode()?)?.unseal(tpm)?;
        match unsealed.secret() == share.secret() {
            true => Ok(sealed),
            false => Err(Error::new(Kind::Corrupt, "the TPM unsealed another share than the one that was sealed")),
        }
    }

    /// Has the TPM unseal it.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is no TPM, it is another one, its PCRs have other values, it does not answer or refuses;
    /// `Corrupt` when the share is damaged or not of its file; `Denied` when this user may not use the TPM.
    pub fn unseal(&self, tpm: &Path) -> Result<KekShare> {
        let opened = Tpm::open(tpm, LIMIT)?.unseal(&self.object)?;
        let (uuid, bytes) = opened.split_at_checked(UUID_LEN).unwrap_or_default();
        if uuid != self.uuid.as_bytes() || bytes.len() != KEK_LEN {
            return Err(Error::new(Kind::Corrupt, "the TPM unsealed something else than the share of this file"));
        }
        let mut secret = SecretBytes::zeroed(KEK_LEN);
        secret.copy_from_slice(bytes);
        Ok(KekShare::new(self.uuid, secret))
    }

    /// Coordinates of the storage root key, bits of the PCRs, and both parts of the object.
    pub fn parts(&self) -> ([u8; 2 * COORDINATE_LEN], u32, &[u8], &[u8]) {
        let SealedObject { root, pcrs, private, public } = &self.object;
        let mut both = [0; 2 * COORDINATE_LEN];
        both[..COORDINATE_LEN].copy_from_slice(&root.x);
        both[COORDINATE_LEN..].copy_from_slice(&root.y);
        (both, pcrs.bits(), private, public)
    }

    /// The share's name.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when others than its owner can read or change it, and those of
    /// [`decode`](Self::decode).
    pub fn load(path: &Path) -> Result<Self> {
        let file = private_file::open(path).map_err(|error| match error.kind() == Kind::NotFound {
            true => Error::with_source(
                Kind::KeyUnavailable,
                format!(
                    "no sealed kek-share {}: `vmcryptfs provider seal PROVIDER --share FILE` makes it of a copy of the share",
                    path.shown()
                ),
                error,
            ),
            false => error,
        })?;
        let max = MIN_LEN as u64 + 2 * u64::from(MAX_PART);
        let bytes = private_file::read_at_most(max, path, file)?;
        Self::decode(&bytes).context(|| format!("reading the sealed kek-share {}", path.shown()))
    }

    /// Writes the file, also in the place of a former one.
    ///
    /// # Errors
    /// `Io`.
    pub fn store(&self, path: &Path) -> Result<()> {
        private_file::create_folder(private_file::folder_of(path))?;
        private_file::replace(path, &[&self.encode()?])
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// `Unsupported` when a part of the object is longer than the file may have it.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let (root, pcrs, private, public) = self.parts();
        let len = |part: &[u8]| {
            u16::try_from(part.len()).ok().filter(|len| *len <= MAX_PART).ok_or_else(|| {
                let found = part.len();
                Error::new(Kind::Unsupported, format!("a TPM whose objects have {found} bytes, at most {MAX_PART}"))
            })
        };
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        bytes.extend_from_slice(&len(private)?.to_le_bytes());
        bytes.extend_from_slice(&len(public)?.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(self.uuid.as_bytes());
        bytes.extend_from_slice(&root);
        bytes.extend_from_slice(&pcrs.to_le_bytes());
        bytes.extend_from_slice(private);
        bytes.extend_from_slice(public);
        bytes.extend_from_slice(&sha256(&bytes));
        Ok(bytes)
    }

    /// What the bytes of a file say.
    ///
    /// # Errors
    /// `Corrupt` when they are damaged, `Unsupported` when they are of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |text: String| Error::new(Kind::Corrupt, text);
        if !bytes.starts_with(&MAGIC) {
            return Err(corrupt("not a sealed kek-share: it does not begin with VMCRYPTQ".into()));
        }
        let short = || corrupt(format!("a sealed kek-share of {} bytes, expected at least {MIN_LEN}", bytes.len()));
        let mut fields = Fields(bytes.get(MAGIC.len()..).unwrap_or_default());
        let version = fields.u16().ok_or_else(short)?;
        if version != VERSION {
            let text = format!("a sealed kek-share of version {version}, expected version {VERSION}");
            return Err(Error::new(Kind::Unsupported, text));
        }
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(short)?;
        if *checksum != sha256(content) {
            return Err(corrupt("the sealed kek-share is damaged: its checksum does not match".into()));
        }
        let mut fields = Fields(content.get(MAGIC.len() + 2..).unwrap_or_default());
        let (private_len, public_len, reserved) = fields.lengths().ok_or_else(short)?;
        if reserved != 0 || private_len > MAX_PART || public_len > MAX_PART {
            return Err(corrupt(format!("parts of {private_len} and {public_len} bytes, or reserved bytes are set")));
        }
        let head = (|| Some((fields.array()?, fields.array()?, fields.array()?, fields.array()?)))();
        let (uuid, x, y, bits) = head.ok_or_else(short)?;
        let pcrs = Pcrs::from_bits(u32::from_le_bytes(bits))?;
        let (private_len, public_len) = (usize::from(private_len), usize::from(public_len));
        if fields.0.len() != private_len + public_len {
            let found = fields.0.len();
            return Err(corrupt(format!("{found} bytes of an object, expected {}", private_len + public_len)));
        }
        let (private, public) = fields.0.split_at(private_len);
        let object = SealedObject { root: Point { x, y }, pcrs, private: private.to_vec(), public: public.to_vec() };
        Ok(Self { uuid: Uuid::from_bytes(uuid), object })
    }
}

/// What was not read yet.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn lengths(&mut self) -> Option<(u16, u16, u16)> {
        Some((self.u16()?, self.u16()?, self.u16()?))
    }
}

const _: () = assert!(HEAD_LEN == MAGIC.len() + 8 + UUID_LEN + 2 * COORDINATE_LEN + 4);
