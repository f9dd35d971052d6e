//! Where a verb's work on keys is done, and what it is called.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::control::local;
use crate::control::work::Work;
use crate::error::Result;
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::text::Show;
use crate::vm::workplace::{Located, Unmounted};

/// Works on what lies at `path`: by the mount that serves it, or `here`, which is given its VM folder and the component's path
/// below that.
///
/// # Errors
/// Those of the work.
pub(super) fn work<O: DeserializeOwned>(
    path: &Path,
    config: &Path,
    by_mount: impl FnOnce(PathBuf) -> Work,
    here: impl FnOnce(&Unmounted, PathBuf, OnProgress<'_>) -> Result<O>,
    on_progress: OnProgress<'_>,
) -> Result<O> {
    local::run(
        path,
        by_mount,
        |on_progress| {
            let located = Located::find(path)?;
            let place = Unmounted::open(&located.folder, Providers::load(config)?)?;
            here(&place, located.component, on_progress)
        },
        on_progress,
    )
}

/// The path of what lies below `path`, which is a folder, or is `path` itself.
pub(super) fn whole(path: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() || !path.is_dir() { path.to_path_buf() } else { path.join(below) }
}

/// What a component is called that lies below `path`, which is a folder, or is `path` itself.
pub(super) fn shown(path: &Path, component: &Path) -> String {
    let whole = if path.is_dir() { path.join(component) } else { path.to_path_buf() };
    whole.shown().to_string().trim_end_matches('/').to_owned()
}
