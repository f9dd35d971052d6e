//! Texts that users read, kept in tests/snapshots so that a change of one shows in the change itself.
//!
//! `scripts/snapshots` takes the texts as they are now for the snapshots.

use std::path::{Path, PathBuf};

use snapbox::Assert;
use snapbox::data::{Data, DataFormat};

/// The folder of snapshots of one kind.
pub(crate) fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(kind)
}

/// Compares a text with its snapshot. With `SNAPSHOTS=overwrite` in the environment, the text becomes the snapshot.
pub(crate) fn assert_snapshot(kind: &str, name: &str, text: &str) {
    let path = folder(kind).join(format!("{name}.txt"));
    // Raw: what means "anything" to snapbox, as `[..]` does, may stand in a help text.
    let expected = Data::read_from(&path, Some(DataFormat::Text)).raw();
    Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV).eq(text, expected);
}
