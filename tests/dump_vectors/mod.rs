//! Files under tests/vectors/dump: encrypted dumps, and the keys that they are encrypted to.

use data_encoding::HEXLOWER;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::dump::stream::{DumpReader, Part};
use vmcryptfs::error::Result;
use vmcryptfs::format::dump::{About, DumpHeader, DumpKey, DumpKeyFile, Lock};

use crate::testkit::vector_file::{VectorFile, secret};
use crate::vectors;

#[test]
fn dumps() {
    for vector in vectors("dump", 50) {
        match vector.get("what") {
            "key-file" => key_file(&vector),
            "dump" | "passphrase" => dump(&vector),
            what => panic!("{}: {what}", vector.name),
        }
    }
}

fn key_file(vector: &VectorFile) {
    let Some(file) = vector.judge(DumpKeyFile::decode(&vector.bodies[0])) else { return };
    let made = ("made".to_owned(), file.made.since_1970().as_secs().to_string());
    let fields: Vec<_> = [made].into_iter().chain(key_fields(&file.key)).collect();
    assert_eq!(fields, vector.fields_without(&["expect", "what", "why"]), "{}", vector.name);
    assert_eq!(file.encode().unwrap(), vector.bodies[0], "{}", vector.name);
}

/// A dump's header, its DEK, its plaintext, and whether it was cut.
type Opened = (DumpHeader, Vec<u8>, Vec<u8>, bool);

fn dump(vector: &VectorFile) {
    let Some((header, dek, plain, is_cut)) = vector.judge(open(vector)) else { return };
    assert_eq!(dek, vector.bytes("dek"), "{}", vector.name);
    assert!(plain == vector.bodies[1..].concat(), "{}", vector.name);
    assert_eq!(if is_cut { "yes" } else { "no" }, vector.get("cut"), "{}", vector.name);
    let mut fields = about_fields(&header.about);
    if let Lock::HostKey { key, .. } = &header.lock {
        fields.extend(key_fields(key));
    }
    let others = ["expect", "what", "why", "kek", "passphrase", "dek", "cut"];
    assert_eq!(fields, vector.fields_without(&others), "{}", vector.name);
    assert!(vector.bodies[0].starts_with(&header.encode().unwrap()), "{}", vector.name);
}

fn open(vector: &VectorFile) -> Result<Opened> {
    let bytes = &vector.bodies[0];
    let (header, len) = DumpHeader::decode(bytes)?;
    let dek = match vector.get("what") {
        "dump" => header.open_by_host_key(&LocalKek::new(secret(&vector.bytes("kek")))?)?,
        _ => header.open_by_passphrase(vector.get("passphrase").as_bytes())?,
    };
    let mut pieces = &bytes[len..];
    let mut reader = DumpReader::new(&mut pieces, &dek)?;
    let mut plain = Vec::new();
    while let Some(part) = reader.next_part()? {
        match part {
            Part::Bytes(bytes) => plain.extend_from_slice(bytes),
            Part::Zeros(len) => plain.resize(plain.len() + usize::try_from(len).unwrap(), 0),
        }
    }
    let is_cut = reader.is_cut();
    Ok((header, dek.to_vec(), plain, is_cut))
}

fn key_fields(key: &DumpKey) -> Vec<(String, String)> {
    let fields = [
        ("key_uuid", key.uuid.to_string()),
        ("public", HEXLOWER.encode(&key.public)),
        ("check", HEXLOWER.encode(&key.check.0)),
        ("wrapped", HEXLOWER.encode(&key.wrapped.0)),
        ("host_key", key.host_key.to_string()),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}

fn about_fields(about: &About) -> Vec<(String, String)> {
    let fields = [
        ("uuid", about.uuid.to_string()),
        ("time", about.time.since_1970().as_secs().to_string()),
        ("pid", about.pid.to_string()),
        ("uid", about.uid.to_string()),
        ("gid", about.gid.to_string()),
        ("signal", about.signal.to_string()),
        ("program", about.program.clone()),
        ("host", about.host.clone()),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}
