//! Snapshot chains: a disk on top of its parents.
//!
//! The caller opens parent after parent, as [`Ancestry`] asks; it refuses loops and parents whose contents are not
//! those that the child was made of. A [`Chain`] then maps ranges to runs in whichever disk holds them.

use std::collections::HashSet;
use std::ops::Range;

use crate::cache::{Cache, FileId};
use crate::descriptor::{Cid, Descriptor, Parent};
use crate::error::{Error, Kind, Result, shown};
use crate::layout::{Layout, Run, Target, source_of};
use crate::limits::MAX_CHAIN;
use crate::source::Source;

/// The way from a disk to its base, checked at each step (Virtual Disk Format 5.0, "CID and parentCID").
#[derive(Clone, Debug)]
pub struct Ancestry {
    seen: HashSet<String>,
    parent: Option<Parent>,
    last: String,
}

impl Ancestry {
    /// Starts at the disk to open. `identity` tells files apart: a path, or device and inode.
    pub fn new(identity: &str, descriptor: &Descriptor) -> Self {
        let seen = HashSet::from([identity.to_owned()]);
        Self { seen, parent: descriptor.parent().cloned(), last: identity.to_owned() }
    }

    /// The parent to open next; `None` once the base is reached.
    pub fn parent(&self) -> Option<&Parent> {
        self.parent.as_ref()
    }

    /// Goes on to the parent, which the caller opened.
    ///
    /// # Errors
    /// `Corrupt` if the file is part of the chain already, or if its CID is not the one that its child was made of: it
    /// was changed since, and the child's grains would be laid over data of another time. `Unsupported` beyond
    /// [`MAX_CHAIN`] disks; `Invalid` if no parent is expected.
    ///
    /// Where both CIDs are [`Cid::LONG`] they are equal, and nothing more can be told: a child does not record its
    /// parent's long content id.
    pub fn add(&mut self, identity: &str, descriptor: &Descriptor) -> Result<()> {
        let (child, file) = (shown(&self.last), shown(identity));
        let Some(expected) = self.parent.as_ref().map(|parent| parent.cid) else {
            return Err(Error::new(Kind::Invalid, format!("{child} has no parent, but {file} was given as one")));
        };
        if self.seen.contains(identity) {
            let message = format!("{file} is its own ancestor: the parents of this disk form a loop");
            return Err(Error::new(Kind::Corrupt, message));
        }
        if self.seen.len() >= MAX_CHAIN {
            return Err(Error::new(Kind::Unsupported, format!("a chain of more than {MAX_CHAIN} disks")));
        }
        if descriptor.cid() != expected {
            let found = descriptor.cid();
            let message = format!(
                "the CID of {file} is {found}, expected the parentCID {expected} of {child}: the parent was changed \
                 after the snapshot was taken, or is another disk"
            );
            return Err(Error::new(Kind::Corrupt, message));
        }
        debug_assert_ne!(expected, Cid::NO_PARENT);
        self.seen.insert(identity.to_owned());
        self.last = identity.to_owned();
        self.parent = descriptor.parent().cloned();
        Ok(())
    }
}

/// A disk and its ancestors as one map.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The disk itself first, its base last.
    links: Vec<Layout>,
}

/// A run and the disk of the chain that it is in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ChainRun {
    /// 0 for the disk itself, 1 for its parent, and so on; of no meaning for zeros.
    pub link: usize,
    /// The run. Its target is never [`Target::Parent`].
    pub run: Run,
}

impl Chain {
    /// Joins layouts: the disk itself first, its base last, as [`Ancestry`] went.
    ///
    /// # Errors
    /// `Invalid` if there are none, or if one but the last has no parent, or the last one has.
    pub fn new(links: Vec<Layout>) -> Result<Self> {
        let complete = links.iter().rev().enumerate().all(|(from_base, link)| link.has_parent() == (from_base > 0));
        if links.is_empty() || !complete {
            let message = format!("the {} disks given are not one chain down to its base", links.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self { links })
    }

    /// Bytes of the virtual disk: those of the topmost disk, whatever its parents have.
    pub fn len(&self) -> u64 {
        self.links.first().map_or(0, Layout::len)
    }

    /// Whether the disk has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every byte can be written in place, as by [`Layout::is_writable`].
    pub fn is_writable(&self) -> bool {
        matches!(self.links.as_slice(), [only] if only.is_writable())
    }

    /// The layouts, the disk itself first.
    pub fn links(&self) -> &[Layout] {
        &self.links
    }

    /// The longest run that begins at `range.start` and ends within `range`. `files` has, for each link, the files that
    /// its layout was opened with. What lies beyond the end of a shorter parent is zeros: the disk was grown since.
    ///
    /// # Errors
    /// As [`Layout::run_at`].
    pub fn run_at<S: Source>(&self, range: Range<u64>, files: &[Vec<S>], cache: &mut Cache) -> Result<ChainRun> {
        let start = range.start;
        let mut end = range.end;
        for (link, layout) in self.links.iter().enumerate() {
            if link > 0 && start >= layout.len() {
                return Ok(ChainRun { link, run: Run { start, len: end - start, target: Target::Zero } });
            }
            if link > 0 {
                end = end.min(layout.len());
            }
            let files = files.get(link).map(Vec::as_slice).unwrap_or_default();
            let run = layout.run_of(link, start..end, files, cache)?;
            if run.target != Target::Parent {
                return Ok(ChainRun { link, run });
            }
            end = start + run.len;
        }
        Err(Error::new(Kind::Invalid, "a chain without its base")) // Chain::new saw the base
    }

    /// All runs of `range`, in order. After an error there are no more.
    pub fn runs<'a, S: Source>(
        &'a self,
        range: Range<u64>,
        files: &'a [Vec<S>],
        cache: &'a mut Cache,
    ) -> impl Iterator<Item = Result<ChainRun>> + 'a {
        let Range { start, end } = range;
        let mut next = Some(start).filter(|start| *start < end);
        std::iter::from_fn(move || {
            let found = self.run_at(next?..end, files, cache);
            next = found.as_ref().ok().map(|found| found.run.start + found.run.len).filter(|start| *start < end);
            Some(found)
        })
    }

    /// Fills `buf` with the disk's bytes from `offset` on, through the sources. A caller that has its own way to read
    /// data (in place, in parallel) uses [`run_at`](Self::run_at) instead.
    ///
    /// # Errors
    /// As [`Layout::run_at`]; `Denied` where the range touches a NOACCESS extent.
    pub fn read_at<S: Source>(&self, offset: u64, buf: &mut [u8], files: &[Vec<S>], cache: &mut Cache) -> Result<()> {
        let mut rest = buf;
        let mut start = offset;
        while !rest.is_empty() {
            let end = start.saturating_add(rest.len() as u64);
            let found = self.run_at(start..end, files, cache)?;
            let len = usize::try_from(found.run.len).expect("a run within a buffer");
            let (part, after) = rest.split_at_mut(len);
            self.fill(found, part, files, cache)?;
            start += found.run.len;
            rest = after;
        }
        Ok(())
    }

    fn fill<S: Source>(&self, found: ChainRun, buf: &mut [u8], files: &[Vec<S>], cache: &mut Cache) -> Result<()> {
        let ChainRun { link, run } = found;
        let files = files.get(link).map(Vec::as_slice).unwrap_or_default();
        let Some(layout) = self.links.get(link) else {
            return Err(Error::new(Kind::Invalid, format!("link {link} of a chain of {}", self.links.len())));
        };
        match run.target {
            Target::Data { file, offset } => {
                let read = source_of(files, file)?.read_at(offset, buf);
                read.map_err(|error| layout.named(Error::io(offset, error), file))
            }
            Target::Compressed(grain) => {
                let key = (FileId { link, file: grain.file }, grain.offset);
                let bytes = cache.grain(key, |bytes| {
                    *bytes = layout.inflate(&grain, files)?;
                    Ok(())
                })?;
                let skip = usize::try_from(grain.skip).expect("within a grain");
                let wanted = bytes.get(skip..).and_then(|bytes| bytes.get(..buf.len()));
                buf.copy_from_slice(wanted.expect("a run ends within its grain"));
                Ok(())
            }
            Target::Zero | Target::Parent => {
                buf.fill(0);
                Ok(())
            }
            Target::NoAccess => {
                let message = format!("bytes {} to {} lie in a NOACCESS extent", run.start, run.start + run.len);
                Err(Error::new(Kind::Denied, message))
            }
        }
    }
}
