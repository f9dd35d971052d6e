//! Opening dumps: in the clear into a new file, or encrypted again under a passphrase.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::folder::read_header;
use super::stream::{DumpReader, Part, Plaintext, seal};
use crate::crypto::passphrase::Cost;
use crate::crypto::random;
use crate::error::{Context, Error, Result};
use crate::format::dump::{DumpHeader, Lock, PIECE_LEN};
use crate::key::KeyId;
use crate::provider::private_file;
use crate::sys::SecretBytes;
use crate::text::Show;

/// A dump whose header was read. Nothing proves that yet.
pub struct LockedDump {
    path: PathBuf,
    header: DumpHeader,
    header_len: u64,
    file: File,
}

/// What was opened of a dump.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes.
    pub len: u64,
    /// Whether it is not all of the dump: its writer had to stop.
    pub is_cut: bool,
    /// Why it is only the beginning of what was written, if so.
    pub damaged: Option<Error>,
}

/// What opens a dump: the host key of this name, or a passphrase.
pub fn opened_by(header: &DumpHeader) -> Option<&KeyId> {
    match &header.lock {
        Lock::HostKey { key, .. } => Some(&key.host_key),
        Lock::Passphrase { .. } => None,
    }
}

impl LockedDump {
    /// Reads the header of a dump.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Unsupported` for a later version, `Io`.
    pub fn read(path: &Path) -> Result<Self> {
        let (header, header_len, file) = read_header(path)?;
        Ok(Self { path: path.to_path_buf(), header, header_len, file })
    }

    /// What it says of itself.
    pub fn header(&self) -> &DumpHeader {
        &self.header
    }

    fn pieces(&self) -> Result<BufReader<&File>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.header_len)).context(|| format!("reading {}", self.path.shown()))?;
        Ok(BufReader::with_capacity(2 * PIECE_LEN, file))
    }

    /// Writes it in the clear to a new file, readable only by this user, given its DEK. An error leaves no file, unless `partial` asks for
    /// what is authentic of a damaged dump.
    ///
    /// # Errors
    /// `Exists`, `Corrupt`, `Io`.
    pub fn decrypt(&self, dek: &[u8], output: &Path, partial: bool) -> Result<Opened> {
        let mut pieces = self.pieces()?;
        let mut reader = DumpReader::new(&mut pieces, dek)?;
        write_new(output, |file| {
            let mut len = 0;
            let damaged = loop {
                match reader.next_part() {
                    Ok(None) => break None,
                    Ok(Some(Part::Bytes(bytes))) => {
                        file.write_all(bytes).context(|| "writing the dump".into())?;
                        len += bytes.len() as u64;
                    }
                    Ok(Some(Part::Zeros(zeros))) => {
                        len += zeros;
                        file.seek(SeekFrom::Start(len)).context(|| "writing the dump".into())?;
                    }
                    Err(error) if partial => break Some(error),
                    Err(error) => return Err(error),
                }
            };
            file.set_len(len).context(|| "writing the dump".into())?;
            Ok(Opened { len, is_cut: reader.is_cut(), damaged })
        })
    }

    /// Encrypts it again into a new file, under a passphrase and a DEK of its own.
    ///
    /// # Errors
    /// `Exists`, `Corrupt`, `Io`. An error leaves no file.
    pub fn encrypt_again(&self, dek: &[u8], output: &Path, passphrase: &[u8], cost: Cost) -> Result<Opened> {
        let mut new_dek = SecretBytes::zeroed(32);
        random::fill(&mut new_dek)?;
        let header = DumpHeader::for_passphrase(self.header.about.clone(), passphrase, cost, &new_dek)?.encode()?;
        let mut pieces = self.pieces()?;
        let mut plaintext = Plaintext::new(DumpReader::new(&mut pieces, dek)?);
        write_new(output, |file| {
            file.write_all(&header).context(|| "writing the header of a dump".into())?;
            let source: &mut dyn Read = &mut plaintext;
            let ended = seal(source, file, header.len() as u64, &new_dek, &mut |_| Ok(()))?;
            let is_cut = plaintext.reader.is_cut();
            match (plaintext.failure.take(), ended.cut) {
                (Some(damage), _) => Err(damage),
                (None, Some(error)) if !is_cut => Err(error),
                (None, _) => Ok(Opened { len: ended.plain_len, is_cut, damaged: None }),
            }
        })
    }
}

/// Makes a new file, which is durable, or not there.
fn write_new<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let creating = || format!("creating {}", path.shown());
    let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path).context(creating)?;
    let synced = |file: &File| file.sync_all().and_then(|()| private_file::sync_folder(private_file::folder_of(path)));
    let written = write(&mut file).and_then(|written| synced(&file).context(creating).map(|()| written));
    if written.is_err() {
        fs::remove_file(path).ok(); // the error that matters is the one of writing
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hpke::SealKey;
    use crate::crypto::wrap::LocalKek;
    use crate::error::Kind;
    use crate::format::dump::{About, DumpKey};
    use crate::key::ProviderName;
    use crate::timestamp::Timestamp;

    const CHEAP: Cost = Cost { memory_kib: 32, passes: 1, lanes: 4 };

    fn about() -> About {
        let (program, host) = ("/usr/bin/swtpm".into(), "kvm1".into());
        About {
            uuid: random::uuid().unwrap(),
            time: Timestamp::from_secs(7),
            pid: 1,
            uid: 2,
            gid: 3,
            signal: 6,
            program,
            host,
        }
    }

    #[test]
    fn a_dump_is_encrypted_again_under_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let kek = LocalKek::random().unwrap();
        let host_key = KeyId::new(ProviderName::new("corp").unwrap(), "1").unwrap();
        let pair = SealKey::generate().unwrap();
        let key = DumpKey::wrap(random::uuid().unwrap(), &pair, host_key.clone(), &kek).unwrap();
        let header = DumpHeader::for_host(about(), key, &[5; 32]).unwrap();
        let plain = [vec![0; 200_000], b"core".to_vec()].concat();
        let mut file = File::create_new(path("a.dump")).unwrap();
        let head = header.encode().unwrap();
        file.write_all(&head).unwrap();
        seal(&mut plain.as_slice(), &mut file, head.len() as u64, &[5; 32], &mut |_| Ok(())).unwrap();

        let dump = LockedDump::read(&path("a.dump")).unwrap();
        assert_eq!(opened_by(dump.header()), Some(&host_key));
        assert_eq!(dump.header().open_by_passphrase(b"x").err().unwrap().kind(), Kind::Invalid);
        assert_eq!(
            dump.header().open_by_host_key(&LocalKek::random().unwrap()).err().unwrap().kind(),
            Kind::KeyRejected
        );
        let dek = dump.header().open_by_host_key(&kek).unwrap();
        dump.encrypt_again(&dek, &path("b.dump"), b"correct horse", CHEAP).unwrap();
        let again = LockedDump::read(&path("b.dump")).unwrap();
        assert_eq!((opened_by(again.header()), &again.header().about), (None, &dump.header().about));
        assert_eq!(again.header().open_by_passphrase(b"correct house").err().unwrap().kind(), Kind::KeyRejected);
        let dek = again.header().open_by_passphrase(b"correct horse").unwrap();
        assert_ne!(*dek, [5; 32]);
        let opened = again.decrypt(&dek, &path("core"), false).unwrap();
        assert_eq!((opened.len, opened.is_cut), (plain.len() as u64, false));
        assert!(fs::read(path("core")).unwrap() == plain);

        // What fails leaves no plaintext.
        assert!(again.decrypt(&[5; 32], &path("other"), false).is_err() && !path("other").exists());
        assert!(
            dump.encrypt_again(&[6; 32], &path("other"), b"correct horse", CHEAP).is_err() && !path("other").exists()
        );
    }
}
