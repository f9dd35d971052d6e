//! The manifest of a home that is open for use.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Context, Result};
use crate::format::header::Header;
use crate::progress::to_the_end;
use crate::seen::Memory;
use crate::store::home_file::HomeKeys;
use crate::sys::file::readable;
use crate::vm::manifest::{HomeTree, Proof, Purpose};

/// What a home that is open for use keeps of its manifest: it is opened before the first change.
pub struct Keeper {
    dir: File,
    memory: Arc<Memory>,
    proof: Arc<Proof>,
    /// Whether one is made where there is none.
    makes: bool,
    is_open: AtomicBool,
    opening: Mutex<()>,
}

impl Keeper {
    /// For a home whose folder is `dir`, and of which `proof` was found; whether it gets a manifest if it has none.
    ///
    /// # Errors
    /// `Io`.
    pub fn new(dir: &File, memory: &Arc<Memory>, proof: &Arc<Proof>, makes: bool) -> Result<Self> {
        let dir = readable(dir).context(|| "opening the VM folder".into())?;
        let (memory, proof) = (Arc::clone(memory), Arc::clone(proof));
        Ok(Self { dir, memory, proof, makes, is_open: AtomicBool::new(false), opening: Mutex::default() })
    }

    /// Called before a change of the home. Costs nothing but the first time.
    ///
    /// # Errors
    /// `Io`; then the home must not be changed.
    pub fn will_change(&self, header: &Header, keys: &HomeKeys) -> Result<()> {
        if self.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        let _alone = self.opening.lock();
        if !self.is_open.load(Ordering::Acquire) {
            let tree = HomeTree { dir: &self.dir, header, keys, memory: &self.memory, go_on: &to_the_end };
            if self.makes || tree.is_kept() {
                tree.seal(Purpose::Open, &self.proof)?;
            }
            self.is_open.store(true, Ordering::Release);
        }
        Ok(())
    }
}
