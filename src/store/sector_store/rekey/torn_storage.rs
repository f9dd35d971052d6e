//! A sparse file in memory that loses power: disks of a few kilobytes of data, and each image that a power cut could leave.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::error::Result;
use crate::storage::Storage;

const SECTOR: u64 = 512;
/// So many unsynced changes at most have all their subsets tried: 2^10 images.
const ALL_SUBSETS: usize = 10;
/// Of more changes, this many random subsets are tried beside the telling ones.
const RANDOM_SUBSETS: u64 = 200;

/// The bytes of a file.
#[derive(Clone, Default)]
pub(super) struct Image {
    len: u64,
    sectors: BTreeMap<u64, [u8; 512]>,
}

#[derive(Clone)]
enum Change {
    /// Within one sector.
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    SetLen(u64),
}

impl Image {
    fn each_piece(offset: u64, len: u64, mut each: impl FnMut(u64, usize, usize, usize)) {
        let mut done = 0;
        while done < len {
            let (sector, skip) = ((offset + done) / SECTOR, (offset + done) % SECTOR);
            let piece = (SECTOR - skip).min(len - done);
            let index = |value| usize::try_from(value).unwrap();
            each(sector, index(skip), index(piece), index(done));
            done += piece;
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let len = self.len.saturating_sub(offset).min(buffer.len() as u64);
        Self::each_piece(offset, len, |sector, skip, piece, at| match self.sectors.get(&sector) {
            Some(bytes) => buffer[at..at + piece].copy_from_slice(&bytes[skip..skip + piece]),
            None => buffer[at..at + piece].fill(0),
        });
        usize::try_from(len).unwrap()
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => {
                self.len = self.len.max(offset + data.len() as u64);
                Self::each_piece(*offset, data.len() as u64, |sector, skip, piece, at| {
                    let bytes = self.sectors.entry(sector).or_insert([0; 512]);
                    bytes[skip..skip + piece].copy_from_slice(&data[at..at + piece]);
                });
            }
            Change::Zero(offset, len) => {
                let end = (offset + len).min(self.len);
                Self::each_piece(*offset, end.saturating_sub(*offset), |sector, skip, piece, _| {
                    if let Some(bytes) = self.sectors.get_mut(&sector) {
                        bytes[skip..skip + piece].fill(0);
                    }
                });
            }
            Change::SetLen(len) => {
                self.apply(&Change::Zero(*len, u64::MAX / 2));
                self.len = *len;
            }
        }
        self.sectors.retain(|&sector, bytes| sector * SECTOR < self.len && bytes != &[0; 512]);
    }

    /// Whether the bytes are somewhere in the file, within one sector or across two.
    pub(super) fn holds(&self, wanted: &[u8]) -> bool {
        self.sectors.keys().any(|&sector| {
            let mut two = [0; 1024];
            self.read(sector * SECTOR, &mut two);
            two.windows(wanted.len()).any(|window| window == wanted)
        })
    }

    /// Start of each sector that is not all zeros.
    pub(super) fn data(&self) -> Vec<u64> {
        self.sectors.keys().map(|sector| sector * SECTOR).collect()
    }
}

/// What a test does with all images that a power cut could leave, at each moment when most is unsynced.
pub(super) type Watch = Box<dyn FnMut(&[Image]) + Send>;

#[derive(Default)]
struct State {
    live: Image,
    durable: Image,
    pending: Vec<Change>,
}

/// A file that knows what of it is durable.
#[derive(Default)]
pub(super) struct TornStorage {
    state: Mutex<State>,
    watch: Mutex<Option<Watch>>,
}

impl TornStorage {
    pub(super) fn new(image: Image) -> Self {
        let state = State { durable: image.clone(), live: image, pending: Vec::new() };
        Self { state: Mutex::new(state), watch: Mutex::default() }
    }

    /// From now on each sync shows first what a power cut could have left before it.
    pub(super) fn watch(&self, watch: Watch) {
        *self.watch.lock() = Some(watch);
    }

    pub(super) fn image(&self) -> Image {
        self.state.lock().live.clone()
    }

    fn change(&self, change: Change) {
        let mut state = self.state.lock();
        state.live.apply(&change);
        state.pending.push(change);
    }

    /// What was synced, plus subsets of what was not: all of them if there are few changes, else all beginnings, all ends,
    /// all but one, and random ones.
    pub(super) fn crash_images(&self) -> Vec<Image> {
        let state = self.state.lock();
        let count = state.pending.len();
        let image = |kept: &dyn Fn(usize) -> bool| {
            let mut image = state.durable.clone();
            let survivors = state.pending.iter().enumerate().filter(|(number, _)| kept(*number));
            survivors.for_each(|(_, change)| image.apply(change));
            image
        };
        if count <= ALL_SUBSETS {
            return (0..1_u64 << count).map(|subset| image(&|number| subset >> number & 1 == 1)).collect();
        }
        let cuts = 0..=count;
        let beginnings = cuts.clone().map(|cut| image(&|number| number < cut));
        let ends = cuts.clone().map(|cut| image(&|number| number >= cut));
        let all_but_one = cuts.map(|cut| image(&|number| number != cut));
        // A fixed sequence of subsets, so that a failure can be repeated: splitmix64.
        let random = (1..=RANDOM_SUBSETS).map(|seed| {
            image(&|number| {
                let mut bits = (seed * 1000 + number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (bits ^ bits >> 27) >> 40 & 1 == 1
            })
        });
        beginnings.chain(ends).chain(all_but_one).chain(random).collect()
    }
}

impl Storage for TornStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.state.lock().live.len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(Change::SetLen(len));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.state.lock().live.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        Image::each_piece(offset, data.len() as u64, |sector, skip, piece, at| {
            self.change(Change::Write(sector * SECTOR + skip as u64, data[at..at + piece].to_vec()));
        });
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if let Some(watch) = self.watch.lock().as_mut() {
            watch(&self.crash_images());
        }
        let mut state = self.state.lock();
        state.durable = state.live.clone();
        state.pending.clear();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.change(Change::Zero(offset, len));
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        let state = self.state.lock();
        Ok(state.live.sectors.range(offset / SECTOR..).next().map(|(sector, _)| offset.max(sector * SECTOR)))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        let state = self.state.lock();
        let mut sector = offset / SECTOR;
        while state.live.sectors.contains_key(&sector) {
            sector += 1;
        }
        let hole = offset.max(sector * SECTOR).min(state.live.len);
        Ok(Some(hole).filter(|_| offset < state.live.len))
    }
}
