//! A provider whose KEKs a key server keeps: hosts with the credentials for it seal them to the others.

use std::time::Duration;

use uuid::Uuid;

use super::provider::provider_name;
use super::{Name, name, put_text, text};
use crate::error::{Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::ProviderName;

/// Longest time for which a host may use a KEK without another word of a keeper.
pub const MAX_LIFE: Duration = Duration::from_secs(31_536_000);
const MAX_KEEPERS: usize = 16;
const MAX_PLACES: usize = 16;
/// Hosts may keep KEKs sealed by their TPM.
const PERSISTS: u8 = 1;

/// A provider that hosts share without having its credentials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PushedProvider {
    /// Its name, the same on all hosts.
    pub name: ProviderName,
    /// Its kind at the keepers.
    pub kind: Name,
    /// Made when it was shared.
    pub uuid: Uuid,
    /// The epoch from which on it is shared.
    pub since: u64,
    /// For how long a host may use a KEK without another word of a keeper; whole seconds.
    pub life: Duration,
    /// Whether hosts may keep its KEKs sealed by their TPM.
    pub persists: bool,
    /// The hosts that have the credentials, by ascending UUID: at least one.
    pub keepers: Vec<Uuid>,
    /// Where the key server is, for people.
    pub places: Vec<String>,
}

impl PushedProvider {
    pub(super) fn write(&self, writer: &mut Writer) -> Result<()> {
        put_text(writer, self.name.as_str())?;
        put_text(writer, self.kind.as_str())?;
        writer.put(self.uuid.as_bytes());
        writer.put(self.since.to_le_bytes());
        writer.put(u32::try_from(self.life.as_secs()).unwrap_or(u32::MAX).to_le_bytes()); // too long is refused by `check`
        writer.put([if self.persists { PERSISTS } else { 0 }]);
        writer.count_u8(self.keepers.len(), "keepers")?;
        self.keepers.iter().for_each(|keeper| writer.put(keeper.as_bytes()));
        writer.count_u8(self.places.len(), "places")?;
        self.places.iter().try_for_each(|place| put_text(writer, place))
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (name, kind) = (provider_name(reader)?, name(reader, "kind of provider")?);
        let uuid = Uuid::from_bytes(reader.array()?);
        let (since, life, flags) = (reader.u64()?, reader.u32()?, reader.u8()?);
        if flags & !PERSISTS != 0 {
            return Err(Error::new(Kind::Corrupt, format!("flags {flags:#x} of a pushed provider, expected 0 or 1")));
        }
        let keepers = (0..reader.u8()?).map(|_| reader.array().map(Uuid::from_bytes)).collect::<Result<_>>()?;
        let places = (0..reader.u8()?).map(|_| text(reader, "place").map(str::to_owned)).collect::<Result<_>>()?;
        let life = Duration::from_secs(life.into());
        Ok(Self { name, kind, uuid, since, life, persists: flags != 0, keepers, places })
    }

    /// What an encoding cannot be without, in a document of this epoch that knows hosts by `is_member`.
    pub(super) fn check(&self, epoch: u64, is_member: impl Fn(Uuid) -> bool) -> Result<()> {
        let wrong = |what: String| Err(Error::new(Kind::Corrupt, format!("pushed provider {}: {what}", self.name)));
        if self.since > epoch {
            return wrong(format!("shared since epoch {}, which is after epoch {epoch}", self.since));
        }
        if self.life < Duration::from_secs(1) || self.life > MAX_LIFE {
            return wrong(format!("KEKs live for {} s, expected 1 to {}", self.life.as_secs(), MAX_LIFE.as_secs()));
        }
        if !(1..=MAX_KEEPERS).contains(&self.keepers.len()) || self.places.len() > MAX_PLACES {
            let (keepers, places) = (self.keepers.len(), self.places.len());
            return wrong(format!(
                "{keepers} keepers and {places} places, expected 1 to {MAX_KEEPERS} and at most {MAX_PLACES}"
            ));
        }
        if !self.keepers.is_sorted_by(|a, b| a < b) {
            return wrong("keepers are not in ascending order, each once".into());
        }
        if let Some(stranger) = self.keepers.iter().find(|keeper| !is_member(**keeper)) {
            return wrong(format!("keeper {stranger} is not a host of the cluster"));
        }
        let is_place = |place: &&String| !place.is_empty() && place.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        match self.places.iter().all(|place| is_place(&place)) {
            true => Ok(()),
            false => wrong("a place that is not printable ASCII".into()),
        }
    }
}
