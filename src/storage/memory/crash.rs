//! Storage that knows what a power cut could leave: what was synced, and any part of what was not.

use parking_lot::Mutex;

use crate::error::Result;
use crate::storage::Storage;
use crate::storage::memory::{Image, MemoryStorage, SECTOR_LEN, pieces};

/// A file whose every possible state after a power cut can be looked at, whenever the power fails: also in the midst of an
/// operation that syncs several times.
pub struct CrashStorage {
    live: MemoryStorage,
    /// The last one is going on; all before ended with a sync.
    epochs: Mutex<Vec<Epoch>>,
    lengths_in_order: bool,
}

/// The time between two syncs.
#[derive(Clone, Default)]
struct Epoch {
    durable: Image,
    pending: Vec<Change>,
}

/// At most one sector of data, or a change of length.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Clear(u64, u64),
    SetLen(u64),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write(offset, data) => image.write(*offset, data),
            Self::Clear(offset, len) => image.clear(*offset, *len),
            Self::SetLen(len) => image.set_len(*len),
        }
    }

    fn writes_to(&self, sector: u64) -> bool {
        matches!(self, Self::Write(offset, _) if offset / SECTOR_LEN == sector)
    }
}

impl Epoch {
    /// The image in which those changes survived whose numbers `survives` holds for.
    fn image(&self, lengths_in_order: bool, survives: impl Fn(usize) -> bool) -> Image {
        let last = (0..self.pending.len()).rev().find(|&number| survives(number));
        let mut image = self.durable.clone();
        for (number, change) in self.pending.iter().enumerate() {
            let ordered = lengths_in_order && matches!(change, Change::SetLen(_)) && last > Some(number);
            if ordered || survives(number) {
                change.apply(&mut image);
            }
        }
        image
    }
}

impl CrashStorage {
    /// Most changes between two syncs whose subsets are all tried: 2^16 images.
    pub const MAX_PENDING: usize = 16;

    /// A file that durably holds `image`.
    pub fn new(image: impl Into<Image>) -> Self {
        let image = image.into();
        let epoch = Epoch { durable: image.clone(), pending: Vec::new() };
        Self { live: MemoryStorage::new(image), epochs: Mutex::new(vec![epoch]), lengths_in_order: false }
    }

    /// As file systems do it: no change of the file's length is overtaken by what was written after it.
    #[must_use]
    pub fn with_lengths_in_order(mut self) -> Self {
        self.lengths_in_order = true;
        self
    }

    /// Every image that a power cut could have left since this file was made, or since [`forget_past`](Self::forget_past):
    /// what was synced, plus any subset of what was not, in order, each write split into sectors.
    ///
    /// # Panics
    /// When over [`MAX_PENDING`](Self::MAX_PENDING) changes lie between two syncs: the test must be smaller.
    pub fn crash_images(&self) -> impl Iterator<Item = Image> + use<> {
        let lengths_in_order = self.lengths_in_order;
        self.epochs.lock().clone().into_iter().flat_map(move |epoch| {
            let pending = epoch.pending.len();
            assert!(pending <= Self::MAX_PENDING, "{pending} unsynced changes are too many to try");
            (0..1_usize << pending).map(move |kept| epoch.image(lengths_in_order, |number| kept >> number & 1 == 1))
        })
    }

    /// As [`crash_images`](Self::crash_images), for any number of changes: nothing, everything, beginnings, all but one, and
    /// random subsets.
    pub fn sampled_crash_images(&self, seed: u64) -> Vec<Image> {
        self.sampled(seed, usize::MAX)
    }

    /// The same, but only those that it could have left before the first sync.
    pub fn sampled_crash_images_before_sync(&self, seed: u64) -> Vec<Image> {
        self.sampled(seed, 1)
    }

    /// How often it was synced, as far as its past is not forgotten.
    pub fn syncs(&self) -> usize {
        self.epochs.lock().len() - 1
    }

    fn sampled(&self, seed: u64, epochs: usize) -> Vec<Image> {
        let mut images = Vec::new();
        for epoch in self.epochs.lock().iter().take(epochs) {
            let len = epoch.pending.len();
            let image = |survives: &dyn Fn(usize) -> bool| epoch.image(self.lengths_in_order, survives);
            images.extend((0..=len).step_by(3).map(|kept| image(&|number| number < kept)));
            images.extend((0..len).step_by(5).map(|lost| image(&|number| number != lost)));
            images.extend((0..20_u64).map(|round| {
                image(&|number| {
                    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_add(round);
                    mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 1
                })
            }));
        }
        images
    }

    /// From now on only power cuts after the last sync are of interest.
    pub fn forget_past(&self) {
        let mut epochs = self.epochs.lock();
        let ended = epochs.len() - 1;
        epochs.drain(..ended);
    }

    /// What it holds as long as the power does not fail.
    pub fn snapshot(&self) -> Image {
        self.live.snapshot()
    }

    fn changed(&self, change: Change) {
        if let Some(epoch) = self.epochs.lock().last_mut() {
            epoch.pending.push(change);
        }
    }

    /// A range may be cleared in parts as well, but zeros over zeros are no change.
    fn clear(&self, offset: u64, len: u64) {
        let mut epochs = self.epochs.lock();
        let Some(epoch) = epochs.last_mut() else { return };
        let end = (offset + len).min(self.live.snapshot().len.max(epoch.durable.len));
        let mut start = offset;
        while start < end {
            let sector = start / SECTOR_LEN;
            let next = ((sector + 1) * SECTOR_LEN).min(end);
            if !epoch.durable.is_zero(sector) || epoch.pending.iter().any(|change| change.writes_to(sector)) {
                epoch.pending.push(Change::Clear(start, next - start));
            }
            start = next;
        }
    }
}

impl Storage for CrashStorage {
    fn len(&self) -> Result<u64> {
        self.live.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.changed(Change::SetLen(len));
        self.live.set_len(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.live.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let before = self.live.snapshot();
        // What is there already is the same whether it is written again or not.
        for (start, piece) in pieces(offset, data).filter(|(start, piece)| !before.holds(*start, piece)) {
            self.changed(Change::Write(start, piece.to_vec()));
        }
        self.live.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.epochs.lock().push(Epoch { durable: self.live.snapshot(), pending: Vec::new() });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.clear(offset, len);
        self.live.punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.live.allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.live.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.live.seek_hole(offset)
    }
}
