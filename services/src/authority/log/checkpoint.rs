//! Checkpoints: what an authority signs of its log. Their form is that of transparency logs (C2SP tlog-checkpoint and signed-note).
//!
//! ```text
//! vmcryptfs-authority/2b6f0cc4-...        the log
//! 17                                      entries
//! qTcsbEw2/hHDdz4nC/tlLYbv7VHFYzXg7cTUuZ0Yx1s=
//!
//! — vmcryptfs-authority/2b6f0cc4-... eHPSNF...
//! ```

use data_encoding::BASE64;
use uuid::Uuid;
use vmcryptfs::crypto::derive::Sha256;
use vmcryptfs::crypto::sign::{PUBLIC_LEN, SIGNATURE_LEN, SigningKey, verifies};
use vmcryptfs::error::{Error, Kind, Result};

use super::tree::Hash;

/// The algorithm Ed25519 of signed notes.
const ED25519: u8 = 1;
const ID_LEN: usize = 4;

/// How far a log is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Its entries.
    pub size: usize,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The name of an authority's log.
    pub fn origin_of(authority: Uuid) -> String {
        format!("vmcryptfs-authority/{authority}")
    }

    /// As text, signed.
    pub fn sign(&self, key: &SigningKey) -> String {
        let body = format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root));
        let signature = [key_id(&self.origin, &key.public()).as_slice(), &key.sign(body.as_bytes())].concat();
        format!("{body}\n\u{2014} {} {}\n", self.origin, BASE64.encode(&signature))
    }

    /// Reads the checkpoint of the log `origin`, which has to be signed by this key.
    ///
    /// # Errors
    /// `Corrupt` for what is not one, `Denied` for one of another log or key.
    pub fn verify(text: &str, origin: &str, public: &[u8; PUBLIC_LEN]) -> Result<Self> {
        let wrong = |what: &str| Error::new(Kind::Corrupt, format!("a checkpoint {what}"));
        let (body, signatures) = text.split_once("\n\n").ok_or_else(|| wrong("without signature"))?;
        let fields: Vec<&str> = body.split('\n').collect();
        let [found, size, root] = fields.as_slice() else {
            return Err(wrong(&format!("of {} lines, expected 3", fields.len())));
        };
        if *found != origin {
            return Err(Error::new(Kind::Denied, format!("a checkpoint of the log {found:?}, expected {origin}")));
        }
        let count: usize = size.parse().map_err(|_| wrong("without a number of entries"))?;
        let root: Option<Hash> = BASE64.decode(root.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let root = root.filter(|_| count.to_string() == **size).ok_or_else(|| wrong("whose root is not understood"))?;
        let start = format!("\u{2014} {origin} ");
        let signed = |line: &str| {
            let bytes = line.strip_prefix(&start).and_then(|text| BASE64.decode(text.as_bytes()).ok())?;
            let (id, signature) = bytes.split_first_chunk::<ID_LEN>()?;
            let signature: &[u8; SIGNATURE_LEN] = signature.try_into().ok()?;
            let is_ours = *id == key_id(origin, public);
            (is_ours && verifies(public, format!("{body}\n").as_bytes(), signature)).then_some(())
        };
        match signatures.lines().find_map(signed) {
            Some(()) => Ok(Self { origin: origin.to_owned(), size: count, root }),
            None => Err(Error::new(Kind::Denied, "a checkpoint that is not signed by the key of the authority's log")),
        }
    }
}

/// What a signature names its key by.
fn key_id(name: &str, public: &[u8; PUBLIC_LEN]) -> [u8; ID_LEN] {
    let mut hash = Sha256::new();
    hash.add(name);
    hash.add(b"\n");
    hash.add([ED25519]);
    hash.add(public);
    let [a, b, c, d, ..] = hash.finish();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checkpoint_of_this_log_and_key_is_taken_and_only_unchanged() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let checkpoint = Checkpoint { origin: "vmcryptfs-authority/1".into(), size: 17, root: [7; 32] };
        let text = checkpoint.sign(&key);
        let verify = |text: &str| Checkpoint::verify(text, "vmcryptfs-authority/1", &key.public());
        assert_eq!(verify(&text).unwrap(), checkpoint);
        assert_eq!(verify(&checkpoint.sign(&other)).unwrap_err().kind(), Kind::Denied);
        let elsewhere = Checkpoint::verify(&text, "vmcryptfs-authority/2", &key.public()).unwrap_err();
        assert_eq!(elsewhere.kind(), Kind::Denied);
        for (at, _) in text.char_indices().filter(|(at, _)| *at + 1 < text.len()) {
            assert!(verify(&text[..at]).is_err(), "{at} bytes");
            let mut wrong = text.clone().into_bytes();
            wrong[at] ^= 1;
            if let Ok(wrong) = String::from_utf8(wrong) {
                assert!(verify(&wrong).is_err(), "byte {at}: {wrong}");
            }
        }
        // Signatures by others beside it do no harm.
        let both = format!("{text}\u{2014} witness AAAA\n");
        assert_eq!(verify(&both).unwrap(), checkpoint);
        for size in ["017", "+17", "-1", "99999999999999999999999", ""] {
            let body = format!("vmcryptfs-authority/1\n{size}\n{}\n", BASE64.encode(&[7; 32]));
            let id = key_id("vmcryptfs-authority/1", &key.public());
            let signature = BASE64.encode(&[id.as_slice(), &key.sign(body.as_bytes())].concat());
            let text = format!("{body}\n\u{2014} vmcryptfs-authority/1 {signature}\n");
            assert_eq!(verify(&text).unwrap_err().kind(), Kind::Corrupt, "{size:?}");
        }
    }
}
