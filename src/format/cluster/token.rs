//! The line of text that lets a host into a cluster, once and for a short time.

use data_encoding::BASE64URL_NOPAD;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{MAX_RECORD_LEN, check_len};
use crate::crypto::derive::{hkdf_bytes, sha256};
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::sys::SecretBytes;
use crate::timestamp::Timestamp;

const PREFIX: &str = "vmcryptfs-token-1.";
const PURPOSE: &[u8] = b"vmcryptfs cluster token 1";
const CHECKSUM_LEN: usize = 4;
const SECRET_LEN: usize = 32;

/// The name of a token, which is not secret.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TokenId(pub [u8; 16]);

impl TokenId {
    /// The secret of a token: what its admin can compute, and nobody else, so that it is kept nowhere.
    ///
    /// # Errors
    /// None with the lengths used here.
    pub fn secret(&self, admin: &SigningKey, cluster: Uuid, expires: Timestamp) -> Result<SecretBytes> {
        let mut info = PURPOSE.to_vec();
        info.extend_from_slice(&self.0);
        info.extend_from_slice(&expires.since_1970().as_secs().to_le_bytes());
        let mut secret = SecretBytes::zeroed(SECRET_LEN);
        hkdf_bytes(cluster.as_bytes(), admin.seed(), &info, &mut secret)?;
        Ok(secret)
    }
}

/// A token. It pins the document that its maker knew, and by that the admins.
pub struct Token {
    /// The cluster.
    pub cluster: Uuid,
    /// Number of that document.
    pub epoch: u64,
    /// Hash of that document.
    pub document: [u8; 32],
    /// Its name.
    pub id: TokenId,
    /// When it ends, by the clock of the admin's host.
    pub expires: Timestamp,
    /// What the request is authenticated with.
    pub secret: SecretBytes,
    /// Where the board is.
    pub board: String,
}

impl Token {
    /// As one line of text, which holds the secret.
    ///
    /// # Errors
    /// `Invalid` when the place of the board is longer than 255 bytes.
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        let mut writer = Writer::default();
        writer.put(self.cluster.as_bytes());
        writer.put(self.epoch.to_le_bytes());
        writer.put(self.document);
        writer.put(self.id.0);
        writer.put(self.expires.since_1970().as_secs().to_le_bytes());
        writer.put(&*self.secret);
        writer.count_u8(self.board.len(), "bytes of the board's place")?;
        writer.put(&self.board);
        let checksum = sha256(writer.bytes());
        writer.put(&checksum[..CHECKSUM_LEN]);
        Ok(Zeroizing::new(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(writer.bytes()))))
    }

    /// Reads such a line.
    ///
    /// # Errors
    /// `Invalid` for a text that is not a whole token. The text is not repeated: it is a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(Kind::Invalid, format!("the token {what}: copy the whole line again"));
        if text.trim().is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                "nothing was given, expected the line that `vmcryptfs cluster token --admin-key FILE` prints",
            ));
        }
        let text = text.trim().strip_prefix(PREFIX).ok_or_else(|| wrong(&format!("does not begin with {PREFIX}")))?;
        check_len(text.as_bytes(), MAX_RECORD_LEN, "a token")?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| wrong("has letters that no token has"))?;
        let bytes = Zeroizing::new(bytes);
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(|| wrong("is too short"))?;
        if !sha256(body).starts_with(checksum) {
            return Err(wrong("was mistyped or cut off"));
        }
        let mut reader = Reader::new(body);
        let (cluster, epoch) = (Uuid::from_bytes(reader.array()?), reader.u64()?);
        let (document, id) = (reader.array()?, TokenId(reader.array()?));
        let expires = Timestamp::from_secs(reader.u64()?);
        let mut secret = SecretBytes::zeroed(SECRET_LEN);
        secret.copy_from_slice(reader.bytes(SECRET_LEN)?);
        let len = usize::from(reader.u8()?);
        let board = reader.text(len, "the place of the board")?.to_owned();
        reader.end()?;
        Ok(Self { cluster, epoch, document, id, expires, secret, board })
    }
}
