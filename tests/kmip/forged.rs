//! Headers that name keys which no server has: they cost the key server one question each, after those for the VM's own keys.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmcryptfs::crypto::random;
use vmcryptfs::format::disk_kind::DiskShape;
use vmcryptfs::format::header::{ComponentKind, Header, Shape, Slot, Slots};
use vmcryptfs::key::{KeyCheck, WrappedDek};
use vmcryptfs::provider::Providers;
use vmcryptfs::sector::SectorSize;
use vmcryptfs::serve::{Options, ServedFolder};
use vmcryptfs::storage::Access;

use crate::fake_server::{FakeServer, Fault};
use crate::fake_store::Store;
use crate::host::Host;
use crate::mounts::{key_of, make_vm};
use crate::site::{Site, corp, key_id};

const FORGED: usize = 300;
/// Questions that are asked side by side.
const AT_ONCE: usize = 8;

/// A disk's header with four keys that its server does not have.
fn forged(number: usize) -> Vec<u8> {
    let slot = |slot: usize| Slot {
        key_id: key_id(&format!("forged-{number}-{slot}")),
        check: KeyCheck([0; 8]),
        wrapped: WrappedDek(vec![0; 72]),
    };
    let shape = Shape::Disk(DiskShape::new(SectorSize::DEFAULT));
    let header = Header::new(random::uuid().unwrap(), shape, String::new(), slot(0));
    let slots = Slots::new((0..4).map(slot).collect()).unwrap();
    Header { slots, ..header }.encode(&random::disk_dek().unwrap()).unwrap()
}

#[test]
fn forged_headers_cost_the_key_server_one_question_a_key_after_all_others() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let config = site.configure(&[server.port()], &site.host, "");
    let provider = corp(&config).unwrap();
    let host = Host::configured("");
    for vm in ["evil", "web01", "zoo"] {
        make_vm(&host, &provider, vm, 2);
    }
    let datastore = Path::new(host.path("vms"));
    for number in 0..FORGED {
        let file = File::create_new(datastore.join(format!("evil/forged{number}.raw"))).unwrap();
        let copy = forged(number);
        ComponentKind::Disk.copy_offsets().iter().for_each(|offset| file.write_all_at(&copy, *offset).unwrap());
    }
    // Whatever the machine has to do besides, no answer is late.
    let patient = "connect-timeout-ms = 60000\nrequest-timeout-ms = 60000\ntotal-timeout-ms = 60000";
    let config = site.configure(&[server.port()], &site.host, patient);
    store.gets.lock().clear();
    let served = ServedFolder::open(datastore, Providers::load(&config).unwrap(), Options::default()).unwrap();
    // Questions are asked side by side. As long as the first ones have no answer, no other one can overtake them.
    server.set(Fault::Held);
    let first: HashSet<String> = thread::scope(|scope| {
        let unlocking = scope.spawn(|| served.retry_locked().unwrap());
        let began = Instant::now();
        while store.gets.lock().len() < AT_ONCE {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", store.gets.lock());
            thread::sleep(Duration::from_millis(10));
        }
        let first = store.gets.lock().iter().cloned().collect();
        server.set(Fault::None);
        unlocking.join().unwrap();
        first
    });
    let asked = std::mem::take(&mut *store.gets.lock());
    assert_eq!(asked.len(), 3 + 4 * FORGED, "each key once");
    let own: HashSet<String> = ["evil", "web01", "zoo"].map(|vm| key_of(&host, vm).id().to_owned()).into();
    assert!(own.is_subset(&first), "{own:?} are asked for first: {first:?}");
    assert_eq!(served.keyring().count(), (9, FORGED));

    for _ in 0..3 {
        served.retry_locked().unwrap();
        let forged = served.retry_after_fetch(|| served.open_at(Path::new("evil/forged7.raw"), Access::Read));
        assert!(forged.is_err());
    }
    assert_eq!(store.gets.lock().len(), 0, "what the server has said counts for a minute");
    served.unlock(Some(Path::new("evil/forged7.raw"))).unwrap();
    assert_eq!(store.gets.lock().len(), 4, "whoever asks for it gets another try");
}
