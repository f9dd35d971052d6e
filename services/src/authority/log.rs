//! The log of an authority: what it let in, refused and released, to which nothing but new entries can be done.
//!
//! Entries are lines of JSON in one file, in batches: a batch is one line, which begins with a part of its SHA-256, and is durable before
//! [`Log::append`] returns. So what a crash may have torn is the last line only, and nobody has had an answer that depends on it. A
//! checkpoint is stored before it is given out: a log that no longer has what was signed does not open.

pub mod checkpoint;
pub mod tree;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;

use checkpoint::Checkpoint;
use tree::{Hash, Tree, leaf_hash};

/// Longest entry, in bytes.
pub const MAX_ENTRY: usize = 16 << 10;
/// Hexadecimal digits of the sum that a line begins with.
const SUM_LEN: usize = 16;
const MAX_CHECKPOINT: u64 = 4096;

/// The log.
pub struct Log {
    folder: PathBuf,
    origin: String,
    state: Mutex<State>,
}

struct State {
    file: Arc<File>,
    /// Where the next line goes.
    end: u64,
    /// Offset and length of each entry.
    places: Vec<(u64, u32)>,
    tree: Tree,
    /// The newest checkpoint that was stored, with its size.
    signed: Option<(usize, String)>,
    /// Why nothing more is written: what the file holds is not known.
    broken: Option<String>,
}

impl Log {
    /// Opens the log of an authority, or begins one. What a crash has torn at its end is cut off.
    ///
    /// # Errors
    /// `Corrupt` when entries are damaged or those of a checkpoint are gone, `Denied` when others can change it, `Io`.
    pub fn open(folder: &Path, authority: Uuid, key: &SigningKey) -> Result<Self> {
        private_file::create_folder(folder)?;
        let (path, origin) = (folder.join("entries"), Checkpoint::origin_of(authority));
        let file = match private_file::open(&path) {
            Err(error) if error.kind() == Kind::NotFound => private_file::create(&path, &[]),
            found => found.map(drop),
        };
        let opened = file.and_then(|()| {
            let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let file = File::options().read(true).write(true).custom_flags(flags).open(&path);
            file.context(|| format!("opening {}", path.shown()))
        });
        let mut state = State::read(opened?, folder).context(|| format!("reading {}", path.shown()))?;
        state.signed = stored_checkpoint(folder, &origin, key)?
            .map(|(checkpoint, text)| state.has(&checkpoint).map(|()| (checkpoint.size, text)))
            .transpose()?;
        Ok(Self { folder: folder.to_path_buf(), origin, state: Mutex::new(state) })
    }

    /// Adds entries, and returns the number of the first once they are durable: all of them, or none.
    ///
    /// # Errors
    /// `Invalid` for an entry that is empty, longer than [`MAX_ENTRY`] or holds control characters; `Io`, and from then on for each
    /// call where it is not known what the file holds.
    pub fn append(&self, entries: &[Vec<u8>]) -> Result<usize> {
        if let Some(wrong) = entries.iter().find(|entry| !is_entry(entry)) {
            return Err(Error::new(
                Kind::Invalid,
                format!("a log entry of {} bytes, expected 1 to {MAX_ENTRY} without control characters", wrong.len()),
            ));
        }
        let mut state = self.state.lock();
        let first = state.places.len();
        if entries.is_empty() {
            return Ok(first);
        }
        if let Some(trouble) = state.trouble() {
            return Err(Error::new(Kind::Io, trouble));
        }
        state.write(entries).context(|| format!("writing to the log in {}", self.folder.shown()))?;
        Ok(first)
    }

    /// Why nothing more is written, if that is so.
    pub fn trouble(&self) -> Option<String> {
        self.state.lock().trouble()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.state.lock().places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `count` entries from number `first` on, and no more than fit `max` bytes, but one if there is one.
    ///
    /// # Errors
    /// `Io`.
    pub fn entries(&self, first: usize, count: usize, max: usize) -> Result<Vec<Vec<u8>>> {
        let (file, places) = self.state.lock().places_of(first, count, max);
        // What is there never changes, so those who want to add an entry need not wait for this.
        let read = |(offset, len): (u64, usize)| {
            let mut entry = vec![0; len];
            file.read_exact_at(&mut entry, offset).context(|| "reading the log".into())?;
            Ok(entry)
        };
        places.into_iter().map(read).collect()
    }

    /// The signed checkpoint of all entries, which is stored first.
    ///
    /// # Errors
    /// `Io`.
    pub fn checkpoint(&self, key: &SigningKey) -> Result<String> {
        let mut state = self.state.lock();
        let size = state.places.len();
        if let Some((signed, text)) = &state.signed
            && *signed == size
        {
            return Ok(text.clone());
        }
        let root = state.tree.hash_of_all();
        let text = Checkpoint { origin: self.origin.clone(), size, root }.sign(key);
        private_file::replace(&checkpoint_path(&self.folder), &[text.as_bytes()])?;
        state.signed = Some((size, text.clone()));
        Ok(text)
    }

    /// The proof that entry `index` is in the log of `size` entries; `None` where there is none.
    pub fn inclusion(&self, index: usize, size: usize) -> Option<Vec<Hash>> {
        self.state.lock().tree.inclusion(index, size)
    }

    /// The proof that the log of `size` entries begins with the one of `old`; `None` where there is none.
    pub fn consistency(&self, old: usize, size: usize) -> Option<Vec<Hash>> {
        self.state.lock().tree.consistency(old, size)
    }
}

/// Lines and batches are told apart by control characters, which JSON has none of.
fn is_entry(entry: &[u8]) -> bool {
    (1..=MAX_ENTRY).contains(&entry.len()) && !entry.iter().any(u8::is_ascii_control)
}

fn checkpoint_path(folder: &Path) -> PathBuf {
    folder.join("checkpoint")
}

fn stored_checkpoint(folder: &Path, origin: &str, key: &SigningKey) -> Result<Option<(Checkpoint, String)>> {
    let path = checkpoint_path(folder);
    let Some(bytes) = private_file::read_if_there(MAX_CHECKPOINT, &path)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))?;
    let checkpoint = Checkpoint::verify(text, origin, &key.public()).context(|| format!("reading {}", path.shown()))?;
    Ok(Some((checkpoint, text.to_owned())))
}

impl State {
    /// The file, and the places of at most `count` entries from number `first` on that fit `max` bytes, but of one if there is one.
    fn places_of(&self, first: usize, count: usize, max: usize) -> (Arc<File>, Vec<(u64, usize)>) {
        let (mut found, mut sum) = (Vec::new(), 0);
        for (offset, len) in self.places.iter().skip(first).take(count) {
            let len = usize::try_from(*len).unwrap_or(usize::MAX);
            sum += len;
            if sum > max && !found.is_empty() {
                break;
            }
            found.push((*offset, len));
        }
        (Arc::clone(&self.file), found)
    }

    /// Reads all lines. The last one may be torn, and is cut off then; another one that is wrong was damaged. What is cut off is kept: it
    /// may be a line that was whole once, and damaged later.
    fn read(mut file: File, folder: &Path) -> Result<Self> {
        let len = file.metadata().context(|| "asking for its length".into())?.len();
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut content)).context(|| "its content".into())?;
        let file = Arc::new(file);
        let mut state = Self { file, end: 0, places: Vec::new(), tree: Tree::default(), signed: None, broken: None };
        let mut rest = content.as_slice();
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..at], &rest[at + 1..]);
            match entries_of(line) {
                Some(entries) => state.take(line, &entries),
                None if after.is_empty() => break,
                None => {
                    let found = format!("a damaged line at byte {}, entry {} or later", state.end, state.places.len());
                    return Err(Error::new(Kind::Corrupt, found));
                }
            }
            rest = after;
        }
        if state.end < len {
            let kept = folder.join(format!("cut-off-at-{}", state.end));
            private_file::replace(&kept, &[rest])?;
            let cut = state.file.set_len(state.end).and_then(|()| state.file.sync_all());
            cut.context(|| "cutting off a batch that a crash has torn".into())?;
            tracing::warn!(
                "the log's last {} bytes are not a whole batch and were moved to {}: a crash has torn it",
                len - state.end,
                kept.shown()
            );
        }
        Ok(state)
    }

    fn trouble(&self) -> Option<String> {
        self.broken.as_ref().map(|why| format!("the log takes no more entries until a restart: {why}"))
    }

    fn take(&mut self, line: &[u8], entries: &[&[u8]]) {
        let mut offset = self.end + SUM_LEN as u64;
        for entry in entries {
            offset += 1;
            self.places.push((offset, u32::try_from(entry.len()).unwrap_or(u32::MAX)));
            self.tree.push(leaf_hash(entry));
            offset += entry.len() as u64;
        }
        self.end += line.len() as u64 + 1;
    }

    fn write(&mut self, entries: &[Vec<u8>]) -> io::Result<()> {
        let mut line = vec![0; SUM_LEN];
        for entry in entries {
            line.push(b'\t');
            line.extend_from_slice(entry);
        }
        let sum = sum_of(&line[SUM_LEN..]);
        line[..SUM_LEN].copy_from_slice(sum.as_bytes());
        line.push(b'\n');
        if let Err(error) = self.file.write_all_at(&line, self.end) {
            if let Err(of_cutting) = self.file.set_len(self.end) {
                self.broken = Some(of_cutting.to_string());
            }
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.broken = Some(error.to_string()); // whether it is durable is not known, nor whether another attempt would say so
            return Err(error);
        }
        line.pop();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        self.take(&line, &entries);
        Ok(())
    }

    /// Refuses a log that is not one which this checkpoint was made of.
    fn has(&self, checkpoint: &Checkpoint) -> Result<()> {
        match self.tree.root(checkpoint.size) {
            Some(root) if root == checkpoint.root => Ok(()),
            Some(_) => Err(Error::new(
                Kind::Corrupt,
                format!("the first {} entries of the log are not those that were signed", checkpoint.size),
            )),
            None => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the log has {} entries, expected the {} that were signed: was it restored from a backup?",
                    self.places.len(),
                    checkpoint.size
                ),
            )),
        }
    }
}

fn sum_of(entries: &[u8]) -> String {
    let mut sum = HEXLOWER.encode(&sha256(entries));
    sum.truncate(SUM_LEN);
    sum
}

/// The entries of a whole line.
fn entries_of(line: &[u8]) -> Option<Vec<&[u8]>> {
    let (sum, entries) = line.split_at_checked(SUM_LEN)?;
    let entries = (sum == sum_of(entries).as_bytes()).then_some(entries)?.strip_prefix(b"\t")?;
    let entries: Vec<&[u8]> = entries.split(|byte| *byte == b'\t').collect();
    entries.iter().all(|entry| is_entry(entry)).then_some(entries)
}

#[cfg(test)]
mod tests;
