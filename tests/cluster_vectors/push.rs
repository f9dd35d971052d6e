//! KEKs that keepers push, and what hosts want of them.

use vmcryptfs::crypto::hpke::SealKey;
use vmcryptfs::error::Error;
use vmcryptfs::format::cluster::{Given, Parcel, Reference, Want, Wish};
use vmcryptfs::key::ProviderName;

use super::{admin, bytes, host, uuid};
use crate::testkit::vector_file::VectorFile;

fn reference(hex: &str) -> Reference {
    Reference(data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap())
}

pub(super) fn want(vector: &VectorFile) {
    let (cluster, by) = (uuid(vector, "cluster"), host(vector.get("by")));
    let provider = ProviderName::new(vector.get("provider")).unwrap();
    let Some(want) = vector.judge(Want::decode(&vector.bodies[0], cluster, &provider, &by)) else { return };
    let (key, new): (Vec<&str>, Vec<&str>) =
        (vector.get("key").split(' ').collect(), vector.get("new").split(' ').collect());
    let wished = [
        (reference(key[0]), Wish::Key(key[1].to_owned())),
        (reference(new[0]), Wish::New { vm: new[1].parse().unwrap(), name: new[2].to_owned() }),
    ];
    assert_eq!(want, Want { cluster, host: by.uuid, provider, wishes: wished.into() }, "{}", vector.name);
    assert_eq!(want.encode(&admin(vector.get("seed"))).unwrap(), vector.bodies[0], "{}", vector.name);
}

pub(super) fn kek(vector: &VectorFile) {
    let keeper = host(vector.get("by"));
    let own = SealKey::new(&bytes(vector, "private"), bytes(vector, "public"));
    let read = Parcel::decode(&vector.bodies[0], |found| (found == keeper.uuid).then_some(&keeper)).and_then(
        |(parcel, given)| {
            let opened = match &given {
                Given::Kek { sealed, .. } => Some(sealed.open(&own)?.to_vec()),
                Given::Refused { .. } => None,
            };
            Ok::<_, Error>((parcel, given, opened))
        },
    );
    let Some((parcel, given, opened)) = vector.judge(read) else { return };
    let wanted = Parcel {
        cluster: uuid(vector, "cluster"),
        keeper: uuid(vector, "keeper"),
        host: uuid(vector, "host"),
        provider: uuid(vector, "provider"),
        reference: reference(vector.get("reference")),
        key: Some(vector.get("key").to_owned()).filter(|key| !key.is_empty()),
    };
    assert_eq!(parcel, wanted, "{}", vector.name);
    match given {
        Given::Kek { wraps, .. } => {
            assert_eq!(wraps, vector.get("outcome") == "1", "{}", vector.name);
            assert_eq!(opened.unwrap(), vector.bytes("kek"), "{}", vector.name);
        }
        Given::Refused { refusal, why } => {
            assert_eq!(why, vector.get("refused"), "{}", vector.name);
            let encoded = parcel.refuse(refusal, &why, &admin(vector.get("seed"))).unwrap();
            assert_eq!(encoded, vector.bodies[0], "{}", vector.name);
        }
    }
}
