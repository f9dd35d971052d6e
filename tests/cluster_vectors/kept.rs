//! KEKs that a host keeps, sealed by its TPM.

use data_encoding::HEXLOWER;
use vmcryptfs::format::cluster::{KeptKek, KeptKeks};

use super::uuid;
use crate::testkit::vector_file::VectorFile;

pub(super) fn kept(vector: &VectorFile) {
    let key = vector.bytes("key");
    let read = KeptKeks::decode(&vector.bodies[0]).and_then(|kept| kept.open(&key).map(|keks| (kept, keks)));
    let Some((kept, mut keks)) = vector.judge(read) else { return };
    let place = (uuid(vector, "cluster"), uuid(vector, "host"));
    assert_eq!((kept.cluster, kept.host), place, "{}", vector.name);
    assert_eq!(kept.sealed_key, vector.bytes("sealed_key"), "{}", vector.name);
    assert_eq!(shown(&keks), vector.all("kept"), "{}", vector.name);
    assert_eq!(kept.encode().unwrap(), vector.bodies[0], "{}", vector.name);
    // Under another nonce, and in whatever order they come.
    keks.reverse();
    let sealed = KeptKeks::seal(place, &kept.sealed_key, &key, &mut keks).unwrap();
    assert_ne!(sealed, kept, "{}", vector.name);
    assert_eq!(shown(&sealed.open(&key).unwrap()), vector.all("kept"), "{}", vector.name);
}

fn shown(keks: &[KeptKek]) -> Vec<String> {
    let line = |kept: &KeptKek| {
        let (flag, begun) = (if kept.wraps { 1 } else { 2 }, kept.begun.since_1970().as_secs());
        let (kek, id) = (HEXLOWER.encode(&kept.kek), &kept.id);
        format!("{} {} {flag} {begun} {kek} {}", kept.provider, id.provider(), id.id())
    };
    keks.iter().map(line).collect()
}
