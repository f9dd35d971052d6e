//! Small images of every sparse format, and the bytes that a right reader finds in them.

use std::fs;
use std::path::Path;

/// What one grain of an image is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cell {
    Absent,
    Zero,
    /// Data that follows from the seed.
    Data(u8),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    Hosted,
    /// Hosted, with the first directory pointing nowhere: the redundant one must serve.
    HostedDamaged,
    Stream,
    Cowd,
    SeSparse,
}

pub(crate) const FORMATS: [Format; 5] =
    [Format::Hosted, Format::HostedDamaged, Format::Stream, Format::Cowd, Format::SeSparse];

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) format: Format,
    /// Disk sectors that the extent covers.
    pub(crate) sectors: u64,
    pub(crate) cells: Vec<Cell>,
    /// Entries of a hosted grain table; other readers than ours want 512.
    pub(crate) table_entries: u64,
    /// A descriptor within the file, for streams.
    pub(crate) descriptor: Vec<u8>,
}

pub(crate) const SECTOR: u64 = 512;

impl Image {
    /// An image of `cells`, the last one covered only up to `tail` sectors.
    pub(crate) fn new(format: Format, mut cells: Vec<Cell>, tail: u64) -> Self {
        if matches!(format, Format::Cowd | Format::Stream) {
            // Neither has zeroed grains.
            cells.iter_mut().filter(|cell| **cell == Cell::Zero).for_each(|cell| *cell = Cell::Absent);
        }
        let grain = Self::grain_of(format);
        let sectors = (cells.len() as u64 - 1) * grain + (tail % grain) + 1;
        Self { format, sectors, cells, table_entries: 512, descriptor: Vec::new() }
    }

    pub(crate) fn grain_sectors(&self) -> u64 {
        Self::grain_of(self.format)
    }

    fn grain_of(format: Format) -> u64 {
        match format {
            Format::Hosted | Format::HostedDamaged | Format::Stream => 16,
            Format::Cowd => 1,
            Format::SeSparse => 8,
        }
    }

    pub(crate) fn extent_type(&self) -> &'static str {
        match self.format {
            Format::Hosted | Format::HostedDamaged | Format::Stream => "SPARSE",
            Format::Cowd => "VMFSSPARSE",
            Format::SeSparse => "SESPARSE",
        }
    }

    /// What the extent reads as, over `parent` or zeros.
    pub(crate) fn expected(&self, parent: Option<&[u8]>) -> Vec<u8> {
        let len = (self.sectors * SECTOR) as usize;
        let mut bytes = vec![0; len];
        if let Some(parent) = parent {
            let shared = len.min(parent.len());
            bytes[..shared].copy_from_slice(&parent[..shared]);
        }
        let grain_len = (self.grain_sectors() * SECTOR) as usize;
        for (place, cell) in bytes.chunks_mut(grain_len).zip(&self.cells) {
            match cell {
                Cell::Absent => {}
                Cell::Zero => place.fill(0),
                Cell::Data(seed) => place.copy_from_slice(&data(*seed, grain_len)[..place.len()]),
            }
        }
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self.format {
            Format::Hosted | Format::HostedDamaged => self.hosted(),
            Format::Stream => self.stream(),
            Format::Cowd => self.cowd(),
            Format::SeSparse => self.sesparse(),
        }
    }

    fn grain_data(&self, seed: u8) -> Vec<u8> {
        data(seed, (self.grain_sectors() * SECTOR) as usize)
    }

    /// Grains in an order that is not theirs, so that neighbours on the disk are not neighbours in the file.
    fn order(&self) -> Vec<usize> {
        let (odd, even): (Vec<_>, Vec<_>) = (0..self.cells.len()).partition(|index| index % 3 == 1);
        even.into_iter().chain(odd).collect()
    }

    fn header(&self, flags: u32, directory: u64, redundant: u64, compression: u16) -> Vec<u8> {
        let mut header = b"KDMV".to_vec();
        header.extend(if flags & 4 != 0 { 2_u32 } else { 1 }.to_le_bytes());
        header.extend(flags.to_le_bytes());
        let text_sectors = (self.descriptor.len() as u64).div_ceil(SECTOR);
        for field in [self.sectors, self.grain_sectors(), text_sectors.min(1), text_sectors] {
            header.extend(field.to_le_bytes());
        }
        header.extend(u32::try_from(self.table_entries).unwrap().to_le_bytes());
        for field in [redundant, directory, 1] {
            header.extend(field.to_le_bytes());
        }
        header.push(0);
        header.extend(b"\n \r\n");
        header.extend(compression.to_le_bytes());
        header.resize(512, 0);
        header
    }

    fn hosted(&self) -> Vec<u8> {
        let damaged = self.format == Format::HostedDamaged;
        let tables = self.tables(self.table_entries);
        let directory_sectors = (tables.len() as u64 * 4).div_ceil(SECTOR);
        let table_sectors = (self.table_entries * 4).div_ceil(SECTOR);
        let area = directory_sectors + table_sectors * tables.len() as u64;
        let mut out = self.header(0b111, 1, 1 + area, 0);
        let data_start = 1 + 2 * area;
        let mut grains = Vec::new();
        let entries = self.place_grains(|out, seed| out.extend(self.grain_data(seed)), data_start, &mut grains, 1);
        for copy in 0..2 {
            let first_table = 1 + copy * area + directory_sectors;
            let mut directory = Vec::new();
            for (index, used) in tables.iter().enumerate() {
                let sector = if *used { first_table + index as u64 * table_sectors } else { 0 };
                let sector = if damaged && copy == 0 && *used { 0xffff_0000 } else { sector };
                directory.extend(u32::try_from(sector).unwrap().to_le_bytes());
            }
            pad(&mut directory);
            out.extend(directory);
            for table in 0..tables.len() {
                let mut bytes = Vec::new();
                for index in 0..self.table_entries {
                    let entry = entries.get((table as u64 * self.table_entries + index) as usize).copied().unwrap_or(0);
                    bytes.extend(entry.to_le_bytes());
                }
                pad(&mut bytes);
                out.extend(bytes);
            }
        }
        out.extend(grains);
        out
    }

    fn stream(&self) -> Vec<u8> {
        let flags = 0x3_0001;
        let mut out = self.header(flags, u64::MAX, 0, 1);
        out.extend(&self.descriptor);
        pad(&mut out);
        let start = out.len() as u64 / SECTOR;
        let mut grains = Vec::new();
        let grain_sectors = self.grain_sectors();
        let mut sector_of = self.order().into_iter().filter(|index| matches!(self.cells[*index], Cell::Data(_)));
        let put = |out: &mut Vec<u8>, seed: u8| {
            let stream = zlib_stored(&self.grain_data(seed));
            out.extend((sector_of.next().unwrap() as u64 * grain_sectors).to_le_bytes());
            out.extend(u32::try_from(stream.len()).unwrap().to_le_bytes());
            out.extend(stream);
            pad(out);
        };
        let entries = self.place_grains(put, start, &mut grains, 0);
        out.extend(grains);
        let tables = self.tables(self.table_entries);
        let mut directory = Vec::new();
        for (index, used) in tables.iter().enumerate() {
            if *used {
                marker(&mut out, (self.table_entries * 4).div_ceil(SECTOR), 1);
                directory.extend(u32::try_from(out.len() as u64 / SECTOR).unwrap().to_le_bytes());
                for entry in 0..self.table_entries {
                    let entry = entries.get((index as u64 * self.table_entries + entry) as usize).copied().unwrap_or(0);
                    out.extend(entry.to_le_bytes());
                }
                pad(&mut out);
            } else {
                directory.extend([0; 4]);
            }
        }
        pad(&mut directory);
        marker(&mut out, directory.len() as u64 / SECTOR, 2);
        let directory_sector = out.len() as u64 / SECTOR;
        out.extend(directory);
        marker(&mut out, 1, 3);
        out.extend(self.header(flags, directory_sector, 0, 1));
        marker(&mut out, 0, 0);
        out
    }

    fn cowd(&self) -> Vec<u8> {
        let tables = self.tables(4096);
        let directory_sectors = (tables.len() as u64 * 4).div_ceil(SECTOR);
        let table_sectors = 32;
        let data_start = 4 + directory_sectors + table_sectors * tables.len() as u64;
        let mut grains = Vec::new();
        let entries = self.place_grains(|out, seed| out.extend(self.grain_data(seed)), data_start, &mut grains, 0);
        let mut out = b"COWD".to_vec();
        let counts = [1, 3, self.sectors, self.grain_sectors(), 4, tables.len() as u64, data_start];
        counts.iter().for_each(|field| out.extend(u32::try_from(*field).unwrap().to_le_bytes()));
        out.resize(2048, 0);
        for (index, used) in tables.iter().enumerate() {
            let sector = if *used { 4 + directory_sectors + index as u64 * table_sectors } else { 0 };
            out.extend(u32::try_from(sector).unwrap().to_le_bytes());
        }
        pad(&mut out);
        for index in 0..tables.len() * 4096 {
            out.extend(entries.get(index).copied().unwrap_or(0).to_le_bytes());
        }
        out.extend(grains);
        out
    }

    fn sesparse(&self) -> Vec<u8> {
        let tables = self.tables(4096);
        let directory_sectors = (tables.len() as u64 * 8).div_ceil(SECTOR);
        let used_tables = tables.iter().filter(|used| **used).count() as u64;
        let (volatile, directory) = (1, 2);
        let first_table = directory + directory_sectors;
        let data_start = first_table + used_tables * 64;
        let mut out = Vec::new();
        let areas = [
            volatile,
            1,
            0,
            0,
            0,
            0,
            directory,
            directory_sectors,
            first_table,
            used_tables * 64,
            0,
            0,
            0,
            0,
            data_start,
            0,
        ];
        for field in [0xcafe_babe, 0x2_0000_0001, self.sectors, 8, 64, 0, 0, 0, 0, 0].into_iter().chain(areas) {
            out.extend(field.to_le_bytes());
        }
        pad(&mut out);
        for field in [0xcafe_cafe_u64, 0, 0, 0] {
            out.extend(field.to_le_bytes());
        }
        pad(&mut out);
        let mut next = 0_u64;
        for used in &tables {
            let entry = if *used { 0x1000_0000_0000_0000 | next } else { 0 };
            out.extend(entry.to_le_bytes());
            next += u64::from(*used);
        }
        pad(&mut out);
        let mut grains = Vec::new();
        let indices = self.place_grains(|out, seed| out.extend(self.grain_data(seed)), 0, &mut grains, 0);
        for (index, used) in tables.iter().enumerate() {
            for grain in (index * 4096..(index + 1) * 4096).filter(|_| *used) {
                let entry: u64 = match self.cells.get(grain) {
                    None | Some(Cell::Absent) => 0,
                    Some(Cell::Zero) => 0x2000_0000_0000_0000,
                    Some(Cell::Data(_)) => {
                        let index = u64::from(indices[grain]) / 8;
                        0x3000_0000_0000_0000 | (index & 0xfff) << 48 | index >> 12
                    }
                };
                out.extend(entry.to_le_bytes());
            }
        }
        out.extend(grains);
        out
    }

    /// Writes the data grains from sector `start` on; gives each grain's sector, 0 for absent ones.
    fn place_grains(
        &self,
        mut put: impl FnMut(&mut Vec<u8>, u8),
        start: u64,
        out: &mut Vec<u8>,
        zero: u32,
    ) -> Vec<u32> {
        let mut entries = vec![0; self.cells.len()];
        for index in self.order() {
            match self.cells[index] {
                Cell::Absent => {}
                Cell::Zero => entries[index] = zero,
                Cell::Data(seed) => {
                    entries[index] = u32::try_from(start + out.len() as u64 / SECTOR).unwrap();
                    put(out, seed);
                }
            }
        }
        entries
    }

    /// For each table, whether any of its grains was written.
    fn tables(&self, entries: u64) -> Vec<bool> {
        self.cells.chunks(entries as usize).map(|cells| cells.iter().any(|cell| *cell != Cell::Absent)).collect()
    }
}

/// Four grains: data, none, zeros, data.
pub(crate) fn small(format: Format) -> Vec<u8> {
    Image::new(format, vec![Cell::Data(1), Cell::Absent, Cell::Zero, Cell::Data(2)], 100).bytes()
}

/// Overwrites bytes of an image, to damage it.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Bytes that differ from grain to grain and within one, and that a shift would change.
pub(crate) fn data(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) << 8 | 1;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend((state ^ state >> 15).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

fn marker(out: &mut Vec<u8>, value: u64, kind: u32) {
    out.extend(value.to_le_bytes());
    out.extend([0; 4]);
    out.extend(kind.to_le_bytes());
    pad(out);
}

/// A zlib stream of stored blocks.
pub(crate) fn zlib_stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = data.chunks(0xffff).count();
    for (index, block) in data.chunks(0xffff).enumerate() {
        let len = u16::try_from(block.len()).unwrap();
        out.push(u8::from(index + 1 == blocks));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(block);
    }
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in data {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    out.extend((high << 16 | low).to_le_bytes().into_iter().rev());
    out
}

/// Absent, zero and data grains in and around several tables, one of which is absent.
pub(crate) fn sample(format: Format) -> Image {
    let table = match format {
        Format::Hosted | Format::HostedDamaged | Format::Stream => 512,
        Format::Cowd | Format::SeSparse => 4096,
    };
    let cells = (0..table * 2 + table / 4).map(|index: u32| match index {
        _ if (table..table * 2).contains(&index) || index.is_multiple_of(7) => Cell::Absent,
        _ if index.is_multiple_of(5) => Cell::Zero,
        _ if index.is_multiple_of(2) || (table / 8..table - 10).contains(&index) => Cell::Absent,
        _ => Cell::Data(index.to_le_bytes()[0]),
    });
    Image::new(format, cells.collect(), 2)
}

/// Writes an image as `<stem>.vmdk`, with its extent in another file unless it is a stream.
pub(crate) fn write_disk(folder: &Path, stem: &str, image: &Image, parent: Option<(&str, u32)>) {
    let (create_type, extent) = match image.format {
        Format::Hosted | Format::HostedDamaged => ("twoGbMaxExtentSparse", format!("{stem}-s001.vmdk")),
        Format::Stream => ("streamOptimized", format!("{stem}.vmdk")),
        Format::Cowd => ("vmfsSparse", format!("{stem}-delta.vmdk")),
        Format::SeSparse => ("seSparse", format!("{stem}-sesparse.vmdk")),
    };
    let (hint, parent_cid) =
        parent.map_or((String::new(), u32::MAX), |(name, cid)| (format!("parentFileNameHint=\"{name}\"\n"), cid));
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID={parent_cid:08x}\ncreateType=\"{create_type}\"\n{hint}\
         RW {} {} \"{extent}\"\n",
        image.sectors,
        image.extent_type()
    );
    let (text, image) = match image.format {
        Format::Stream => (Vec::new(), Image { descriptor: text.into_bytes(), ..image.clone() }),
        Format::Hosted | Format::HostedDamaged | Format::Cowd | Format::SeSparse => (text.into_bytes(), image.clone()),
    };
    fs::write(folder.join(format!("{stem}.vmdk")), text).unwrap();
    let bytes = image.bytes();
    assert_eq!(bytes.len() as u64 % SECTOR, 0);
    fs::write(folder.join(extent), bytes).unwrap();
}
