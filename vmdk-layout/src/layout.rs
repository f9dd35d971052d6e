//! Where the bytes of one virtual disk are.
//!
//! A [`Layout`] maps byte ranges of a disk to [`Run`]s, each within one file, or zeros, or the parent's. All extents
//! count: ZERO, RDONLY and NOACCESS extents and mixtures of types keep their place on the disk. Extents are found by
//! binary search; tables of sparse extents are read through the caller's [`Source`]s as lookups need them.

mod open;

use std::ops::Range;

use crate::cache::{Cache, FileId};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR_LEN;
use crate::name::FileName;
use crate::source::Source;
use crate::sparse::{Grain, Sparse};

/// A range of a virtual disk whose bytes are all in one place.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Run {
    /// Byte offset on the virtual disk.
    pub start: u64,
    /// Bytes; never zero.
    pub len: u64,
    /// Where they are.
    pub target: Target,
}

/// Where the bytes of a [`Run`] are. Files are numbered as by [`Layout::open`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// At `offset` of a file, as they are.
    Data {
        /// Which file.
        file: usize,
        /// Byte offset of the run's first byte.
        offset: u64,
    },
    /// Within a compressed grain.
    Compressed(CompressedGrain),
    /// They are zeros.
    Zero,
    /// Where the parent has the same offset.
    Parent,
    /// Nowhere that may be read: a NOACCESS extent.
    NoAccess,
}

/// A grain of a streamOptimized disk; [`Layout::inflate`] reads it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CompressedGrain {
    /// Which file.
    pub file: usize,
    /// Byte offset of the grain's marker.
    pub offset: u64,
    /// First disk sector of the grain within its extent, which the marker repeats.
    pub sector: u64,
    /// Bytes of the inflated grain before the run's first.
    pub skip: u64,
}

/// The map of one disk, without its parent.
#[derive(Clone, Debug)]
pub struct Layout {
    /// In disk order, without gaps.
    pieces: Vec<Piece>,
    /// Of the files, for errors; none for a disk that is one file, which the caller named.
    names: Vec<FileName>,
    has_parent: bool,
    is_writable: bool,
}

#[derive(Clone, Debug)]
struct Piece {
    /// First byte on the virtual disk.
    start: u64,
    /// Byte after the last.
    end: u64,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Flat { file: usize, offset: u64 },
    Sparse { file: usize, sparse: Box<Sparse> },
    Zero,
    NoAccess,
}

impl Layout {
    /// Bytes of the virtual disk.
    pub fn len(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    /// Whether the disk has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a parent holds what this disk does not.
    pub fn has_parent(&self) -> bool {
        self.has_parent
    }

    /// Whether every byte can be written in place: all extents are flat and RW, and there is no parent.
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// The sparse extents, with the number of the file of each.
    pub fn sparse_extents(&self) -> impl Iterator<Item = (usize, &Sparse)> {
        self.pieces.iter().filter_map(|piece| match &piece.place {
            Place::Sparse { file, sparse } => Some((*file, &**sparse)),
            Place::Flat { .. } | Place::Zero | Place::NoAccess => None,
        })
    }

    /// The longest run that begins at `range.start` and ends within `range`. `files` are those that the layout was
    /// opened with. The work grows with the grains in `range`, not with the disk.
    ///
    /// # Errors
    /// `Invalid` if the range is empty or leaves the disk; `Corrupt` with the offset of a directory or table entry that
    /// points out of its file; `Io` if a source fails.
    pub fn run_at<S: Source>(&self, range: Range<u64>, files: &[S], cache: &mut Cache) -> Result<Run> {
        self.run_of(0, range, files, cache)
    }

    /// All runs of `range`, in order, as by [`run_at`](Self::run_at). After an error there are no more.
    pub fn runs<'a, S: Source>(
        &'a self,
        range: Range<u64>,
        files: &'a [S],
        cache: &'a mut Cache,
    ) -> impl Iterator<Item = Result<Run>> + 'a {
        let Range { start, end } = range;
        let mut next = Some(start).filter(|start| *start < end);
        std::iter::from_fn(move || {
            let run = self.run_at(next?..end, files, cache);
            next = run.as_ref().ok().map(|run| run.start + run.len).filter(|start| *start < end);
            Some(run)
        })
    }

    /// As [`run_at`](Self::run_at), for the disk that is number `link` of a chain.
    pub(crate) fn run_of<S: Source>(
        &self,
        link: usize,
        range: Range<u64>,
        files: &[S],
        cache: &mut Cache,
    ) -> Result<Run> {
        if range.is_empty() || range.end > self.len() {
            let message = format!("bytes {} to {} of a disk of {} bytes", range.start, range.end, self.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let index = self.pieces.partition_point(|piece| piece.end <= range.start);
        let piece = self.pieces.get(index).expect("pieces cover all bytes below len");
        let end = range.end.min(piece.end);
        let within = range.start - piece.start;
        let whole = |target| Ok(Run { start: range.start, len: end - range.start, target });
        match &piece.place {
            Place::Flat { file, offset } => whole(Target::Data { file: *file, offset: offset + within }),
            Place::Zero => whole(Target::Zero),
            Place::NoAccess => whole(Target::NoAccess),
            Place::Sparse { file, sparse } => {
                let source = source_of(files, *file)?;
                let mut walk = Walk { sparse, id: FileId { link, file: *file }, source, cache, table: None };
                let (len, target) = walk.run(within, end - piece.start).map_err(|error| self.named(error, *file))?;
                let target = if target == Target::Parent && !self.has_parent { Target::Zero } else { target };
                Ok(Run { start: range.start, len, target })
            }
        }
    }

    /// Inflates a whole grain, of which the run that named it has the bytes from [`CompressedGrain::skip`] on.
    ///
    /// # Errors
    /// `Corrupt` if the marker or the data is not that of the grain, `Invalid` if it is not a grain of this layout.
    pub fn inflate<S: Source>(&self, grain: &CompressedGrain, files: &[S]) -> Result<Vec<u8>> {
        let sparse = self.sparse_extents().find(|(file, _)| *file == grain.file).map(|(_, sparse)| sparse);
        let sparse = sparse.filter(|sparse| sparse.is_compressed() && grain.sector < sparse.capacity());
        let sparse = sparse.ok_or_else(|| Error::new(Kind::Invalid, "a grain of another layout"))?;
        let inflated = sparse.inflate(source_of(files, grain.file)?, grain.offset, grain.sector);
        inflated.map_err(|error| self.named(error, grain.file))
    }

    pub(crate) fn named(&self, error: Error, file: usize) -> Error {
        match self.names.get(file) {
            Some(name) => error.in_file(name.as_str()),
            None => error,
        }
    }
}

pub(crate) fn source_of<S>(files: &[S], file: usize) -> Result<&S> {
    files.get(file).ok_or_else(|| {
        let message = format!("file {file} of the disk was not given, only {} were", files.len());
        Error::new(Kind::Invalid, message)
    })
}

/// Grains of one sparse extent, gathered to runs.
struct Walk<'a, S> {
    sparse: &'a Sparse,
    id: FileId,
    source: &'a S,
    cache: &'a mut Cache,
    /// The table looked up last, by number, and where it is.
    table: Option<(u64, Option<u64>)>,
}

impl<S: Source> Walk<'_, S> {
    /// Length and target of the longest run that begins at byte `start` of the extent and ends at or before `end`.
    fn run(&mut self, start: u64, end: u64) -> Result<(u64, Target)> {
        let (mut reached, first) = self.step(start)?;
        while reached < end {
            // What follows may be damaged; that is for the call that asks for it.
            let Ok((next, target)) = self.step(reached) else { break };
            if !follows(first, reached - start, target) {
                break;
            }
            reached = next;
        }
        Ok((reached.min(end) - start, first))
    }

    /// Where the bytes from `at` on are, and up to where.
    fn step(&mut self, at: u64) -> Result<(u64, Target)> {
        let grain_len = self.sparse.grain_len();
        let grain = at / grain_len;
        let index = self.sparse.table_of(grain);
        let table = match self.table {
            Some((known, table)) if known == index => table,
            Some(_) | None => {
                let table = self.sparse.table(self.id, self.source, self.cache, index)?;
                self.table = Some((index, table));
                table
            }
        };
        let Some(table) = table else { return Ok((self.sparse.end_of_table(index) * grain_len, Target::Parent)) };
        let skip = at % grain_len;
        let file = self.id.file;
        let target = match self.sparse.grain(self.id, self.source, self.cache, table, grain)? {
            Grain::Unallocated => Target::Parent,
            Grain::Zero => Target::Zero,
            Grain::Data(offset) => Target::Data { file, offset: offset + skip },
            Grain::Compressed(offset) => {
                Target::Compressed(CompressedGrain { file, offset, sector: grain * grain_len / SECTOR_LEN, skip })
            }
        };
        Ok(((grain + 1) * grain_len, target))
    }
}

/// Whether `next`, `distance` bytes after `first`, continues it.
fn follows(first: Target, distance: u64, next: Target) -> bool {
    match (first, next) {
        (Target::Data { file, offset }, Target::Data { file: next_file, offset: next }) => {
            file == next_file && offset + distance == next
        }
        (Target::Zero, Target::Zero) | (Target::Parent, Target::Parent) => true,
        (Target::Data { .. } | Target::Compressed(_) | Target::Zero | Target::Parent | Target::NoAccess, _) => false,
    }
}
