//! How many dumps were refused lately: a process that dies again and again must not fill the event log. Each dump is taken by a process of
//! its own, so the count is in a file.

use std::path::Path;
use std::time::Duration;

use crate::cluster::host;
use crate::error::Result;
use crate::provider::private_file;
use crate::timestamp::Timestamp;

/// For this long refusals are counted together.
const PERIOD: Duration = Duration::from_secs(60);
/// This many of them have events of their own.
const MAX_TOLD: u64 = 16;
/// Longest file, in bytes: three numbers.
const MAX_LEN: u64 = 64;

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// It has an event, which says how many before it have none.
    WithOthers(u64),
    /// It is counted.
    Counted,
}

/// Since when is counted, how many have events, and how many have none and were not told of.
#[derive(Clone, Copy, Default)]
struct Counts {
    begun: u64,
    told: u64,
    untold: u64,
}

/// Counts one more dump that a host with this configuration refuses.
///
/// # Errors
/// `Denied` when others can change the count, `Io`.
pub fn count(config: &Path, now: Timestamp) -> Result<Told> {
    let path = host::folder(config).join("refused-dumps");
    private_file::create_folder(private_file::folder_of(&path))?;
    let _lock = private_file::lock(&path)?;
    let (counts, told) = read(&path)?.and_one_more(now.since_1970().as_secs());
    let Counts { begun, told: with_events, untold } = counts;
    private_file::replace(&path, &[format!("{begun} {with_events} {untold}\n").as_bytes()])?;
    Ok(told)
}

/// What is not three numbers counts for nothing.
fn read(path: &Path) -> Result<Counts> {
    let Some(bytes) = private_file::read_if_there(MAX_LEN, path)? else { return Ok(Counts::default()) };
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let numbers: Vec<u64> = text.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Ok(match numbers.as_slice() {
        [begun, told, untold] => Counts { begun: *begun, told: *told, untold: *untold },
        _ => Counts::default(),
    })
}

impl Counts {
    fn and_one_more(self, now: u64) -> (Self, Told) {
        // A clock that was set back begins again.
        let is_over = now.checked_sub(self.begun).is_none_or(|age| age >= PERIOD.as_secs());
        let (begun, told) = if is_over { (now, 0) } else { (self.begun, self.told) };
        match told < MAX_TOLD {
            true => (Self { begun, told: told + 1, untold: 0 }, Told::WithOthers(self.untold)),
            false => (Self { begun, told, untold: self.untold.saturating_add(1) }, Told::Counted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_in_a_minute_some_have_events_and_the_next_one_tells_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let at = |seconds: u64| count(&config, Timestamp::from_secs(seconds)).unwrap();
        assert!((0..MAX_TOLD).all(|_| at(1000) == Told::WithOthers(0)));
        assert!((0..40).all(|_| at(1059) == Told::Counted));
        assert_eq!((at(1060), at(1060)), (Told::WithOthers(40), Told::WithOthers(0)));
        assert_eq!(at(900), Told::WithOthers(0), "a clock that was set back");
        let path = host::folder(&config).join("refused-dumps");
        private_file::replace(&path, &[b"not a number"]).unwrap();
        assert_eq!(at(900), Told::WithOthers(0));
    }
}
