//! Tokens by which hosts enrol: made by an administrator, good once, for a while, and for the authority whose key they pin.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::crypto::derive::{hmac, hmac_verifies, sha256};
use vmcryptfs::crypto::random;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;
use zeroize::Zeroizing;

use super::clock::Clock;
use super::own::Pin;
use crate::trust_wire::Blob;

const PREFIX: &str = "vmcryptfs-trust1-";
const CHECKSUM_LEN: usize = 4;
const MAX_TEXT: usize = 4096;
const MAX_RECORD: u64 = 64 << 10;
/// Ends the name of a token that is being used.
const TAKEN: &str = "used";
/// What digests of secrets are made with: they are no passwords, so one round is enough.
const PURPOSE: &[u8] = b"vmcryptfs enrolment token 1";

/// A token, as its maker hands it to a host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// UUID of the authority.
    pub authority: Uuid,
    /// Where it is.
    pub urls: Vec<String>,
    /// SHA-256 of its public key.
    pub pin: Blob,
    /// The token's name.
    pub id: Uuid,
    /// Proves that the host has the token.
    pub secret: Blob,
}

impl Token {
    /// As one line of text, which holds the secret.
    ///
    /// # Errors
    /// `Invalid` when it has no text form.
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::with_source(Kind::Invalid, "a token that has no JSON form", error))?;
        let mut bytes = Zeroizing::new(json);
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum[..CHECKSUM_LEN]);
        Ok(Zeroizing::new(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))))
    }

    /// Reads such a line.
    ///
    /// # Errors
    /// `Invalid` for a text that is not a whole token. The text is not repeated: it is a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(Kind::Invalid, format!("the token {what}: copy the whole line again"));
        let text = text.trim().strip_prefix(PREFIX).ok_or_else(|| wrong(&format!("does not begin with {PREFIX}")))?;
        let bytes = Some(text).filter(|text| text.len() <= MAX_TEXT);
        let bytes = bytes.and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
        let bytes = Zeroizing::new(bytes.ok_or_else(|| wrong("has letters that no token has, or too many"))?);
        let (json, checksum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(|| wrong("is too short"))?;
        if !sha256(json).starts_with(checksum) {
            return Err(wrong("was mistyped or cut off"));
        }
        serde_json::from_slice(json)
            .map_err(|error| Error::with_source(Kind::Invalid, "a token of another version", error))
    }
}

/// What a host with a token gets.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Whether it needs no approval by a person.
    pub approves: bool,
    /// The name that the host must have: its policies go by it.
    pub host: String,
    /// The host that goes on with another TPM, or other keys of its TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Uuid>,
}

/// What the authority keeps of a token: not the secret, but what recognises it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: Uuid,
    digest: String,
    /// Seconds since 1970, by the authority's clock.
    expires: u64,
    admission: Admission,
}

/// The tokens that were not used yet: a file each. The lock of the authority's folder is held as long as this is there.
pub struct EnrolmentTokens {
    folder: PathBuf,
    clock: Clock,
    /// Held while one is used: it is good once.
    using: Mutex<()>,
}

impl EnrolmentTokens {
    /// Those in this folder. What has ended is removed, and what a crash has found in use.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(folder: &Path, clock: Clock) -> Result<Self> {
        private_file::create_folder(folder)?;
        let tokens = Self { folder: folder.to_path_buf(), clock, using: Mutex::default() };
        let reading = || format!("reading {}", folder.shown());
        for entry in fs::read_dir(folder).context(reading)? {
            let path = entry.context(reading)?.path();
            let is = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
            let has_ended = || read(&path).is_ok_and(|record| record.expires <= clock.seconds());
            if is(TAKEN) || is("json") && has_ended() {
                fs::remove_file(&path).context(|| format!("removing {}", path.shown()))?;
            }
        }
        Ok(tokens)
    }

    /// Makes a token, once `before` has succeeded.
    ///
    /// # Errors
    /// Those of `before`; `Io`.
    pub fn make(
        &self,
        (authority, urls, pin): (Uuid, Vec<String>, &Pin),
        admission: Admission,
        life: Duration,
        before: impl FnOnce(Uuid) -> Result<()>,
    ) -> Result<Token> {
        let mut secret = Zeroizing::new([0; 32]);
        random::fill(secret.as_mut_slice())?;
        let id = random::uuid()?;
        let digest = HEXLOWER.encode(&hmac(PURPOSE, secret.as_slice()));
        let record = Record { id, digest, expires: self.clock.seconds().saturating_add(life.as_secs()), admission };
        let json = serde_json::to_vec(&record)
            .map_err(|error| Error::with_source(Kind::Invalid, "a token that has no JSON form", error))?;
        before(id)?;
        private_file::replace(&self.path(id), &[&json])?;
        Ok(Token { authority, urls, pin: Blob(pin.to_vec()), id, secret: Blob(secret.to_vec()) })
    }

    /// What a host with this token and secret gets, if the token is good now.
    ///
    /// # Errors
    /// `Denied`.
    pub fn look(&self, id: Uuid, secret: &[u8], host: &str) -> Result<Admission> {
        // The same words for all of it: a guess reveals nothing.
        let refused = || {
            let found = "this enrolment token is not good: it was used, has ended, or is not of this authority";
            Error::new(Kind::Denied, found)
        };
        let record = read(&self.path(id)).map_err(|_| refused())?;
        let digest = HEXLOWER.decode(record.digest.as_bytes()).unwrap_or_default();
        if !hmac_verifies(PURPOSE, secret, &digest) || record.id != id || record.expires <= self.clock.seconds() {
            return Err(refused());
        }
        match record.admission.host == host {
            true => Ok(record.admission),
            false => {
                let name = &record.admission.host;
                Err(Error::new(Kind::Denied, format!("this enrolment token is for host {name}, not for {host}")))
            }
        }
    }

    /// Uses a token up, unless `work` fails: of two that come at once, one finds it gone.
    ///
    /// # Errors
    /// Those of [`look`](Self::look) and of `work`; `Io`.
    pub fn spend<T>(
        &self,
        (id, secret, host): (Uuid, &[u8], &str),
        work: impl FnOnce(Admission) -> Result<T>,
    ) -> Result<T> {
        let _using = self.using.lock();
        let admission = self.look(id, secret, host)?;
        let path = self.path(id);
        let taken = path.with_extension(TAKEN);
        // Before the work: what a crash leaves is a token that is gone, not one that lets in a second host.
        let done = fs::rename(&path, &taken)
            .and_then(|()| private_file::sync_folder(&self.folder))
            .context(|| format!("taking {}", path.shown()))
            .and_then(|()| work(admission));
        let after = if done.is_ok() { fs::remove_file(&taken) } else { fs::rename(&taken, &path) };
        after.ok(); // the next start removes what is left, and the error that matters is the first one
        done
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Result<Record> {
    let bytes = private_file::read_at_most(MAX_RECORD, path, private_file::open(path)?)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60 * 60);

    fn admission(host: &str) -> Admission {
        Admission { approves: true, host: host.to_owned(), replaces: None }
    }

    fn make(tokens: &EnrolmentTokens, host: &str) -> Token {
        let urls = vec!["https://a:6843".to_owned()];
        tokens.make((Uuid::nil(), urls, &[3; 32]), admission(host), LIFE, |_| Ok(())).unwrap()
    }

    #[test]
    fn a_token_is_good_once_and_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::begin();
        let tokens = EnrolmentTokens::open(dir.path(), clock).unwrap();
        let token = Token::parse(&make(&tokens, "kvm1").to_text().unwrap()).unwrap();
        let with = |secret: &[u8]| tokens.spend((token.id, secret, "kvm1"), Ok).map_err(|error| error.kind());
        assert_eq!(with(&[0; 32]), Err(Kind::Denied));
        let failed = tokens.spend((token.id, &token.secret.0, "kvm1"), |_| Err::<(), _>(Error::new(Kind::Io, "no")));
        assert_eq!(failed.unwrap_err().kind(), Kind::Io);
        let crashed = tokens.spend((token.id, &token.secret.0, "kvm1"), |_| {
            let other = EnrolmentTokens::open(&dir.path().join("copy"), clock).unwrap();
            for file in
                fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
            {
                fs::copy(&file, other.folder.join(file.file_name().unwrap())).unwrap();
            }
            let other = EnrolmentTokens::open(&other.folder, clock).unwrap();
            assert!(
                other.look(token.id, &token.secret.0, "kvm1").is_err(),
                "a crash now leaves no token for another host"
            );
            assert_eq!(fs::read_dir(&other.folder).unwrap().count(), 0);
            Err::<(), _>(Error::new(Kind::Io, "no"))
        });
        assert_eq!(crashed.unwrap_err().kind(), Kind::Io);
        assert_eq!(with(&token.secret.0), Ok(admission("kvm1")), "what failed did not use it up");
        assert_eq!(with(&token.secret.0), Err(Kind::Denied));

        let token = make(&tokens, "kvm2");
        let look = |tokens: &EnrolmentTokens, host| tokens.look(token.id, &token.secret.0, host).is_ok();
        assert!(look(&tokens, "kvm2") && !look(&tokens, "kvm1"));
        let later = clock.ahead(LIFE);
        assert!(!look(&EnrolmentTokens { clock: later, ..EnrolmentTokens::open(dir.path(), clock).unwrap() }, "kvm2"));
        let path = tokens.path(token.id);
        let kept = fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(&BASE64URL_NOPAD.encode(&token.secret.0)), "the secret is not kept");
        EnrolmentTokens::open(dir.path(), later).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_text_of_a_token_is_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let token = make(&EnrolmentTokens::open(dir.path(), Clock::begin()).unwrap(), "kvm1");
        let text = token.to_text().unwrap();
        assert_eq!(Token::parse(&format!(" {}\n", *text)).unwrap(), token);
        for at in 0..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            assert!(Token::parse(std::str::from_utf8(&wrong).unwrap()).is_err(), "byte {at}");
            assert!(Token::parse(&text[..at]).is_err(), "{at} bytes");
        }
        assert!(!format!("{token:?}").contains(&BASE64URL_NOPAD.encode(&token.secret.0)));
    }
}
