//! `createType`: how VMware names the ways to make up a disk.

use std::fmt;

use crate::error::{Error, Kind, Result, shown};

/// The kind of disk that a descriptor declares. What it is really made of is in its extents.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum CreateType {
    /// Extents of any types mixed.
    Custom,
    /// A whole device of the host.
    FullDevice,
    /// One flat file.
    MonolithicFlat,
    /// One growing file that holds its descriptor too.
    MonolithicSparse,
    /// Some partitions of a device of the host.
    PartitionedDevice,
    /// One compressed file, written and read as a stream.
    StreamOptimized,
    /// Flat files of up to 2 GB.
    TwoGbMaxExtentFlat,
    /// Growing files of up to 2 GB.
    TwoGbMaxExtentSparse,
    /// A flat file of ESXi, thin or thick.
    Vmfs,
    /// A flat file whose blocks were zeroed at creation.
    VmfsEagerZeroedThick,
    /// A flat file whose blocks were allocated at creation.
    VmfsPreallocated,
    /// A raw device of the storage network.
    VmfsRaw,
    /// A raw device mapping with virtual compatibility.
    VmfsRdm,
    /// A raw device mapping with physical compatibility.
    VmfsRdmp,
    /// A snapshot on VMFS 6: 4 KiB grains, space reclaimable.
    VmfsSeSparse,
    /// A snapshot on VMFS 5 and before.
    VmfsSparse,
    /// A flat file, thick; deprecated.
    VmfsThick,
    /// A flat file whose blocks are allocated when written.
    VmfsThin,
}

impl CreateType {
    /// The type of this name, in any case, older spellings included.
    ///
    /// # Errors
    /// `Unsupported` for a name that no VMware product writes.
    pub fn from_name(name: &str) -> Result<Self> {
        let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, create_type)| *create_type).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
            let message = format!("createType {} is none of {}", shown(name), known.join(", "));
            Error::new(Kind::Unsupported, message)
        })
    }

    /// The name that VMware writes today.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, create_type)| *create_type == self).map_or("custom", |(name, _)| name)
    }
}

impl fmt::Display for CreateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Of several names of one type the first is written.
const NAMES: &[(&str, CreateType)] = &[
    ("custom", CreateType::Custom),
    ("fullDevice", CreateType::FullDevice),
    ("monolithicFlat", CreateType::MonolithicFlat),
    ("monolithicSparse", CreateType::MonolithicSparse),
    ("partitionedDevice", CreateType::PartitionedDevice),
    ("streamOptimized", CreateType::StreamOptimized),
    ("twoGbMaxExtentFlat", CreateType::TwoGbMaxExtentFlat),
    ("2GbMaxExtentFlat", CreateType::TwoGbMaxExtentFlat),
    ("twoGbMaxExtentSparse", CreateType::TwoGbMaxExtentSparse),
    ("2GbMaxExtentSparse", CreateType::TwoGbMaxExtentSparse),
    ("vmfs", CreateType::Vmfs),
    ("vmfsEagerZeroedThick", CreateType::VmfsEagerZeroedThick),
    ("vmfsPreallocated", CreateType::VmfsPreallocated),
    ("vmfsRaw", CreateType::VmfsRaw),
    ("vmfsRDM", CreateType::VmfsRdm),
    ("vmfsRawDeviceMap", CreateType::VmfsRdm),
    ("vmfsRDMP", CreateType::VmfsRdmp),
    ("vmfsPassthroughRawDeviceMap", CreateType::VmfsRdmp),
    ("seSparse", CreateType::VmfsSeSparse),
    ("vmfsSeSparse", CreateType::VmfsSeSparse),
    ("vmfsSparse", CreateType::VmfsSparse),
    ("vmfsThick", CreateType::VmfsThick),
    ("vmfsThin", CreateType::VmfsThin),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_in_any_case_and_its_own_spelling_written() {
        for (name, create_type) in NAMES {
            assert_eq!(CreateType::from_name(&name.to_uppercase()).unwrap(), *create_type);
            assert_eq!(CreateType::from_name(create_type.name()).unwrap(), *create_type);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = CreateType::from_name("floppy").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("\"floppy\"") && error.message().contains("monolithicFlat"));
    }
}
