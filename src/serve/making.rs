//! Components that are made for programs that use the folder: operations that pass the gate as those of verbs do.

use std::path::PathBuf;

use crate::error::Result;
use crate::event::EventName;
use crate::format::header::Header;
use crate::gate::{self, Object, Operation, Principal, Trail, unwatched};
use crate::progress::OnProgress;
use crate::serve::ServedFolder;
use crate::sys::process::effective_uid;

impl ServedFolder {
    /// Makes a disk at a path below the folder, as `make` does it, for a user if one is known.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn make_disk<T>(
        &self,
        path: PathBuf,
        user: impl Into<Option<u32>>,
        make: impl FnOnce() -> Result<(T, Header)>,
    ) -> Result<T> {
        let disk = MakeDisk { path: self.path.join(path), make };
        gate::perform(disk, principal(user), &mut unwatched).map(|(made, _)| made)
    }

    /// Makes a VM folder in the datastore, as `make` does it.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn make_vm(&self, name: PathBuf, user: u32, make: impl FnOnce() -> Result<((), Header)>) -> Result<()> {
        let vm = MakeVm { path: self.path.join(name), make };
        gate::perform(vm, principal(user), &mut unwatched).map(|((), _)| ())
    }
}

fn principal(user: impl Into<Option<u32>>) -> Principal {
    Principal::MountUser(user.into().unwrap_or_else(effective_uid))
}

struct MakeDisk<F> {
    path: PathBuf,
    make: F,
}

impl<T, F: FnOnce() -> Result<(T, Header)>> Operation for MakeDisk<F> {
    const NAME: EventName = EventName::CreateDisk;
    type Outcome = (T, Header);

    fn object(&self) -> Object {
        Object::Disk(self.path.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<(T, Header)> {
        (self.make)().inspect(|(_, header)| describe(trail, header))
    }
}

struct MakeVm<F> {
    path: PathBuf,
    make: F,
}

impl<T, F: FnOnce() -> Result<(T, Header)>> Operation for MakeVm<F> {
    const NAME: EventName = EventName::Create;
    type Outcome = (T, Header);

    fn object(&self) -> Object {
        Object::Folder(self.path.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<(T, Header)> {
        (self.make)().inspect(|(_, header)| describe(trail, header))
    }
}

fn describe(trail: &mut Trail, header: &Header) {
    trail.event().uuid(header.uuid).key(header.slots.first_key());
}
