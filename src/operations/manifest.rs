//! Verbs that change a home without a mount, and its manifest: it is compared and opened before, and closed after.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::progress::{GoOn, Looking, OnProgress, to_the_end};
use crate::provider::Providers;
use crate::seen::{Memory, Point};
use crate::storage::claims::FileLocks;
use crate::store::header_area::StoredHeader;
use crate::store::home_file::HomeKeys;
use crate::text::Show;
use crate::vm::access::claim_exclusive;
use crate::vm::component::Component;
use crate::vm::manifest::{HomeTree, Proof, Purpose};
use crate::vm::{folder, keyring};

/// What a verb does to a home.
#[derive(Clone, Copy)]
pub(super) enum Meaning<'a> {
    /// Files or disks in it change.
    SameHome,
    /// What has this path below the VM folder belongs there from now on.
    Accepts(&'a Path),
}

/// Does `work` to a VM folder, and keeps the manifest of its home true, if it has one.
///
/// # Errors
/// Those of `work`; `Io` when the manifest cannot be opened, and `Stopped`, before anything is done.
pub(super) fn keeping_manifest<T>(
    path: &Path,
    providers: &Providers,
    meaning: Meaning<'_>,
    on_progress: OnProgress<'_>,
    work: impl FnOnce(OnProgress<'_>) -> Result<T>,
) -> Result<T> {
    let dir = folder::open_dir(path)?;
    let Ok(Some(stored)) = folder::read_whole_home(&dir) else { return work(on_progress) };
    let kept = Kept { dir, providers, memory: Memory::of(providers) };
    let begun = {
        let looking = Looking::new(&mut *on_progress);
        kept.begin(&stored, &|| looking.tell())?
    };
    let done = work(on_progress);
    let accepts = |proof: Proof| {
        if let (Meaning::Accepts(path), Ok(_)) = (meaning, &done) { proof.accepting(path) } else { proof }
    };
    if let Some(proof) = begun.map(accepts)
        && let Err(error) = kept.end(&proof)
    {
        // What was asked for is done, or says itself why it is not.
        tracing::warn!("{}: its manifest could not be sealed: {}", path.shown(), error.chain());
    }
    done
}

struct Kept<'a> {
    dir: File,
    providers: &'a Providers,
    memory: Arc<Memory>,
}

impl Kept<'_> {
    /// `None` where there is no manifest, or the home cannot be changed: then the work says why.
    fn begin(&self, stored: &StoredHeader, go_on: &GoOn<'_>) -> Result<Option<Proof>> {
        if !HomeTree::is_kept_of(&self.dir, stored.header.claims().uuid, &self.memory) {
            return Ok(None);
        }
        self.with_tree(stored, go_on, |tree| {
            let proof = tree.prove()?;
            tree.seal(Purpose::Open, &proof)?;
            Ok(proof)
        })
    }

    fn end(&self, proof: &Proof) -> Result<()> {
        let Some(stored) = folder::read_home(&self.dir)? else { return Ok(()) }; // it is decrypted
        let alone = claim_exclusive(&self.dir, &Component::Home, &FileLocks, &to_the_end);
        let purpose = if alone.is_ok() { Purpose::Close } else { Purpose::Renew };
        // Also where the work was stopped: else nothing would be proven of what is as it was.
        self.with_tree(&stored, &to_the_end, |tree| tree.seal(purpose, proof)).map(drop)
    }

    /// `None` for a home that cannot be unlocked or has gone back.
    fn with_tree<T>(
        &self,
        stored: &StoredHeader,
        go_on: &GoOn<'_>,
        work: impl FnOnce(&HomeTree<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let keks = self.providers.fetch_all(stored.header.claims().slots.key_ids().cloned());
        let Ok(dek) = keyring::unlock(&stored.header, &keks) else { return Ok(None) };
        let header = stored.header.clone().verify(&dek)?;
        if self.memory.meet(Point::of(&stored.header, &dek)?).gone_back().is_some() {
            return Ok(None);
        }
        let keys = HomeKeys::of(&header, &dek)?;
        work(&HomeTree { dir: &self.dir, header: &header, keys: &keys, memory: &self.memory, go_on }).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Error, Kind};
    use crate::format::manifest::MANIFEST_FILE;
    use crate::progress::Progress;
    use crate::vm::datastore::Datastore;

    #[test]
    fn a_verb_is_stopped_while_it_compares_a_home_with_its_manifest() {
        let ds = Datastore::new(&["vm"]);
        let (vm, providers) = (ds.path("vm"), ds.providers());
        let kept = Kept { dir: folder::open_dir(&vm).unwrap(), providers: &providers, memory: Memory::of(&providers) };
        let stored = folder::read_whole_home(&kept.dir).unwrap().unwrap();
        kept.with_tree(&stored, &to_the_end, |tree| tree.seal(Purpose::Close, &Proof::default())).unwrap();
        std::fs::write(vm.join("new"), b"").unwrap();
        let manifest = || std::fs::read(vm.join(MANIFEST_FILE)).unwrap();
        let (before, asked, worked) = (manifest(), Cell::new(0), Cell::new(false));
        for stop_at in 1.. {
            asked.set(0);
            let mut on_progress = |_: &Progress| {
                asked.set(asked.get() + 1);
                if asked.get() == stop_at { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
            };
            let work = |_: OnProgress<'_>| {
                worked.set(true);
                Ok(())
            };
            match keeping_manifest(&vm, &providers, Meaning::SameHome, &mut on_progress, work) {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), Kind::Stopped),
            }
            assert!(!worked.get() && manifest() == before, "stopped at {stop_at}");
        }
        assert!(worked.get() && manifest() != before);
        assert!(asked.get() > 6, "{}", asked.get());
    }
}
