//! An authority whose top-level key is a key server's: each KEK is a key there.

use std::fs;

use uuid::Uuid;
use vmcryptfs::error::Kind;
use vmcryptfs_services::trust_wire::ReleasedKey;

use crate::asking::{Host, accept, new_key, policy, token, unwrap};
use crate::host;
use crate::process::Authority;
use crate::pykmip::PyKmip;
use crate::site::Site;
use crate::tpm::Tpm;

#[test]
fn keys_of_a_key_server_are_released_while_it_answers() {
    let servers = Site::new();
    let mut kmip = PyKmip::start(&servers, "one");
    let timeouts = "connect-timeout-ms = 500\nrequest-timeout-ms = 2000\n";
    let corp = servers.configure(&[kmip.port()], &servers.host, timeouts);
    let machine = host::Host::configured(&fs::read_to_string(corp).unwrap());
    let mut authority = Authority::made_on(machine, "corp", &[]);
    let tpm = Tpm::start();
    accept(&authority, &[&tpm]);
    authority.start();
    let file = authority.write("kvm.toml", &policy("kvm*"));
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
    let host = Host::enrol(&authority, tpm, &token(&authority));
    authority.run(&["host", "approve", "kvm1"]);
    assert_eq!(authority.json(&["status"])["lacks"], serde_json::json!([]));

    let attested = host.attest(&authority);
    let [first, second] = [1, 2].map(|number| {
        let request = Uuid::from_u128(number);
        host.open(&new_key(&authority, &attested.token, request).unwrap(), request)
    });
    assert!(first.0 != second.0 && first.1 != second.1);
    // An answer that was lost: the same request makes no other key.
    let again = new_key(&authority, &attested.token, Uuid::from_u128(1)).unwrap();
    assert_eq!(host.open(&again, Uuid::from_u128(1)), first);
    assert_eq!(host.open(&unwrap(&authority, &attested.token, &second.0).unwrap(), Uuid::nil()), second);

    kmip.kill();
    let released = unwrap(&authority, &attested.token, &first.0).unwrap();
    let [ReleasedKey::Refused { error, .. }] = released.keys.as_slice() else { panic!("{released:?}") };
    assert_eq!(error.kind, Kind::KeyUnavailable, "{}", error.message);
    assert!(error.message.contains("key corp/"), "{}", error.message);
}
