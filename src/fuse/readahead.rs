//! How many bytes the kernel reads ahead in files that it caches.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::error::{Context, Result};
use crate::store::plain_file::MAX_REQUEST;
use crate::text::Show;

/// Lets the kernel read ahead as much as one request can hold, instead of 128 KiB. When a mount starts it may ask for less than that;
/// more takes root and sysfs.
///
/// # Errors
/// `Io`; the mount works as well without it.
pub(super) fn widen(mountpoint: &Path) -> Result<()> {
    // The mount does not serve yet, so this must not lead to a request.
    let stat = rustix::fs::statx(CWD, mountpoint, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())
        .context(|| format!("device number of {}", mountpoint.shown()))?;
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", stat.stx_dev_major, stat.stx_dev_minor);
    std::fs::write(&setting, format!("{}\n", MAX_REQUEST >> 10)).context(|| format!("writing {setting}"))
}
