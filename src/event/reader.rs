//! Reading the log: the oldest files first, then what is new.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::log::{KEPT, is_at, numbered};
use super::{Class, Record};
use crate::error::{Context, Error, Result};
use crate::text::Show;

/// How every line begins. It finds a whole line that an earlier version wrote after one that was cut off.
const BEGINNING: &str = "{\"time\":\"";
/// Longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;

/// A line, and what it says.
#[derive(Clone, Debug)]
pub struct Line {
    /// As it is in the log.
    pub text: String,
    /// Understood.
    pub record: Record,
}

/// Reads the log from its oldest event on, both classes in order of time. What is added later is read by asking again.
pub struct Reader {
    classes: [ClassReader; 2],
    /// The next event of each class, if it was read already.
    next: [Option<Line>; 2],
}

impl Reader {
    /// Begins with the oldest files. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// `Denied`, or `Io`.
    pub fn open(log: &Path) -> Result<Self> {
        let open = |class: Class| ClassReader::open(class.file(log));
        Ok(Self { classes: [open(Class::Verbs)?, open(Class::Reads)?], next: [None, None] })
    }

    /// Lines that were skipped, because they are not events.
    pub fn skipped(&self) -> usize {
        self.classes.iter().map(|class| class.skipped).sum()
    }

    /// The next event, or `None` when there is none yet.
    ///
    /// # Errors
    /// `Io`.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        for (next, class) in self.next.iter_mut().zip(&mut self.classes) {
            if next.is_none() {
                *next = class.next_line()?;
            }
        }
        let time = |next: &Option<Line>| next.as_ref().map(|line| line.record.time.clone());
        let [verb, read] = &self.next;
        // Times of one form: as texts they are in the order of the times.
        let is_read = verb.is_none() || (read.is_some() && time(read) < time(verb));
        Ok(self.next[usize::from(is_read)].take())
    }
}

/// Reads the files of one class.
struct ClassReader {
    path: PathBuf,
    /// The file that is read, and its inode; `None` when there is none yet.
    current: Option<(BufReader<File>, u64)>,
    /// Files that are to be read next.
    older: VecDeque<File>,
    /// The part of a line that has no end yet.
    partial: Vec<u8>,
    /// Lines that are not events.
    skipped: usize,
}

impl ClassReader {
    fn open(path: PathBuf) -> Result<Self> {
        let older = open_all(&path)?.into();
        Ok(Self { path, current: None, older, partial: Vec::new(), skipped: 0 })
    }

    fn next_line(&mut self) -> Result<Option<Line>> {
        loop {
            let Some(line) = self.read_line()? else {
                if self.advance()? {
                    continue;
                }
                return Ok(None);
            };
            match parse(&line) {
                Some(line) => return Ok(Some(line)),
                None => self.skipped += usize::from(!line.trim().is_empty()),
            }
        }
    }

    /// A line with its end, if one is there.
    fn read_line(&mut self) -> Result<Option<String>> {
        let Some((file, _)) = &mut self.current else { return Ok(None) };
        file.read_until(b'\n', &mut self.partial).context(|| format!("reading {}", self.path.shown()))?;
        if self.partial.last() == Some(&b'\n') || self.partial.len() > MAX_LINE {
            let line = std::mem::take(&mut self.partial);
            return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        Ok(None)
    }

    /// Continues with the next file, if there is one.
    fn advance(&mut self) -> Result<bool> {
        let next = match self.older.pop_front() {
            Some(file) => Some(file),
            None => self.replacement()?,
        };
        let Some(file) = next else { return Ok(false) };
        let inode = file.metadata().context(|| format!("looking at {}", self.path.shown()))?.ino();
        self.current = Some((BufReader::new(file), inode));
        self.partial.clear();
        Ok(true)
    }

    /// What came in the place of the file that was read to its end. One that was cut is read from its beginning.
    fn replacement(&mut self) -> Result<Option<File>> {
        let Some(file) = open(&self.path)? else { return Ok(None) };
        let Some((current, inode)) = &mut self.current else { return Ok(Some(file)) };
        let found = file.metadata().context(|| format!("looking at {}", self.path.shown()))?;
        let position = current.stream_position().context(|| format!("reading {}", self.path.shown()))?;
        if found.ino() == *inode && found.len() < position {
            current.seek(SeekFrom::Start(0)).context(|| format!("reading {}", self.path.shown()))?;
        }
        Ok((found.ino() != *inode).then_some(file))
    }
}

/// The files of a class, the oldest first, as they are between two rotations.
pub(super) fn open_all(path: &Path) -> Result<Vec<File>> {
    loop {
        let current = open(path)?;
        let mut files = Vec::new();
        for number in (1..=KEPT).rev() {
            files.extend(open(&numbered(path, number))?);
        }
        let is_unchanged = match &current {
            Some(file) => is_at(file, path)?,
            None => !path.exists(),
        };
        if is_unchanged {
            files.extend(current);
            return Ok(files);
        }
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening event log {}", path.shown()), error)),
    }
}

fn parse(text: &str) -> Option<Line> {
    let understood = |text: &str| {
        let record = serde_json::from_str(text).ok()?;
        Some(Line { text: text.to_owned(), record })
    };
    understood(text).or_else(|| understood(&text[text.rfind(BEGINNING)?..]))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::super::log::Log;
    use super::super::tests::record;
    use super::*;

    fn reasons(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_line().unwrap()).map(|line| line.record.reason.unwrap()).collect()
    }

    fn append(log: &Log, reason: &str) {
        log.append(Record { reason: Some(reason.into()), ..record("lock", "ok") }, Class::Verbs).unwrap();
    }

    #[test]
    fn lines_are_read_in_order_across_rotations_also_while_following() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut reader = Reader::open(&path).unwrap();
        assert!(reader.next_line().unwrap().is_none(), "no log yet");
        let log = Log::at(path.clone(), 1); // a file for each line
        for reason in ["1", "2", "3"] {
            append(&log, reason);
            assert_eq!(reasons(&mut reader), [reason]);
        }
        assert_eq!(reasons(&mut Reader::open(&path).unwrap()), ["1", "2", "3"]);
    }

    /// Earlier versions wrote a line after whatever was there.
    #[test]
    fn a_line_that_was_cut_off_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let event = |reason: &str| Record { reason: Some(reason.into()), ..record("lock", "ok") };
        let line = |reason| serde_json::to_string(&event(reason)).unwrap();
        let mut file = fs::File::create(&path).unwrap();
        write!(file, "{}\n{{\"time\":\"2026-{}\nnoise\n", line("1"), line("2")).unwrap();
        file.write_all(b"\xff\n").unwrap();
        writeln!(file, "{}", line("3")).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reasons(&mut reader), ["1", "2", "3"]);
        assert_eq!(reader.skipped(), 2);
    }

    #[test]
    fn a_line_is_shown_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let line = serde_json::to_string(&Record { reason: Some("1".into()), ..record("lock", "ok") }).unwrap();
        let (first, second) = line.split_at(20);
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(first.as_bytes()).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert!(reader.next_line().unwrap().is_none());
        writeln!(file, "{second}").unwrap();
        assert_eq!(reasons(&mut reader), ["1"]);
    }
}
