//! What a home's manifest proves.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::format::manifest::Note;
use crate::timestamp::Timestamp;
use crate::vm::manifest::differences::is_settled_by;

/// What a home's manifest proves.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// What is not as it was left, for people: what the manifest notes, and what was found now.
    pub findings: Vec<String>,
    /// The former.
    pub(super) noted: Vec<Note>,
    /// The latter.
    pub(super) news: Vec<String>,
    /// Since when nothing is proven, if that is so: the manifest is open, and the home differs from it.
    pub unproven_since: Option<Timestamp>,
    /// The time and number of the manifest, if it can be read.
    pub manifest: Option<(Timestamp, u64)>,
    /// By which what was found is known to be news.
    pub(super) at: Stamp,
    /// What the next number is larger than, whatever is there then.
    pub(super) least: u64,
    /// A path of which nothing is noted.
    pub(super) accepted: Option<PathBuf>,
}

/// The numbers of the manifest that is there, and of the newest that this host has seen.
pub(super) type Stamp = (Option<u64>, Option<u64>);

impl Proof {
    pub(super) fn with(mut self, news: Vec<String>) -> Self {
        self.findings.extend_from_slice(&news);
        Self { news, ..self }
    }

    /// The same, but that what has this path belongs there from now on.
    #[must_use]
    pub fn accepting(mut self, path: &Path) -> Self {
        self.news.retain(|found| !is_settled_by(found, path));
        Self { accepted: Some(path.to_path_buf()), ..self }
    }

    /// The same, for a manifest that follows one that was removed on purpose.
    #[must_use]
    pub fn after_removal(self) -> Self {
        let least = self.at.0.max(self.at.1).unwrap_or(0);
        Self { at: (None, None), least, ..self }
    }

    /// That a home could not be looked through.
    pub fn failed(error: &Error) -> Self {
        Self {
            findings: vec![format!("it could not be compared with its manifest: {}", error.chain())],
            ..Self::default()
        }
    }

    /// That a manifest could not be sealed.
    pub fn not_sealed(error: &Error) -> Self {
        Self { findings: vec![format!("its manifest could not be sealed: {}", error.chain())], ..Self::default() }
    }

    /// What is found, in one text; `None` where all is as it was left.
    pub fn describe(&self) -> Option<String> {
        const MAX_NAMED: usize = 16;
        let more = self.findings.len().saturating_sub(MAX_NAMED);
        let named = self.findings[..self.findings.len() - more].join("; ");
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        (!self.findings.is_empty()).then(|| {
            format!("changed by others than a mount or a verb: {named}{more}; `vmcryptfs accept-rollback VM_FOLDER` accepts that")
        })
    }

    /// Refuses a home that is not as it was left, where something else is to be made of it.
    ///
    /// # Errors
    /// `Corrupt`, with what is found.
    pub fn refuse_changed(&self) -> Result<()> {
        self.describe().map_or(Ok(()), |found| Err(Error::new(Kind::Corrupt, format!("the home was {found}"))))
    }

    /// That nothing is proven since some time; `None` where that is not so.
    pub fn describe_unproven(&self) -> Option<String> {
        let since = self.unproven_since?.to_millis();
        Some(format!("not proven since {since}: what had changed it did not end cleanly, or has not ended"))
    }

    /// By which manifest all is as it was left; `None` without one.
    pub fn describe_sealed(&self) -> Option<String> {
        let (time, counter) = self.manifest?;
        Some(format!("as its manifest {counter} of {} says", time.to_millis()))
    }
}
