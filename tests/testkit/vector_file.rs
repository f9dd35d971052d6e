//! The text form of tests/vectors and tests/stores, as tests/vectors/README.md describes it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Kind, Result};
use vmcryptfs::format::header::{Header, StoredState, UnverifiedHeader};
use vmcryptfs::key::{Dek, Kek, KeyId};
use vmcryptfs::sys::SecretBytes;
use vmcryptfs::vm::keyring;

/// What the files call the answers, and what we call them.
const CLASSES: [(&str, Option<Kind>); 7] = [
    ("ok", None),
    ("foreign", Some(Kind::Invalid)),
    ("unsupported", Some(Kind::Unsupported)),
    ("corrupt", Some(Kind::Corrupt)),
    ("denied", Some(Kind::Denied)),
    ("key-unavailable", Some(Kind::KeyUnavailable)),
    ("key-rejected", Some(Kind::KeyRejected)),
];

/// Named values, in order and possibly repeated, and the bytes they are about.
pub(crate) struct VectorFile {
    /// For messages.
    pub(crate) name: String,
    /// All values.
    pub(crate) fields: Vec<(String, String)>,
    /// Byte strings.
    pub(crate) bodies: Vec<Vec<u8>>,
}

/// Path below this repository's `tests`.
pub(crate) fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Every file of a folder. A folder that lost files cannot pass: there are at least `floor`.
pub(crate) fn read_folder(folder: &Path, floor: usize) -> Vec<VectorFile> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= floor, "{} files in {}, at least {floor} were made", paths.len(), folder.display());
    paths.iter().map(|path| VectorFile::read(path)).collect()
}

/// Bytes of a key, in locked memory.
pub(crate) fn secret(bytes: &[u8]) -> SecretBytes {
    let mut secret = SecretBytes::zeroed(bytes.len());
    secret.copy_from_slice(bytes);
    secret
}

/// The DEK of a header whose every slot is said to be of this KEK.
pub(crate) fn unlock(header: &UnverifiedHeader, kek: &[u8]) -> Result<Dek> {
    unlock_with(header, LocalKek::new(secret(kek))?)
}

/// The same by a KEK of whatever making.
pub(crate) fn unlock_with(header: &UnverifiedHeader, kek: LocalKek) -> Result<Dek> {
    let kek: Arc<dyn Kek> = Arc::new(kek);
    let ids = header.claims().slots.key_ids().cloned();
    let keks: HashMap<KeyId, Result<Arc<dyn Kek>>> = ids.map(|id| (id, Ok(Arc::clone(&kek)))).collect();
    keyring::unlock(header, &keks)
}

/// What a file says of a header like this one.
pub(crate) fn header_fields(header: &Header) -> Vec<(String, String)> {
    let (sector_size, data_offset) =
        header.shape.disk().map_or((4096, 0), |disk| (disk.sector_size.bytes(), disk.data_offset));
    let mut fields = vec![
        ("kind", header.shape.kind().word().to_owned()),
        ("uuid", header.uuid.hyphenated().to_string()),
        ("sequence", header.sequence.to_string()),
        ("sector_size", sector_size.to_string()),
        ("data_offset", data_offset.to_string()),
    ];
    let generation = Some(header.dek_generation).filter(|generation| *generation != 0);
    fields.extend(generation.map(|generation| ("dek_generation", generation.to_string())));
    fields.extend(Some(("label", header.label.clone())).filter(|_| !header.label.is_empty()));
    fields.extend(header.disk_names.stored().iter().map(|pattern| ("disk_name", pattern.clone())));
    fields.extend(header.slots.iter().map(|slot| {
        let (check, wrapped) = (HEXLOWER.encode(&slot.check.0), HEXLOWER.encode(&slot.wrapped.0));
        ("slot", format!("{} {} {check} {wrapped}", slot.key_id.provider(), slot.key_id.id()))
    }));
    fields.extend(header.state.map(|state| {
        let word = match state {
            StoredState::Encrypting => "encrypting",
            StoredState::Encrypted => "encrypted",
            StoredState::Decrypting => "decrypting",
            StoredState::ConvertingDisks => "encrypted, converting disks",
        };
        ("state", word.to_owned())
    }));
    fields.extend(header.owner.map(|owner| ("owner", owner.hyphenated().to_string())));
    fields.extend(header.binds_disks.then(|| ("binds_disks", "yes".to_owned())));
    fields.extend(header.lists_disks.then(|| ("lists_disks", "yes".to_owned())));
    fields.extend(header.transition.as_ref().map(|transition| {
        let old = transition.old.as_ref().map_or_else(|| "tidying".to_owned(), |old| HEXLOWER.encode(&old.0));
        ("transition", format!("{} {old}", HEXLOWER.encode(&transition.id.0)))
    }));
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl VectorFile {
    fn read(path: &Path) -> Self {
        assert!(path.extension().is_some_and(|ext| ext == "txt"), "{} is no vector", path.display());
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut paragraphs = text.trim_end_matches('\n').split("\n\n");
        let fields = paragraphs.next().unwrap_or_default().split('\n').map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{}: {line:?}", path.display()));
            (name.to_owned(), value.to_owned())
        });
        Self {
            name: path.display().to_string(),
            fields: fields.collect(),
            bodies: paragraphs.map(|paragraph| paragraph.split('\n').flat_map(bytes_of_line).collect()).collect(),
        }
    }

    /// Every value of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of this name.
    pub(crate) fn get(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [value] => value,
            ref values => panic!("{}: {} values of {name}", self.name, values.len()),
        }
    }

    /// The one value of this name, which is hex.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        HEXLOWER.decode(self.get(name).as_bytes()).unwrap_or_else(|error| panic!("{}: {name}: {error}", self.name))
    }

    /// The fields but for some.
    pub(crate) fn fields_without(&self, others: &[&str]) -> Vec<(String, String)> {
        self.fields.iter().filter(|(name, _)| !others.contains(&name.as_str())).cloned().collect()
    }

    /// Demands the answer that the file expects, and gives it if it is not a refusal.
    pub(crate) fn judge<T: Debug>(&self, answer: Result<T>) -> Option<T> {
        let expect = self.get("expect");
        let (_, expected) = CLASSES.iter().find(|(class, _)| *class == expect).expect("a class of the README");
        let got = answer.as_ref().err().map(|error| (error.kind(), error.chain()));
        assert_eq!(got.as_ref().map(|(kind, _)| *kind), *expected, "{}: {got:?}, expected {expect}", self.name);
        answer.ok()
    }
}

/// Hex, or `00 * 7000`.
fn bytes_of_line(line: &str) -> Vec<u8> {
    let (hex, count) = line.split_once(" * ").unwrap_or((line, "1"));
    HEXLOWER.decode(hex.as_bytes()).expect("lower-case hex").repeat(count.parse().expect("a decimal count"))
}
