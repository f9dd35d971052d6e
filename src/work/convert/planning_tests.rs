//! What is only planned can be stopped at each name, and has changed nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Error, Kind, Result};
use crate::progress::{OnProgress, Progress};
use crate::text::quoted;
use crate::vm::datastore::Datastore;

pub(in crate::work) const FILES: usize = 3;

/// Files and their content.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
}

/// Stops `work` at each report that it makes before it knows how much there is to do, or has done it; returns how many there are.
pub(in crate::work) fn stop_while_it_looks(path: &Path, mut work: impl FnMut(OnProgress<'_>) -> Result<()>) -> usize {
    let before = tree(path);
    for stop_at in 1.. {
        let (mut asked, mut has_planned) = (0, false);
        let done = work(&mut |progress: &Progress| {
            asked += 1;
            has_planned = !progress.is_looking(); // what comes after that is tested elsewhere
            if asked == stop_at || has_planned { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
        });
        if done.is_ok() {
            return asked;
        }
        assert_eq!(done.unwrap_err().kind(), Kind::Stopped);
        if has_planned {
            return asked - 1;
        }
        assert_eq!(tree(path).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "stopped at {stop_at}");
        assert!(tree(path) == before, "stopped at {stop_at}");
    }
    unreachable!()
}

pub(in crate::work) fn clear_vm(store: &Datastore) -> PathBuf {
    let vm = store.path("vm");
    fs::create_dir_all(&vm).unwrap();
    for number in 0..FILES {
        fs::write(vm.join(format!("notes-{number}")), "text").unwrap();
    }
    fs::write(vm.join("root.raw"), vec![7; 8192]).unwrap();
    vm
}

pub(in crate::work) fn encrypt(vm: &Path, store: &Datastore, on_progress: OnProgress<'_>) -> Result<()> {
    let providers = store.providers();
    let encryption = Encryption::prepare(vm, &providers, Options::default(), &mut *on_progress)?;
    encryption.run(on_progress, &mut |_| ()).map(drop)
}

#[test]
fn an_encryption_is_stopped_while_it_looks_at_the_folder() {
    let store = Datastore::with_providers(&["local"]);
    let vm = clear_vm(&store);
    let asked = stop_while_it_looks(&vm, |on_progress| encrypt(&vm, &store, on_progress));
    // It lists the folder twice, and judges, reads and claims each file both times.
    assert!(asked > 8 * FILES, "{asked}");
}

#[test]
fn a_decryption_and_a_clone_are_stopped_while_they_look_at_the_folder() {
    let store = Datastore::with_providers(&["local"]);
    let vm = clear_vm(&store);
    encrypt(&vm, &store, &mut |_| Ok(())).unwrap();
    let providers = store.providers();
    let asked = stop_while_it_looks(&vm, |on_progress| {
        let engine = crate::crypto::xts::Engine::default();
        let decryption =
            Decryption::prepare(&vm, &providers, DecryptScope::All, Believed::default(), engine, &mut *on_progress)?;
        decryption.run(on_progress, &mut |_| ()).map(drop)
    });
    assert!(asked > 6 * FILES, "{asked}");
    let to = store.path("clone");
    let asked = stop_while_it_looks(&vm, |on_progress| {
        clone(&vm, &to, &providers, &CloneOptions::default(), on_progress).map(drop)
    });
    assert!(asked > 2 * FILES, "{asked}");
    assert!(!to.exists());
}

/// A guest's encrypted disk shows no sign of what it is: an encryption that resumes another one has to be told that it is in the clear.
#[test]
fn an_encryption_of_disks_that_show_no_sign_says_how_it_is_resumed() {
    let store = Datastore::with_providers(&["local"]);
    let vm = clear_vm(&store);
    let mut noise = vec![0; 1 << 20];
    crate::crypto::random::fill(&mut noise).unwrap();
    for name in ["guest 1.raw", "guest2.raw"] {
        let file = fs::File::create(vm.join(name)).unwrap();
        file.write_all_at(&noise, 8 << 20).unwrap();
    }
    let mut stop = |progress: &Progress| match progress.what.as_str() {
        "guest2.raw" => Err(Error::new(Kind::Stopped, "stopped at a safe point; run it again to resume")),
        _ => Ok(()),
    };
    let stopped = encrypt(&vm, &store, &mut stop).unwrap_err();
    let shown = vm.canonicalize().unwrap();
    let command = |disks: &str| format!("`vmcryptfs encrypt {} {disks}`", quoted(&shown));
    let both = command("--disk 'guest 1.raw' --disk guest2.raw --disk root.raw");
    assert_eq!(
        (stopped.kind(), stopped.chain()),
        (Kind::Stopped, format!("stopped at a safe point; to resume: {both}"))
    );
    // After a crash nothing was said.
    let refused = encrypt(&vm, &store, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied);
    assert!(refused.chain().contains(&command("--disk guest2.raw --disk root.raw")), "{}", refused.chain());
    let providers = store.providers();
    let disks = ["guest 1.raw", "guest2.raw", "root.raw"].map(PathBuf::from).to_vec();
    let resumed =
        Encryption::prepare(&vm, &providers, Options { disks, ..Options::default() }, &mut |_| Ok(())).unwrap();
    resumed.run(&mut |_| Ok(()), &mut |_| ()).unwrap();
    for name in ["guest 1.raw", "guest2.raw", "root.raw"] {
        assert!(fs::read(vm.join(name)).unwrap().starts_with(b"VMCRYPTF"), "{name}");
    }
}
