//! The ends of the chains of events: what is kept of them elsewhere, so that a log that was cut short is noticed.

use std::fs::File;
use std::path::Path;

use super::chain::Tail;
use super::log::numbered;
use super::{Class, settings};
use crate::format::manifest::LogEnd;
use crate::sys::process::host_name;
use crate::text;

/// The newest event of each class, as the files show it now. What cannot be read has none: an event that is missing there is not
/// proven by this.
pub fn ends() -> Vec<LogEnd> {
    if cfg!(test) && super::CONFIG.get().is_none() {
        return Vec::new(); // unit tests leave the log of their user alone
    }
    let Ok(log) = settings().and_then(|settings| super::place(&settings)) else { return Vec::new() };
    Class::ALL.into_iter().filter_map(|class| end(class, &log)).collect()
}

/// What a log is called outside of its host.
pub fn log_name(log: &Path) -> String {
    format!("{}:{}", text::path::to_text(Path::new(&host_name())), text::path::to_text(log))
}

fn end(class: Class, log: &Path) -> Option<LogEnd> {
    let file = class.file(log);
    let newest = |path: &Path| Tail::of(&File::open(path).ok()?).ok()?.newest();
    let (sequence, hash) = newest(&file).or_else(|| newest(&numbered(&file, 1)))?;
    Some(LogEnd { class: class.number(), sequence, hash, log: log_name(log) })
}
