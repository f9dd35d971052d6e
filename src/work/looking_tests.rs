//! Work on keys that looks at a folder can be stopped at each name, and has changed nothing.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::progress::{Looking, OnProgress};
use crate::vm::access::OfflineVm;
use crate::vm::component::Component;
use crate::vm::datastore::Datastore;
use crate::work::convert::planning_tests::{FILES, clear_vm, encrypt, stop_while_it_looks};
use crate::work::deep_rekey::DeepRekey;
use crate::work::rekey::Rekey;
use crate::work::{bind, listing};

fn encrypted_vm() -> (Datastore, PathBuf) {
    let store = Datastore::with_providers(&["local"]);
    let vm = clear_vm(&store);
    encrypt(&vm, &store, &mut |_| Ok(())).unwrap();
    (store, vm)
}

/// At how many names it can be stopped, each time it looks.
fn looks(work: impl Fn(&OfflineVm, &Path, OnProgress<'_>) -> Result<()>) -> usize {
    let (store, vm) = encrypted_vm();
    let open = || OfflineVm::open(&vm, store.providers()).unwrap();
    // Beside the files, the home's header and its list of disks.
    stop_while_it_looks(&vm, |on_progress| work(&open(), &vm, on_progress)) / (FILES + 3)
}

#[test]
fn a_rekey_is_stopped_while_it_looks_at_the_folder() {
    // For components, and for what is passed over.
    assert_eq!(looks(|vm, _, on_progress| Rekey::default().run(vm, on_progress).map(drop)), 2);
}

#[test]
fn a_deep_rekey_is_stopped_while_it_looks_at_the_folder() {
    // For components, for what is passed over, for open files, and twice for what cannot be re-encrypted: all of the home is read.
    assert_eq!(looks(|vm, _, on_progress| DeepRekey::default().run(vm, on_progress).map(drop)), 5);
}

#[test]
fn binding_and_taking_in_disks_is_stopped_while_it_looks_at_the_folder() {
    let upgraded = |vm: &OfflineVm, _: &Path, on_progress: OnProgress<'_>| {
        let looking = Looking::new(on_progress);
        bind::upgrade(vm, &|| looking.tell()).map(drop)
    };
    let listed = |vm: &OfflineVm, _: &Path, on_progress: OnProgress<'_>| {
        let looking = Looking::new(on_progress);
        listing::make_list(vm, listing::Rebuild::default(), &|| looking.tell()).map(drop)
    };
    // An upgrade looks for what it passes over, too.
    assert_eq!((looks(upgraded), looks(listed)), (2, 1));
    let (store, vm) = encrypted_vm();
    std::fs::rename(&vm, store.path("former")).unwrap();
    let vm = clear_vm(&store);
    encrypt(&vm, &store, &mut |_| Ok(())).unwrap();
    std::fs::rename(store.path("former").join("root.raw"), vm.join("strange.raw")).unwrap();
    let at = stop_while_it_looks(&vm, |on_progress| {
        let place = OfflineVm::open(&vm, store.providers()).unwrap();
        let disk = Component::Disk("strange.raw".into());
        let looking = Looking::new(on_progress);
        bind::adopt(&place, &disk, false, &|| looking.tell()).map(drop)
    });
    // Its own folder, and then all of the datastore.
    assert!(at > 4 * FILES, "{at}");
}
