//! Calls of a board that only the agent reaches, as programs of its host make them over its socket. Bytes are texts in base64.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::provider::tls_files::TlsFiles;

/// A call, and where it goes.
#[derive(Debug, Deserialize, Serialize)]
pub struct BoardCall {
    /// The board's address.
    pub board: String,
    /// The cluster.
    pub cluster: Uuid,
    /// What proves the host to the board, and the board to the host.
    pub tls: TlsFiles,
    /// What is to be done.
    pub work: BoardWork,
}

/// What is to be done on a board.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum BoardWork {
    /// Whether it answers; answered by `Done`.
    Check,
    /// Whether a new cluster can be made there; answered by `Done`.
    Create,
    /// Whether the cluster is there; answered by `Done`.
    Open,
    /// Answered by `Record`.
    Read {
        /// Name of the record.
        key: String,
    },
    /// Answered by `Written`.
    Write {
        /// Name of the record.
        key: String,
        /// What its writer has seen.
        before: Option<Base64>,
        /// What it is to be.
        after: Base64,
    },
    /// Answered by `Done`.
    Remove {
        /// Name of the record.
        key: String,
    },
    /// Answered by `Names`.
    List {
        /// Part of the board.
        under: String,
        /// So many at most.
        most: usize,
    },
    /// Answered by `Members`.
    Health,
}

/// What has become of a call.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "has", rename_all = "kebab-case")]
pub enum BoardAnswer {
    /// It is done.
    Done,
    /// A record.
    Record {
        /// Its bytes, if it is there.
        value: Option<Base64>,
    },
    /// A write.
    Written {
        /// Whether the record was what its writer had seen.
        is_written: bool,
    },
    /// Names of records.
    Names {
        /// In order.
        keys: Vec<String>,
    },
    /// The parts of the board.
    Members {
        /// In the order of the address.
        members: Vec<MemberHealth>,
    },
}

/// A part of a board that can fail on its own. Names of fields are part of the interface of `cluster status`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MemberHealth {
    /// Where it is.
    pub member: String,
    /// Its version, if it has one.
    pub version: String,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

/// Bytes, as JSON has them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Base64(String);

impl Base64 {
    /// The text of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(BASE64.encode(bytes))
    }

    /// The bytes of a text.
    ///
    /// # Errors
    /// `Corrupt` when it is not one.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = BASE64.decode(self.0.as_bytes());
        bytes.map_err(|error| Error::with_source(Kind::Corrupt, "a text that is not base64", error))
    }
}
