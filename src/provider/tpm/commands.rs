//! The commands that are spoken (TCG, TPM 2.0 Library, part 3), and the storage root key (TCG, TPM v2.0 Provisioning Guidance).

use super::response_code::ResponseCode;
use super::session::{Salted, Session, SessionType, start_parameters};
use super::wire::{Reader, Writer};
use super::{
    ALG_AES, ALG_CFB, ALG_ECC, ALG_NULL, ALG_SHA256, ECC_NIST_P256, PERSISTENT_ROOT, Pcrs, RH_NULL, RH_OWNER,
    ROOT_ATTRIBUTES, Root, Tpm, name_of,
};
use crate::crypto::ecdh::{COORDINATE_LEN, Point};
use crate::error::{Error, Kind, Result};

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// The handle of an authorization by a password, which is empty here.
const PASSWORD: u32 = 0x4000_0009;

pub(super) const CREATE: Command = Command { code: 0x153, called: "Create" };
pub(super) const UNSEAL: Command = Command { code: 0x15e, called: "Unseal" };
const CREATE_PRIMARY: Command = Command { code: 0x131, called: "CreatePrimary" };
const LOAD: Command = Command { code: 0x157, called: "Load" };
const FLUSH_CONTEXT: Command = Command { code: 0x165, called: "FlushContext" };
const READ_PUBLIC: Command = Command { code: 0x173, called: "ReadPublic" };
const START_AUTH_SESSION: Command = Command { code: 0x176, called: "StartAuthSession" };
const POLICY_PCR: Command = Command { code: 0x17f, called: "PolicyPCR" };
const POLICY_GET_DIGEST: Command = Command { code: 0x189, called: "PolicyGetDigest" };

/// The nonce of a session that has no key.
const NO_NONCE: [u8; 32] = [0; 32];
/// Tag, size and command code.
const HEADER_LEN: usize = 10;
const SUCCESS: ResponseCode = ResponseCode(0);
/// What a key must be to have children: restricted, decrypt.
const STORAGE: u32 = 0x0003_0000;

/// A command's code, and its name for people.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its code.
    pub code: u32,
    /// Its name.
    pub called: &'static str,
}

/// What authorizes a command about one handle.
#[derive(Clone, Copy, Debug)]
pub enum Authorization {
    /// Its password, which is empty.
    Password,
    /// What has happened in the policy session with this handle, which has no key. It ends with a command that succeeded.
    Policy(u32),
}

/// What a command was answered with, past the response code.
pub type Answer = std::result::Result<Vec<u8>, ResponseCode>;

impl Tpm {
    /// The persistent storage root key, if there is one of the kind that is used here.
    pub(super) fn persistent_root(&mut self) -> Result<Option<Root>> {
        let Ok(answer) = self.try_plain(READ_PUBLIC, &PERSISTENT_ROOT.to_be_bytes())? else { return Ok(None) };
        let public = Reader::new(&answer).sized()?;
        let root = |point| Root { handle: PERSISTENT_ROOT, point, name: name_of(public), transient: false };
        Ok(point_of(public).ok().map(root))
    }

    /// The storage root key that the TPM makes of its own seed, the same one each time.
    pub(super) fn primary_root(&mut self) -> Result<Root> {
        let template = Writer::default().u16(ALG_ECC).u16(ALG_SHA256).u32(ROOT_ATTRIBUTES).sized(&[]);
        let template = template.u16(ALG_AES).u16(128).u16(ALG_CFB).u16(ALG_NULL).u16(ECC_NIST_P256).u16(ALG_NULL);
        let template = template.sized(&[]).sized(&[]).finish();
        // Neither a password nor data; no outside information, and no PCRs of its creation.
        let parameters = Writer::default().sized(&[0; 4]).sized(&template).sized(&[]).u32(0).finish();
        let answer = self.by_password(CREATE_PRIMARY, RH_OWNER, &parameters)?;
        let mut answer = Reader::new(&answer);
        let handle = answer.u32()?;
        let made = parameters_of(&mut answer).and_then(|mut parameters| {
            let public = parameters.sized()?;
            Ok(Root { handle, point: point_of(public)?, name: name_of(public), transient: true })
        });
        self.flush_unless(handle, made)
    }

    /// Loads a sealed object, and returns its handle.
    pub(super) fn load(&mut self, parent: u32, private: &[u8], public: &[u8]) -> Result<u32> {
        let parameters = Writer::default().sized(private).sized(public).finish();
        let answer =
            self.by_password(LOAD, parent, &parameters).map_err(|error| match error.kind() == Kind::Corrupt {
                true => Error::with_source(Kind::Corrupt, "the sealed share is damaged", error),
                false => error,
            })?;
        Reader::new(&answer).u32()
    }

    /// Starts a session whose key only the holder of the storage root key with this point can know.
    pub(super) fn start_salted(&mut self, root: &Root, of: SessionType) -> Result<Session> {
        let salted = Salted::new(&root.point)?;
        let body = Writer::default().u32(root.handle).u32(RH_NULL).raw(&salted.parameters(of)).finish();
        let answer = self.plain(START_AUTH_SESSION, &body)?;
        let mut answer = Reader::new(&answer);
        salted.started(answer.u32()?, answer)
    }

    /// The digest of the policy that these PCRs have the values that they have now.
    pub(super) fn policy_of(&mut self, pcrs: Pcrs) -> Result<Vec<u8>> {
        let handle = self.start_unsalted(SessionType::Trial)?;
        let digest = self.policy_pcr(handle, pcrs).and_then(|()| {
            let answer = self.plain(POLICY_GET_DIGEST, &handle.to_be_bytes())?;
            Reader::new(&answer).sized().map(<[u8]>::to_vec)
        });
        let flushed = self.flush(handle);
        digest.and_then(|digest| flushed.map(|()| digest))
    }

    pub(super) fn policy_pcr(&mut self, session: u32, pcrs: Pcrs) -> Result<()> {
        let body = Writer::default().u32(session).sized(&[]).raw(&pcrs.selection()).finish();
        self.plain(POLICY_PCR, &body).map(drop)
    }

    /// Starts a policy session without a key, and returns its handle.
    ///
    /// # Errors
    /// `KeyUnavailable`, `Io`.
    pub fn start_policy(&mut self) -> Result<u32> {
        self.start_unsalted(SessionType::Policy)
    }

    fn start_unsalted(&mut self, of: SessionType) -> Result<u32> {
        let parameters = start_parameters(of, &NO_NONCE, &[]);
        let body = Writer::default().u32(RH_NULL).u32(RH_NULL).raw(&parameters).finish();
        Reader::new(&self.plain(START_AUTH_SESSION, &body)?).u32()
    }

    /// Takes a key or session out of the TPM's memory.
    ///
    /// # Errors
    /// `KeyUnavailable`, `Io`.
    pub fn flush(&mut self, handle: u32) -> Result<()> {
        self.plain(FLUSH_CONTEXT, &handle.to_be_bytes()).map(drop)
    }

    /// The same after a failure; the error that matters is that failure.
    ///
    /// # Errors
    /// Those of `result`.
    pub fn flush_unless<T>(&mut self, handle: u32, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.flush(handle).ok();
        }
        result
    }

    /// Lets go of the storage root key once `result` is there.
    pub(super) fn release<T>(&mut self, root: &Root, result: Result<T>) -> Result<T> {
        let flushed = if root.transient { self.flush(root.handle) } else { Ok(()) };
        result.and_then(|result| flushed.map(|()| result))
    }

    /// A command about one handle, authorized by a session that ends with it. Returns the parameters of the response.
    pub(super) fn authorized(
        &mut self,
        session: &mut Session,
        command: Command,
        (handle, name): (u32, &[u8]),
        parameters: &[u8],
        attributes: u8,
    ) -> Result<Vec<u8>> {
        let area = session.authorize(command.code, &[name], parameters, attributes);
        let body = Writer::default().u32(handle).long(&area).raw(parameters).finish();
        let answer = self.exchange(SESSIONS, command, &body);
        let answer = answer.and_then(|answer| answer.map_err(|code| code.refusal(command.called)));
        let answer = self.flush_unless(session.handle, answer)?; // it ends with a command that succeeded
        let mut area = Reader::new(&answer);
        let parameters = parameters_of(&mut area)?;
        session.verify(command.code, parameters.rest(), area)?;
        Ok(parameters.rest().to_vec())
    }

    /// A command about one handle whose password is empty. Returns what follows the response code.
    pub(super) fn by_password(&mut self, command: Command, handle: u32, parameters: &[u8]) -> Result<Vec<u8>> {
        let answer = self.command(command, &[handle], &[Authorization::Password], parameters)?;
        answer.map_err(|code| code.refusal(command.called))
    }

    /// A command about these handles, of which each of the first ones has its authorization. Returns what follows the response code.
    ///
    /// # Errors
    /// `KeyUnavailable` when the TPM does not answer in time, `Io`.
    pub fn command(
        &mut self,
        command: Command,
        handles: &[u32],
        authorizations: &[Authorization],
        parameters: &[u8],
    ) -> Result<Answer> {
        let mut body = handles.iter().fold(Writer::default(), |body, handle| body.u32(*handle));
        if authorizations.is_empty() {
            return self.exchange(NO_SESSIONS, command, &body.raw(parameters).finish());
        }
        let area = authorizations.iter().fold(Writer::default(), |area, authorization| {
            // Nothing is computed with the nonce of a session without a key, but it has to be there.
            let (session, nonce): (u32, &[u8]) = match *authorization {
                Authorization::Password => (PASSWORD, &[]),
                Authorization::Policy(session) => (session, &NO_NONCE),
            };
            area.u32(session).sized(nonce).u8(0).sized(&[])
        });
        body = body.long(&area.finish());
        self.exchange(SESSIONS, command, &body.raw(parameters).finish())
    }

    fn plain(&mut self, command: Command, body: &[u8]) -> Result<Vec<u8>> {
        self.try_plain(command, body)?.map_err(|code| code.refusal(command.called))
    }

    fn try_plain(&mut self, command: Command, body: &[u8]) -> Result<Answer> {
        self.exchange(NO_SESSIONS, command, body)
    }

    fn exchange(&mut self, tag: u16, command: Command, body: &[u8]) -> Result<Answer> {
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
        let bytes = Writer::default().u16(tag).u32(len).u32(command.code).raw(body).finish();
        loop {
            let response = self.device.exchange(&bytes)?;
            let mut reader = Reader::new(&response);
            let (_tag, _len, code) = (reader.u16()?, reader.u32()?, ResponseCode(reader.u32()?));
            match code {
                SUCCESS => return Ok(Ok(reader.rest().to_vec())),
                code if code.is_temporary() => self.device.pause()?,
                code => return Ok(Err(code)),
            }
        }
    }
}

/// The parameters of a response with sessions, which are before its authorization area.
///
/// # Errors
/// `Io`.
pub fn parameters_of<'a>(answer: &mut Reader<'a>) -> Result<Reader<'a>> {
    let len = usize::try_from(answer.u32()?).unwrap_or(usize::MAX);
    answer.raw(len).map(Reader::new)
}

/// The point of a storage key on P-256; other kinds of key are refused.
fn point_of(public: &[u8]) -> Result<Point> {
    let mut key = Reader::new(public);
    let (kind, name_algorithm, attributes) = (key.u16()?, key.u16()?, key.u32()?);
    key.sized()?;
    let symmetric = (key.u16()?, key.u16()?, key.u16()?);
    let (scheme, curve, derivation) = (key.u16()?, key.u16()?, key.u16()?);
    let expected = (ALG_ECC, ALG_SHA256, (ALG_AES, 128, ALG_CFB), (ALG_NULL, ECC_NIST_P256, ALG_NULL));
    if (kind, name_algorithm, symmetric, (scheme, curve, derivation)) != expected || attributes & STORAGE != STORAGE {
        return Err(Error::new(Kind::Unsupported, "a storage root key of the TPM of another kind than P-256"));
    }
    let (x, y) = (coordinate(key.sized()?)?, coordinate(key.sized()?)?);
    key.finish()?;
    Ok(Point { x, y })
}

/// A coordinate; some TPMs leave its leading zeros out.
fn coordinate(bytes: &[u8]) -> Result<[u8; COORDINATE_LEN]> {
    let mut all = [0; COORDINATE_LEN];
    let from = COORDINATE_LEN.checked_sub(bytes.len());
    let from = from.ok_or_else(|| Error::new(Kind::Io, format!("a coordinate of {} bytes", bytes.len())))?;
    all[from..].copy_from_slice(bytes);
    Ok(all)
}
