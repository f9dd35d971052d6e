//! The families of a mount's process.

use std::time::Duration;

use nix::errno::Errno;

use crate::error::Kind;
use crate::event;
use crate::fs::FileSystem;
use crate::fuse::counters;
use crate::gate::counts;
use crate::metrics::{Family, Sample, Value};
use crate::provider::fetches;

/// All that the process of a mount counts. Looks at nothing but memory, so it does not wait for storage or key servers.
pub fn of_mount(fs: &FileSystem) -> Vec<Family> {
    let mut families = requests();
    families.extend([components(fs), unlocks(), operations()]);
    families.extend(key_fetches().into_iter().chain(events()));
    families
}

fn requests() -> Vec<Family> {
    let counted = counters::snapshot();
    let times = counted.operations.iter().map(|operation| {
        let bounds = counters::BOUNDS.iter().map(Duration::as_secs_f64);
        let value = times(operation.total.as_secs_f64(), bounds, &operation.by_time);
        sample([("operation", operation.name)], value)
    });
    let bytes = [("read", counted.bytes_read), ("write", counted.bytes_written)];
    let bytes = bytes.map(|(direction, count)| sample([("direction", direction)], Value::Counter(count)));
    let errors = counted
        .errors
        .iter()
        .map(|(errno, count)| sample([("errno", errno_name(*errno).as_str())], Value::Counter(*count)));
    vec![
        family(
            "vmcryptfs_request_duration_seconds",
            "Requests of the kernel, from when they were read to their reply",
            times,
        ),
        family("vmcryptfs_data_bytes", "Plaintext that was read and written", bytes),
        family("vmcryptfs_request_errors", "Requests that failed, by the name of the error", errors),
    ]
}

/// As errno(3) has it; what has no name there is counted together.
fn errno_name(errno: i32) -> String {
    let errno = Errno::from_raw(errno);
    if errno == Errno::UnknownErrno { "other".to_owned() } else { format!("{errno:?}") }
}

fn components(fs: &FileSystem) -> Family {
    let (unlocked, locked) = fs.served().keyring().count();
    let states = [("unlocked", unlocked), ("locked", locked)];
    let samples =
        states.map(|(state, count)| sample([("state", state)], Value::Gauge(i64::try_from(count).unwrap_or(i64::MAX))));
    family(
        "vmcryptfs_components",
        "Homes and disks whose key is in memory or is not, of those that were met so far",
        samples,
    )
}

fn unlocks() -> Family {
    let unlocks = event::counts::all().into_iter().filter(|(name, ..)| *name == event::EventName::Unlock.word());
    let samples = unlocks.map(|(_, failed, count)| sample([("result", result(failed))], Value::Counter(count)));
    family(
        "vmcryptfs_unlocks",
        "Components that were unlocked, or could not be; the same failure again does not count",
        samples,
    )
}

fn key_fetches() -> [Family; 2] {
    let all = |value: fn(fetches::Fetches) -> Value| {
        let fetches = fetches::all().into_iter();
        fetches.map(move |(provider, error, fetches)| {
            sample([("provider", provider.as_str()), ("result", error.map_or("ok", Kind::word))], value(fetches))
        })
    };
    let count = all(|fetches| Value::Counter(fetches.count));
    let seconds = all(|fetches| Value::Seconds(fetches.total.as_secs_f64()));
    [
        family(
            "vmcryptfs_key_fetches",
            "Keys that a provider was asked for, by the kind of the error if there was one",
            count,
        ),
        family("vmcryptfs_key_fetch_seconds", "How long that took", seconds),
    ]
}

fn operations() -> Family {
    let samples = counts::all().into_iter().map(|(name, ending, count)| {
        let value = times(count.total.as_secs_f64(), counts::BOUNDS.into_iter(), &count.by_time);
        sample([("operation", name), ("result", ending.word())], value)
    });
    family("vmcryptfs_operation_duration_seconds", "Operations on keys and components in this process", samples)
}

fn events() -> [Family; 2] {
    let samples = event::counts::all()
        .into_iter()
        .map(|(name, failed, count)| sample([("event", name), ("result", result(failed))], Value::Counter(count)));
    let unrecorded = Sample { labels: Vec::new(), value: Value::Counter(event::counts::unrecorded()) };
    [
        family("vmcryptfs_events", "Events of this process", samples),
        family("vmcryptfs_event_failures", "Events that could not be recorded, or not in time", [unrecorded]),
    ]
}

fn result(failed: bool) -> &'static str {
    if failed { "failed" } else { "ok" }
}

fn times(sum: f64, bounds: impl Iterator<Item = f64>, by_time: &[u64]) -> Value {
    let above = by_time.last().copied().unwrap_or(0);
    Value::Times { sum, buckets: bounds.zip(by_time.iter().copied()).collect(), above }
}

fn sample<const N: usize>(labels: [(&str, &str); N], value: Value) -> Sample {
    Sample { labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), value }
}

fn family(name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) -> Family {
    Family { name: name.to_owned(), help: help.to_owned(), samples: samples.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_names_that_programs_know() {
        let names = [libc::ENOENT, libc::EIO, libc::ENOSPC, libc::EOPNOTSUPP, libc::EAGAIN, 0, 9999].map(errno_name);
        assert_eq!(names, ["ENOENT", "EIO", "ENOSPC", "EOPNOTSUPP", "EAGAIN", "other", "other"]);
    }
}
