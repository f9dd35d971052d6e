//! KEKs that a host keeps over a restart, sealed by its TPM (docs/FORMAT.md, section 21).

use std::fmt;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::push::{key_id, put_long};
use super::{check_len, check_start, put_start, put_text};
use crate::crypto::xaes::{NONCE_LEN, Seal, TAG_LEN, Xaes256Gcm};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::{KEK_LEN, KeyId};
use crate::sys::SecretBytes;
use crate::timestamp::Timestamp;

const MAGIC: [u8; 8] = *b"VMCRYPTN";
/// Most KEKs of a file.
pub const MAX_KEPT: usize = 16_384;
/// Longest file, in bytes.
pub const MAX_KEPT_LEN: usize = 1 << 24;
const WRAPS: u8 = 1;
const UNWRAPS_ONLY: u8 = 2;

/// A KEK that a host keeps.
pub struct KeptKek {
    /// UUID of its pushed provider.
    pub provider: Uuid,
    /// Its key id.
    pub id: KeyId,
    /// Whether it may wrap.
    pub wraps: bool,
    /// When the time began for which it may be used, by this host's clock; whole seconds.
    pub begun: Timestamp,
    /// The KEK.
    pub kek: SecretBytes,
}

impl fmt::Debug for KeptKek {
    /// Without the KEK.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptKek({} of {}, {})", self.id, self.provider, self.begun.to_millis())
    }
}

impl KeptKek {
    /// Entries are in this order.
    fn place(&self) -> (Uuid, &str) {
        (self.provider, self.id.id())
    }
}

/// A file of kept KEKs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeptKeks {
    /// The cluster that they came from.
    pub cluster: Uuid,
    /// The host that they are for.
    pub host: Uuid,
    /// What the TPM makes the key of that seals them.
    pub sealed_key: Vec<u8>,
    seal: Seal,
    cipher: Vec<u8>,
}

impl KeptKeks {
    /// Seals KEKs by a key of 32 bytes, which `sealed_key` gives back where the TPM is.
    ///
    /// # Errors
    /// `Invalid` when there are more than [`MAX_KEPT`], or one is there twice.
    pub fn seal((cluster, host): (Uuid, Uuid), sealed_key: &[u8], key: &[u8], keks: &mut [KeptKek]) -> Result<Self> {
        keks.sort_by(|a, b| a.place().cmp(&b.place()));
        if keks.len() > MAX_KEPT || !keks.is_sorted_by(|a, b| a.place() < b.place()) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} KEKs to keep, at most {MAX_KEPT}, each once", keks.len()),
            ));
        }
        let clear = entries(keks)?;
        let mut kept = Self {
            cluster,
            host,
            sealed_key: sealed_key.to_vec(),
            seal: Seal { nonce: [0; NONCE_LEN], tag: [0; TAG_LEN] },
            cipher: vec![0; clear.len()],
        };
        let head = kept.head()?;
        kept.seal = Xaes256Gcm::new(key)?.sealer()?.seal(&head, &clear, &mut kept.cipher)?;
        Ok(kept)
    }

    /// All before the nonce: the associated data.
    fn head(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        put_start(&mut writer, &MAGIC);
        writer.put(self.cluster.as_bytes());
        writer.put(self.host.as_bytes());
        writer.count_u16(self.sealed_key.len(), "bytes of a sealed key")?;
        writer.put(&self.sealed_key);
        Ok(writer.bytes().to_vec())
    }

    /// As it is stored.
    ///
    /// # Errors
    /// `Invalid` when the sealed key is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        Ok([&self.head()?, self.seal.nonce.as_slice(), &self.cipher, &self.seal.tag].concat())
    }

    /// Reads a file. What is sealed in it is not opened.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 file has, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_len(bytes, MAX_KEPT_LEN, "a file of kept KEKs")?;
        let mut reader = Reader::new(bytes);
        check_start(&mut reader, MAGIC, "a file of kept KEKs")?;
        let (cluster, host) = (Uuid::from_bytes(reader.array()?), Uuid::from_bytes(reader.array()?));
        let len = usize::from(reader.u16()?);
        let sealed_key = reader.bytes(len)?.to_vec();
        let nonce = reader.array()?;
        let (cipher, tag) = bytes[reader.taken()..].split_last_chunk::<TAG_LEN>().ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("{} bytes of a file of kept KEKs, which ends too soon", bytes.len()))
        })?;
        Ok(Self { cluster, host, sealed_key, seal: Seal { nonce, tag: *tag }, cipher: cipher.to_vec() })
    }

    /// The KEKs, by the key that the TPM gave.
    ///
    /// # Errors
    /// `KeyRejected` when they were sealed by another key or changed since, `Corrupt`.
    pub fn open(&self, key: &[u8]) -> Result<Vec<KeptKek>> {
        let mut clear = Zeroizing::new(self.cipher.clone());
        if !Xaes256Gcm::new(key)?.opener().open(&self.seal, &self.head()?, &mut clear)? {
            return Err(Error::new(Kind::KeyRejected, "the kept KEKs were sealed by another key, or changed since"));
        }
        let mut reader = Reader::new(&clear);
        let keks = (0..reader.u16()?).map(|_| entry(&mut reader)).collect::<Result<Vec<_>>>()?;
        reader.end()?;
        match keks.len() <= MAX_KEPT && keks.is_sorted_by(|a, b| a.place() < b.place()) {
            true => Ok(keks),
            false => Err(Error::new(Kind::Corrupt, "kept KEKs are too many, or not in ascending order, each once")),
        }
    }
}

/// What is sealed. The buffer never grows: growing would leave a copy of KEKs in memory.
fn entries(keks: &[KeptKek]) -> Result<Zeroizing<Vec<u8>>> {
    let mut count = Writer::default();
    count.count_u16(keks.len(), "KEKs")?;
    let heads = keks.iter().map(|kept| {
        let mut head = Writer::default();
        head.put(kept.provider.as_bytes());
        put_text(&mut head, kept.id.provider().as_str())?;
        put_long(&mut head, kept.id.id())?;
        head.put([if kept.wraps { WRAPS } else { UNWRAPS_ONLY }]);
        head.put(kept.begun.since_1970().as_secs().to_le_bytes());
        Ok(head.bytes().to_vec())
    });
    let heads = heads.collect::<Result<Vec<Vec<u8>>>>()?;
    let len = 2 + heads.iter().map(|head| head.len() + KEK_LEN).sum::<usize>();
    let mut clear = Zeroizing::new(Vec::with_capacity(len));
    clear.extend_from_slice(count.bytes());
    for (head, kept) in heads.iter().zip(keks) {
        clear.extend_from_slice(head);
        clear.extend_from_slice(&kept.kek);
    }
    Ok(clear)
}

fn entry(reader: &mut Reader<'_>) -> Result<KeptKek> {
    let provider = Uuid::from_bytes(reader.array()?);
    let name = super::provider::provider_name(reader)?;
    let id = KeyId::new(name, key_id(reader)?).context(|| "a kept KEK".into())?;
    let wraps = match reader.u8()? {
        WRAPS => true,
        UNWRAPS_ONLY => false,
        other => return Err(Error::new(Kind::Corrupt, format!("{other} of a kept KEK, expected 1 or 2"))),
    };
    let begun = Timestamp::from_secs(reader.u64()?);
    let mut kek = SecretBytes::zeroed(KEK_LEN);
    kek.copy_from_slice(reader.bytes(KEK_LEN)?);
    Ok(KeptKek { provider, id, wraps, begun, kek })
}
