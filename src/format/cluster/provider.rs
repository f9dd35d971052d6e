//! A provider that hosts share, and the generations of its primary key.

use uuid::Uuid;

use super::{put_text, text};
use crate::error::{Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::ProviderName;

/// A native provider whose primary keys the hosts share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SharedProvider {
    /// Its name, the same on all hosts.
    pub name: ProviderName,
    /// Its primary keys, the oldest first: at least one. The last one is never retired.
    pub generations: Vec<Generation>,
}

/// One primary key of a provider.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Generation {
    /// The UUID of the primary key.
    pub primary: Uuid,
    /// The epoch from which on it is shared.
    pub since: u64,
    /// The epoch from which on hosts have to wipe it.
    pub retired: Option<u64>,
    /// What only the primary key gives: no host takes another one.
    pub check: [u8; 32],
}

impl SharedProvider {
    /// The newest generation.
    ///
    /// # Panics
    /// If there is none: the format has at least one.
    pub fn newest(&self) -> &Generation {
        self.generations.last().expect("a shared provider has at least one generation")
    }

    /// The generations that hosts have, the oldest first.
    pub fn in_use(&self) -> impl DoubleEndedIterator<Item = &Generation> {
        self.generations.iter().filter(|generation| generation.retired.is_none())
    }

    /// The number of a generation, from 1 on.
    pub fn number(&self, primary: Uuid) -> Option<usize> {
        self.generations.iter().position(|generation| generation.primary == primary).map(|at| at + 1)
    }

    /// The generation, if there never was another one.
    pub(super) fn only(&self) -> Option<&Generation> {
        match self.generations.as_slice() {
            [only] if only.retired.is_none() => Some(only),
            _ => None,
        }
    }

    pub(super) fn write(&self, writer: &mut Writer, version: u16) -> Result<()> {
        if let Some(only) = self.only().filter(|_| version == 1) {
            writer.put(only.primary.as_bytes());
            writer.put(only.since.to_le_bytes());
            writer.put(only.check);
            return put_text(writer, self.name.as_str());
        }
        put_text(writer, self.name.as_str())?;
        writer.count_u8(self.generations.len(), "generations")?;
        for generation in &self.generations {
            writer.put(generation.primary.as_bytes());
            writer.put(generation.since.to_le_bytes());
            writer.put(generation.retired.unwrap_or(0).to_le_bytes());
            writer.put(generation.check);
        }
        Ok(())
    }

    /// What an encoding cannot be without, in a document of this epoch.
    pub(super) fn check(&self, epoch: u64) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(Kind::Corrupt, format!("provider {}: {what}", self.name)));
        if self.generations.last().is_none_or(|newest| newest.retired.is_some()) {
            return wrong("no generation, or the newest one is retired");
        }
        if !self.generations.is_sorted_by(|a, b| a.since < b.since) {
            return wrong("generations are not in the order of their epochs");
        }
        let later =
            |generation: &Generation| generation.since > epoch || generation.retired.is_some_and(|at| at > epoch);
        if self.generations.iter().any(later) {
            return wrong(&format!("a generation is so since an epoch after epoch {epoch}"));
        }
        if self.generations.iter().any(|generation| generation.retired.is_some_and(|at| at <= generation.since)) {
            return wrong("a generation was retired before it was shared");
        }
        let first = |at: usize| self.number(self.generations[at].primary) == Some(at + 1);
        match (0..self.generations.len()).all(first) {
            true => Ok(()),
            false => wrong("two generations have one primary key"),
        }
    }
}

pub(super) fn provider(reader: &mut Reader<'_>, version: u16) -> Result<SharedProvider> {
    if version == 1 {
        let primary = Uuid::from_bytes(reader.array()?);
        let (since, check) = (reader.u64()?, reader.array()?);
        let generations = vec![Generation { primary, since, retired: None, check }];
        return Ok(SharedProvider { name: provider_name(reader)?, generations });
    }
    let name = provider_name(reader)?;
    let mut generations = Vec::new();
    for _ in 0..reader.u8()? {
        let primary = Uuid::from_bytes(reader.array()?);
        let (since, retired) = (reader.u64()?, Some(reader.u64()?).filter(|at| *at != 0));
        generations.push(Generation { primary, since, retired, check: reader.array()? });
    }
    Ok(SharedProvider { name, generations })
}

pub(super) fn provider_name(reader: &mut Reader<'_>) -> Result<ProviderName> {
    ProviderName::new(text(reader, "provider")?)
        .map_err(|error| Error::with_source(Kind::Corrupt, "a shared provider", error))
}
