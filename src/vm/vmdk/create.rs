//! New VMDKs: a flat disk and its descriptor, named as VMware names them.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use rustix::fs::AtFlags;
use vmdk_layout::{Cid, FileName, NewDisk as NewVmdk, Role};

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::Header;
use crate::key::{Kek, KeyId};
use crate::storage::FileStorage;
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::store::plain_file::PlainFile;
use crate::text::Show;
use crate::vm::disk::{self, NewDisk, create_component};
use crate::vm::owner::Owner;

/// Whether a new disk of this name is a VMDK with a descriptor, rather than the extent of one or no VMDK at all.
pub fn is_new_vmdk(name: &OsStr) -> bool {
    Role::of_name(&name.to_string_lossy()) == Role::Disk
}

/// Makes `x.vmdk`, a descriptor that is a home file, and `x-flat.vmdk`, the disk that it describes; returns the disk's
/// name and header. A crash leaves nothing, only the disk, or both.
///
/// # Errors
/// `Exists` if either name is taken, `Invalid` for a name that is not UTF-8 and for a length that is 0 or not a multiple of 512, and those of
/// [`disk::create`].
pub fn create(
    dir: &File,
    name: &OsStr,
    new: &NewDisk,
    key: (&KeyId, &dyn Kek),
    (home, owner): (&HomeKeys, &Owner),
) -> Result<(FileName, Header)> {
    let text = name.to_str().ok_or_else(|| {
        let name = name.shown();
        Error::new(Kind::Invalid, format!("{name} is not UTF-8, as the names in a VMDK's descriptor have to be"))
    })?;
    let name = FileName::new(text).map_err(invalid)?;
    let data = NewVmdk::data_name(&name).map_err(invalid)?;
    let descriptor = NewVmdk::flat(new.plain_len, data.clone(), new_cid()?).and_then(|vmdk| vmdk.descriptor());
    let text = descriptor.map_err(invalid)?.to_bytes();
    if rustix::fs::statat(dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Error::new(Kind::Exists, format!("{name} exists already")));
    }
    let (_, header, _) = owner.with_new_disk(Path::new(data.as_str()), |announce| {
        disk::create(dir, OsStr::new(data.as_str()), new, key, announce)
    })?;
    let described = create_component(dir, OsStr::new(name.as_str()), new.mode, new.durable, |storage| {
        let file = storage.file().try_clone().context(|| "opening the new descriptor once more".into())?;
        HomeFile::open(FileStorage::new(file), home)?.write_at(0, &text, &mut request_buffer())
    });
    if let Err(error) = described {
        // Without a descriptor the disk, which is empty, is of no use; the error at hand says more than a second one.
        let _ = rustix::fs::unlinkat(dir, data.as_str(), AtFlags::empty());
        return Err(error);
    }
    Ok((data, header))
}

/// A content id that is none of those with a meaning of their own, which have all upper bits set.
fn new_cid() -> Result<Cid> {
    let mut bytes = [0; 4];
    random::fill(&mut bytes)?;
    Ok(Cid(u32::from_le_bytes(bytes) >> 1))
}

/// What is wrong with a name or a length that somebody asked for.
fn invalid(error: vmdk_layout::Error) -> Error {
    Error::with_source(Kind::Invalid, "a new VMDK", error)
}
