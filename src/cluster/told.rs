//! What an exchange has done, as the agent that did it tells the program that asked for it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Exchanged, Standing};
use crate::error::{Error, Kind, Result};
use crate::format::cluster::Name;
use crate::key::ProviderName;
use crate::provider::agent::client::AgentClient;
use crate::provider::agent::{Answer, Request};

#[derive(Deserialize, Serialize)]
struct Told {
    standing: Standing,
    epoch: u64,
    received: Vec<(String, Uuid)>,
    sent: Vec<(String, String)>,
    awaited: Vec<String>,
    made_current: Vec<(String, Uuid)>,
    wiped: Vec<(String, Uuid)>,
    evicted: bool,
    failed: Vec<(String, Kind, String)>,
    #[serde(default)]
    unsaid: Option<(Kind, String)>,
}

impl Exchanged {
    /// What the agent of this host has done, if it has one: the agent is asked to do now what the newest document asks. The caller must not
    /// be at work on the cluster, as the agent waits for it.
    ///
    /// # Errors
    /// Those of the agent, and of what it does.
    pub fn by_agent(config: &Path) -> Result<Option<Self>> {
        let agent = AgentClient::of(config)?;
        if !agent.is_there() {
            return Ok(None);
        }
        let Answer::Done { outcome } = agent.ask(&Request::Sync)? else {
            return Err(Error::new(Kind::Invalid, "an answer of another version of vmcryptfs-agent"));
        };
        Self::from_json(outcome).map(Some)
    }

    /// As JSON.
    ///
    /// # Errors
    /// None that is known: it has a JSON form.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        let keys = |keys: &[(ProviderName, Uuid)]| keys.iter().map(|(name, uuid)| (name.to_string(), *uuid)).collect();
        let told = Told {
            standing: self.standing,
            epoch: self.epoch,
            received: keys(&self.received),
            sent: self.sent.iter().map(|(name, host)| (name.to_string(), host.to_string())).collect(),
            awaited: self.awaited.iter().map(ToString::to_string).collect(),
            made_current: keys(&self.made_current),
            wiped: keys(&self.wiped),
            evicted: self.evicted,
            failed: self.failed.iter().map(|(name, error)| (name.to_string(), error.kind(), error.chain())).collect(),
            unsaid: self.unsaid.as_ref().map(|error| (error.kind(), error.chain())),
        };
        serde_json::to_value(told)
            .map_err(|error| Error::with_source(Kind::Invalid, "an exchange that has no JSON form", error))
    }

    /// What [`to_json`](Self::to_json) gave.
    ///
    /// # Errors
    /// `Corrupt` for anything else.
    pub fn from_json(told: serde_json::Value) -> Result<Self> {
        let told: Told = serde_json::from_value(told)
            .map_err(|error| Error::with_source(Kind::Corrupt, "not what an exchange has done", error))?;
        let keys = |keys: Vec<(String, Uuid)>| -> Result<Vec<_>> {
            keys.into_iter().map(|(name, uuid)| Ok((ProviderName::new(name)?, uuid))).collect()
        };
        let sent = told.sent.into_iter().map(|(name, host)| Ok((ProviderName::new(name)?, Name::new("host", host)?)));
        let failed =
            told.failed.into_iter().map(|(name, kind, text)| Ok((ProviderName::new(name)?, Error::new(kind, text))));
        Ok(Self {
            standing: told.standing,
            epoch: told.epoch,
            received: keys(told.received)?,
            sent: sent.collect::<Result<_>>()?,
            awaited: told.awaited.into_iter().map(ProviderName::new).collect::<Result<_>>()?,
            made_current: keys(told.made_current)?,
            wiped: keys(told.wiped)?,
            evicted: told.evicted,
            failed: failed.collect::<Result<_>>()?,
            unsaid: told.unsaid.map(|(kind, text)| Error::new(kind, text)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_comes_back_and_anything_else_is_refused() {
        let name = |name: &str| ProviderName::new(name).unwrap();
        let uuid = Uuid::from_bytes([7; 16]);
        let done = Exchanged {
            standing: Standing::Removed,
            epoch: 9,
            received: vec![(name("a"), uuid)],
            sent: vec![(name("b"), Name::new("host", "h2").unwrap())],
            awaited: vec![name("c")],
            made_current: vec![(name("f"), uuid)],
            wiped: vec![(name("d"), uuid)],
            evicted: true,
            failed: vec![(name("e"), Error::new(Kind::Exists, "another one is there"))],
            unsaid: Some(Error::new(Kind::Busy, "another host acknowledges as this one")),
        };
        let json = done.to_json().unwrap();
        let back = Exchanged::from_json(json.clone()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{done:?}"));
        for (field, value) in [("epoch", "9"), ("standing", "king"), ("awaited", "c")] {
            let mut wrong = json.clone();
            wrong[field] = value.into();
            assert_eq!(Exchanged::from_json(wrong).map(drop).unwrap_err().kind(), Kind::Corrupt, "{field}");
        }
        let mut wrong = json;
        wrong["awaited"][0] = "../c".into();
        assert_eq!(Exchanged::from_json(wrong).map(drop).unwrap_err().kind(), Kind::Invalid);
    }
}
