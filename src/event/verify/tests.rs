use std::fs;
use std::io::Write;

use super::super::log::{Log, numbered};
use super::super::reader::Reader;
use super::super::tests::record;
use super::*;

/// A log of one class in a folder of its own.
struct Files {
    dir: tempfile::TempDir,
    log: Log,
}

impl Files {
    /// Full after `lines` events, with the events 1 to `count` in it.
    fn with(count: usize, lines: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let len = 2 * serde_json::to_vec(&record("lock", "ok")).unwrap().len() as u64;
        let files = Self { log: Log::at(dir.path().join("events.jsonl"), lines * len), dir };
        (0..count).for_each(|_| files.append());
        files
    }

    fn append(&self) {
        self.log.append(record("lock", "ok"), Class::Verbs).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("events.jsonl")
    }

    fn change(&self, change: impl Fn(&mut Vec<String>)) {
        let mut lines = fs::read_to_string(self.path()).unwrap().lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(self.path(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    fn verified(&self) -> Chain {
        verify(&self.path(), None, &[]).unwrap().swap_remove(0)
    }

    /// The only problem of the chain.
    fn problem(&self) -> String {
        let problems = self.verified().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.concat()
    }
}

/// As versions before the chain wrote it.
fn old_line() -> String {
    serde_json::to_string(&record("unlock", "ok")).unwrap()
}

#[test]
fn a_log_that_several_writers_add_to_while_it_rotates_is_one_chain() {
    let files = Files::with(0, 10);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..12).for_each(|_| files.append()));
        }
    });
    assert!(numbered(&files.path(), 2).exists(), "it has rotated");
    let chain = files.verified();
    let numbers = chain.first.zip(chain.last).map(|(first, last)| (first.sequence, last.sequence));
    assert_eq!((chain.problems, chain.linked, chain.unlinked, numbers), (Vec::new(), 48, 0, Some((1, 48))));
}

#[test]
fn what_was_rotated_away_is_no_problem_and_what_was_taken_from_the_middle_is() {
    let files = Files::with(200, 10);
    let chain = files.verified();
    let first = chain.first.unwrap().sequence;
    assert!(first > 1 && chain.problems.is_empty(), "{:?}", chain.problems);
    fs::remove_file(numbered(&files.path(), 2)).unwrap();
    assert!(files.problem().contains(" are missing, between 20"), "{}", files.problem());
}

#[test]
fn every_change_but_that_of_the_end_is_found() {
    let files = |change: fn(&mut Vec<String>)| {
        let files = Files::with(6, 1 << 20);
        files.change(change);
        files.problem()
    };
    assert!(files(|lines| drop(lines.remove(2))).starts_with("event 3 is missing, or was changed"));
    assert!(files(|lines| drop(lines.drain(1..4))).starts_with("events 2 to 4 are missing, between 20"));
    let changed = files(|lines| lines[2] = lines[2].replace("\"ok\"", "\"failed\""));
    assert!(changed.starts_with("event 3 of 20") && changed.contains(" was changed, or event 4 was"), "{changed}");
    assert!(files(|lines| lines.insert(3, old_line())).starts_with("1 line after event 3 of 20"));
    assert!(files(|lines| lines.push(old_line())).starts_with("1 line after event 6 of 20"));
    assert!(files(|lines| lines[2] = "noise".into()).starts_with("event 3 is missing, or was changed"));
    let again = Files::with(6, 1 << 20);
    again.change(|lines| lines.push(lines[1].clone()));
    assert!(again.problem().contains(" stands after event 6"), "{}", again.problem());
}

#[test]
fn a_hash_that_was_noted_elsewhere_finds_what_the_files_cannot_show() {
    let files = Files::with(6, 1 << 20);
    let noted = files.verified().last.unwrap().hash;
    let problems = || verify(&files.path(), Some(&noted), &[]).unwrap().swap_remove(0).problems;
    assert_eq!(problems(), Vec::<String>::new());
    files.append();
    assert_eq!(problems(), Vec::<String>::new());
    files.change(|lines| lines.truncate(5));
    assert_eq!(files.verified().problems, Vec::<String>::new());
    files.log.append(record("unlock", "ok"), Class::Verbs).unwrap(); // what was cut is overgrown
    assert!(problems().concat().starts_with(&format!("no event has the hash {noted}")));
}

#[test]
fn an_end_that_a_home_has_sealed_is_there_rotated_away_or_missing() {
    let files = Files::with(6, 2);
    let end = |files: &Files| {
        let Link { sequence, hash, .. } = files.verified().last.unwrap();
        let hash = HEXLOWER.decode(hash.as_bytes()).unwrap().try_into().unwrap();
        [LogEnd { class: 1, sequence, hash, log: String::new() }]
    };
    let sealed = end(&files);
    let found = |files: &Files, sealed: &[LogEnd]| {
        let chain = verify(&files.path(), None, sealed).unwrap().swap_remove(0);
        (chain.vouched[0].state, chain.problems.len())
    };
    assert_eq!(found(&files, &sealed), (VouchedState::There, 0));
    (0..30).for_each(|_| files.append());
    assert_eq!(found(&files, &sealed), (VouchedState::RotatedAway, 0));
    let sealed = end(&files);
    files.append();
    files.append();
    assert_eq!(found(&files, &sealed), (VouchedState::There, 0));
    files.change(|lines| lines.clear());
    fs::remove_file(numbered(&files.path(), 1)).unwrap();
    assert_eq!(found(&files, &sealed), (VouchedState::Missing, 1));
    // Written again as a whole, a log is whole in itself.
    let other = Files::with(40, 1 << 20);
    assert_eq!(other.verified().problems, Vec::<String>::new());
    assert_eq!(found(&other, &sealed), (VouchedState::Missing, 1));
}

#[test]
fn events_of_earlier_versions_stay_readable_and_are_said_to_have_no_link() {
    let files = Files::with(0, 1 << 20);
    fs::write(files.path(), format!("{0}\n{0}\n", old_line())).unwrap();
    let chain = files.verified();
    assert_eq!((chain.linked, chain.unlinked, chain.problems.len()), (0, 2, 0));
    (0..3).for_each(|_| files.append());
    let chain = files.verified();
    assert_eq!((chain.linked, chain.unlinked, chain.problems.len()), (3, 2, 0));
    let mut reader = Reader::open(&files.path()).unwrap();
    assert_eq!(std::iter::from_fn(|| reader.next_line().unwrap()).count(), 5);
    files.change(|lines| drop(lines.remove(1)));
    files.change(|lines| lines.insert(0, "{}".into()));
    assert_eq!(
        files.verified().problems,
        Vec::<String>::new(),
        "of the lines without a link only the last one is covered"
    );
    files.change(|lines| lines[1] = lines[1].replace("ok", "failed"));
    assert_eq!(files.problem(), "event 1 was not written after the line before it");
}

#[test]
fn a_line_that_was_cut_off_by_a_power_cut_ends_nothing() {
    let files = Files::with(2, 1 << 20);
    fs::File::options().append(true).open(files.path()).unwrap().write_all(b"{\"time\":\"2026-").unwrap();
    assert_eq!(files.verified().linked, 2, "a line without its end may be one that is being written");
    files.append();
    let chain = files.verified();
    assert_eq!((chain.linked, chain.unlinked, chain.problems), (3, 1, Vec::new()));
    assert_eq!(chain.last.unwrap().sequence, 3);
}

#[test]
fn events_of_reads_never_push_out_those_of_verbs_and_are_shown_in_order_of_time() {
    let files = Files::with(0, 3);
    let at = |time: usize, operation: &str| Record {
        time: format!("2026-11-30T00:00:{time:02}.000Z"),
        ..record(operation, "ok")
    };
    files.log.append(at(1, "erase"), Class::Verbs).unwrap();
    for number in 0..200 {
        files.log.append(at(2 + number / 10, "integrity"), Class::Reads).unwrap();
    }
    files.log.append(at(21, "rekey-shallow"), Class::Verbs).unwrap();
    let mut reader = Reader::open(&files.path()).unwrap();
    let lines: Vec<_> = std::iter::from_fn(|| reader.next_line().unwrap()).map(|line| line.record).collect();
    assert_eq!(lines[0].operation, "erase");
    assert!(lines.is_sorted_by_key(|record| record.time.clone()) && lines.len() < 50, "{}", lines.len());
    assert!(lines.iter().any(|record| record.operation == "rekey-shallow"));
    let chains = verify(&files.path(), None, &[]).unwrap();
    assert!(chains.iter().all(|chain| chain.problems.is_empty()), "{chains:?}");
    assert_eq!((chains[0].linked, chains[1].last.as_ref().unwrap().sequence), (2, 200));
}
