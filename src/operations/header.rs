//! Headers saved in files of their own.

use std::path::Path;

use uuid::Uuid;

use crate::error::{Context, Result};
use crate::event::EventName;
use crate::format::header::{ComponentKind, HOME_FILE};
use crate::format::saved_header::SavedHeader;
use crate::gate::{Object, Operation, Trail};
use crate::progress::OnProgress;
use crate::provider::private_file;
use crate::storage::FileStorage;
use crate::store::header_area;
use crate::sys::file::{file_beneath, regular_at};
use crate::text::Show;
use crate::timestamp::Timestamp;
use crate::vm::folder;
use crate::vm::home_state::HomeState;
use crate::work::unlocked_component::refuse_unsettled;

/// Saves a component's header in a new file.
pub struct BackUpHeader<'a> {
    /// A VM folder, whose home is meant, or a disk.
    pub component: &'a Path,
    /// The new file.
    pub file: &'a Path,
}

impl Operation for BackUpHeader<'_> {
    const NAME: EventName = EventName::HeaderBackup;
    type Outcome = Uuid;

    fn object(&self) -> Object {
        Object::at(self.component.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Uuid> {
        let Self { component, file } = self;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        trail.event().reason(format!("to {}", absolute.shown()));
        let (path, kind) = match component.is_dir() {
            true => (component.join(HOME_FILE), ComponentKind::Home),
            false => (component.to_path_buf(), ComponentKind::Disk),
        };
        let reading = || path.shown().to_string();
        let opened = match kind {
            ComponentKind::Home => {
                let dir = folder::open_dir(component)?;
                HomeState::of(&dir).context(reading)?;
                file_beneath(dir, Path::new(HOME_FILE))
            }
            ComponentKind::Disk => regular_at(&path),
        };
        let storage = FileStorage::new(opened.context(reading)?);
        let header = header_area::load(&storage, kind).context(reading)?.header;
        refuse_unsettled(header.claims())?;
        let uuid = header.claims().uuid;
        trail.event().uuid(uuid);
        private_file::create(file, &[&SavedHeader { time: Timestamp::now(), header }.encode()?])?;
        Ok(uuid)
    }
}
