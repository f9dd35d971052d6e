//! Opens disks from real folders, as a product would, with nothing but the library's public API.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmdk_layout::{Ancestry, Cache, Chain, DiskFile, Layout, Result, Source};

pub(crate) struct Opened(File);

impl Source for Opened {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

fn open(path: &Path) -> Opened {
    Opened(File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// One disk of a chain with its files.
fn link(folder: &Path, name: &str) -> Result<(DiskFile, Layout, Vec<Opened>)> {
    let file = open(&folder.join(name));
    let disk = DiskFile::read(&file)?;
    let (layout, files) = match &disk {
        DiskFile::Descriptor(descriptor) => {
            let files: Vec<_> = descriptor.files()?.iter().map(|name| open(&folder.join(name.as_str()))).collect();
            (Layout::open(descriptor, &files)?, files)
        }
        DiskFile::Monolithic { descriptor, sparse } => {
            (Layout::open_monolithic(descriptor, sparse.clone())?, vec![file])
        }
        DiskFile::Extent(sparse) => (Layout::of_extent(sparse.clone()), vec![file]),
    };
    for (number, sparse) in layout.sparse_extents() {
        sparse.check(&files[number])?;
    }
    Ok((disk, layout, files))
}

/// Reads the whole disk `name` of `folder`, in pieces of `step` bytes.
pub(crate) fn read_disk(folder: &Path, name: &str, step: usize) -> Result<Vec<u8>> {
    let (disk, layout, files) = link(folder, name)?;
    let (mut links, mut sources) = (vec![layout], vec![files]);
    if let Some(descriptor) = disk.descriptor() {
        let mut ancestry = Ancestry::new(name, descriptor);
        while let Some(parent) = ancestry.parent() {
            let name = parent.base_name()?;
            let (disk, layout, files) = link(folder, name.as_str())?;
            ancestry.add(name.as_str(), disk.descriptor().expect("a parent has a descriptor"))?;
            links.push(layout);
            sources.push(files);
        }
    }
    read_chain(&Chain::new(links)?, &sources, step)
}

pub(crate) fn read_chain<S: Source>(chain: &Chain, sources: &[Vec<S>], step: usize) -> Result<Vec<u8>> {
    let mut cache = Cache::new(4);
    let mut bytes = vec![0xee; usize::try_from(chain.len()).unwrap()];
    let mut offset = 0;
    for part in bytes.chunks_mut(step) {
        chain.read_at(offset, part, sources, &mut cache)?;
        offset += part.len() as u64;
    }
    Ok(bytes)
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if found == expected {
        return; // byte by byte only to say where
    }
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(differs, None, "{what}: first byte that differs");
}
