//! Taking a dump, as the kernel gives it: from standard input of a process that it has started.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::folder::{Draft, DumpFolder};
use super::key_file::KeyFile;
use super::stream::{Ended, Growth, seal};
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::dump::{About, DumpHeader, PIECE_LEN};
use crate::provider::config::Config;
use crate::sys::SecretBytes;
use crate::text::Show;
use crate::timestamp::Timestamp;

/// After this many bytes it is looked again how much room there is.
const LOOK_AGAIN: u64 = 16 << 20;

/// What the kernel says of a process that has ended.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The signal that ended it.
    pub signal: u32,
    /// When that was.
    pub time: Timestamp,
    /// The longest dump that it may leave, in bytes; 0 if it leaves none.
    pub limit: u64,
    /// The host's name.
    pub host: String,
    /// The path of its program.
    pub program: String,
}

impl Process {
    /// Refuses a process that leaves no dump.
    ///
    /// # Errors
    /// `Denied`.
    pub fn refuse_unwanted(&self) -> Result<()> {
        match self.limit {
            0 => Err(Error::new(Kind::Denied, format!("{} wants no dump: its limit on dumps is 0", self.program))),
            _ => Ok(()),
        }
    }
}

/// A dump that was taken.
#[derive(Debug)]
pub struct Taken {
    /// Its file.
    pub path: PathBuf,
    /// How it ended.
    pub ended: Ended,
}

/// Whether a program has data of guests in memory: QEMU and what belongs to it, virtual TPMs, and vmcryptfs.
pub fn has_guest_data(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    name == "kvm" || ["qemu", "swtpm", "vmcryptfs"].iter().any(|beginning| name.starts_with(beginning))
}

/// Encrypts what comes from `source` into a new file of this host's folder of dumps.
///
/// # Errors
/// `KeyUnavailable` when this host has no dump key, `Denied` when the process wanted no dump, `Invalid` when nothing came, `Io` when there
/// are too many dumps, or no room.
pub fn take(config: &Path, process: &Process, source: &mut dyn Read) -> Result<Taken> {
    process.refuse_unwanted()?;
    let key_file = KeyFile::of(config);
    let key = key_file.load()?.ok_or_else(|| {
        let message = format!("no dump key {}: `vmcryptfs dump setup` makes one", key_file.path().shown());
        Error::new(Kind::KeyUnavailable, message)
    })?;
    // A configuration that cannot be read loses no dump.
    let settings = Config::load(config).map(|config| config.dumps().clone()).unwrap_or_default();
    let folder = DumpFolder::of(config, &settings);
    let mut dek = SecretBytes::zeroed(32);
    random::fill(&mut dek)?;
    let about = about(process)?;
    let header = DumpHeader::for_host(about, key.key, &dek)?;
    let draft = folder.begin(&header.about)?;
    match write(&folder, &draft, &header.encode()?, &dek, process.limit, source) {
        Ok(ended) if ended.plain_len > 0 => Ok(Taken { path: draft.finish()?, ended }),
        Ok(ended) => {
            draft.discard();
            Err(ended.cut.unwrap_or_else(|| Error::new(Kind::Invalid, "an empty dump: the kernel gave no byte of it")))
        }
        Err(error) => {
            draft.discard();
            Err(error)
        }
    }
}

fn about(process: &Process) -> Result<About> {
    let Process { pid, uid, gid, signal, time, .. } = *process;
    let (program, host) = (process.program.clone(), process.host.clone());
    Ok(About { uuid: random::uuid()?, time, pid, uid, gid, signal, program, host })
}

fn write(
    folder: &DumpFolder,
    draft: &Draft,
    header: &[u8],
    dek: &[u8],
    limit: u64,
    source: &mut dyn Read,
) -> Result<Ended> {
    let (max, mut room_until) = (folder.max_len().min(limit), 0);
    let mut room = |growth: Growth| {
        let Growth { plain_len, file_len } = growth;
        if plain_len.max(file_len) > max {
            return Err(Error::new(Kind::Io, format!("it is longer than {max} bytes, which is its limit")));
        }
        if file_len > room_until {
            folder.check_space(draft, PIECE_LEN as u64)?;
            room_until = file_len + LOOK_AGAIN;
        }
        Ok(())
    };
    let mut file: &File = &draft.file;
    file.write_all(header).context(|| "writing the header of a dump".into())?;
    let mut sink = draft.file.try_clone().context(|| "writing a dump".into())?;
    seal(source, &mut sink, header.len() as u64, dek, &mut room)
}
