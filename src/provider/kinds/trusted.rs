//! The trusted provider: a trust authority makes KEKs and gives them to hosts that have attested (docs/TRUST.md). The agent of this host
//! attests and asks; nothing of a VM is stored at the authority, as the key id is the KEK wrapped under its top-level key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use toml::Table;
use toml::de::ValueDeserializer;

use crate::error::{Error, Kind, Result};
use crate::key::{Kek, KeyId, ProviderName};
use crate::provider::agent::client::AgentClient;
use crate::provider::agent::keys::{AgentKeys, other_key};
use crate::provider::agent::trust::{TrustAnswer, TrustCall, TrustStatus};
use crate::provider::agent::{Answer, Request};
use crate::provider::kind::{self, Argument, Arguments, Configured, ProviderKind, Tested, Usage, Value};
use crate::provider::{KeyProvider, NewKey, round_trip};

/// Members of an authority that may be named.
const MAX_URLS: usize = 16;

/// The kind.
#[derive(Debug)]
pub struct Trusted;

const USAGE: Usage = Usage {
    about: "Add a provider whose keys a trust authority gives to hosts that have attested",
    details: "Add a provider of a trust authority (vSphere: trusted key provider). The authority gives keys to hosts only whose TPM 2.0 \
              proves what they booted. vmcryptfs-agent must run on this host, and the host must have enrolled: `vmcryptfs trust \
              enrol`, which also prints the addresses and the hash.",
    example: "vmcryptfs provider add trusted prod --authority https://ta1.example:6843,https://ta2.example:6843 --pin \
              Yy3q7H1nU0xS8mK2bV5tR9wE4cJ6zL0aQ3dF7gN1oPk",
    arguments: &[
        Argument {
            name: "authority",
            value_name: "URL,...",
            help: "Where the authority is: https://NAME:PORT of each of its members",
            value: Value::Text(|text| urls(text).map(drop)),
            required: true,
            repeatable: true,
        },
        Argument {
            name: "pin",
            value_name: "HASH",
            help: "SHA-256 of the authority's public key, in base64url, as `vmcryptfs-authority status` has it",
            value: Value::Base64Url(|text| Pin::from_str(text).map(drop)),
            required: true,
            repeatable: false,
        },
    ],
};

/// SHA-256 of an authority's public key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(pub [u8; 32]);

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| format!("{text:?}, expected 43 letters of base64url: a SHA-256"))
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

/// Its section of the configuration file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the members of the authority are.
    #[serde(deserialize_with = "checked_urls")]
    pub authority: Vec<String>,
    /// SHA-256 of its public key.
    pub pin: Pin,
}

fn checked_urls<'d, D: serde::Deserializer<'d>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    let all = Vec::<String>::deserialize(deserializer)?;
    urls(&all.join(",")).map_err(serde::de::Error::custom)
}

/// Addresses with commas between.
fn urls(text: &str) -> std::result::Result<Vec<String>, String> {
    let all: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
    for url in &all {
        let place = url.strip_prefix("https://").and_then(|place| place.rsplit_once(':'));
        let is_place = place.is_some_and(|(name, port)| {
            !name.is_empty()
                && !name.contains(['/', ' ', '?', '#', '@'])
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if !is_place {
            return Err(format!("{url:?}, expected https://NAME:PORT"));
        }
    }
    match all.len() {
        ..=MAX_URLS => Ok(all),
        many => Err(format!("{many} addresses, expected at most {MAX_URLS}")),
    }
}

impl ProviderKind for Trusted {
    fn name(&self) -> &'static str {
        "trusted"
    }

    fn usage(&self) -> &'static Usage {
        &USAGE
    }

    fn parse(&self, section: ValueDeserializer<'_>) -> std::result::Result<Table, toml::de::Error> {
        kind::parse::<Settings>(section)
    }

    fn settings(&self, _: &ProviderName, arguments: &Arguments) -> Result<Table> {
        let invalid = |flaw| Error::new(Kind::Invalid, flaw);
        let given: Vec<_> = arguments.values("authority").map(|text| text.to_string_lossy().into_owned()).collect();
        let pin = arguments.values("pin").next().map(|text| text.to_string_lossy().parse()).transpose();
        let pin = pin.map_err(invalid)?.ok_or_else(|| invalid("missing argument --pin".to_owned()))?;
        kind::table(&Settings { authority: urls(&given.join(",")).map_err(invalid)?, pin })
    }

    fn open(&self, provider: &Configured<'_>) -> Result<Arc<dyn KeyProvider>> {
        Ok(Arc::new(TrustedProvider::new(provider)?))
    }

    fn test(&self, provider: &Configured<'_>) -> Result<Tested> {
        let (name, settings) = (provider.name, provider.settings.read::<Settings>()?);
        let provider = TrustedProvider::new(provider)?;
        // What was proved is of interest where it is not enough, too.
        let outcome = round_trip(&provider);
        let mut report =
            provider.status_of(settings.pin).map_or_else(|_| String::new(), |status| described(name, &status));
        if outcome.is_ok() {
            report += &format!("{name}: works. A key was made, fetched again, and unwrapped what it had wrapped\n");
        }
        Ok(Tested { report, notices: Vec::new(), outcome: outcome.map(drop) })
    }

    /// The authority, whatever its addresses are.
    fn key_places(&self, provider: &Configured<'_>) -> Vec<String> {
        provider.settings.read::<Settings>().map(|settings| settings.pin.to_string()).into_iter().collect()
    }
}

fn described(name: &ProviderName, status: &TrustStatus) -> String {
    let TrustStatus { authority, name: host, attested, .. } = status;
    let mut text = format!("{name}: this host is {host} ({}) at authority {authority}\n", status.host);
    if let Some(attested) = attested {
        text += &format!("{name}: it has attested: level {}, policy {}\n", attested.level, attested.policy);
    }
    text
}

/// Asks the agent, which asks the authority.
struct TrustedProvider {
    keys: AgentKeys,
}

impl TrustedProvider {
    fn new(provider: &Configured<'_>) -> Result<Self> {
        provider.settings.read::<Settings>()?;
        let (name, agent) = (provider.name.clone(), AgentClient::of_authority(provider.config)?);
        Ok(Self { keys: AgentKeys { name, agent } })
    }

    fn status_of(&self, pin: Pin) -> Result<TrustStatus> {
        let Answer::Trust(answer) = self.keys.agent.ask(&Request::Trust(Box::new(TrustCall::Status)))? else {
            return Err(other_key("no status"));
        };
        let TrustAnswer::Authorities { authorities } = *answer else { return Err(other_key("a prediction")) };
        let found = authorities.into_iter().find(|known| known.pin == pin.to_string());
        found.ok_or_else(|| Error::new(Kind::NotFound, "this host has not enrolled at this authority"))
    }
}

impl KeyProvider for TrustedProvider {
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.keys.create(purpose)
    }

    fn prepare(&self, key_ids: &[KeyId]) {
        self.keys.prepare(key_ids);
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        self.keys.fetch(key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_an_address_with_a_port_and_a_hash() {
        let settings = |authority: &[&str], pin: &str| {
            let mut arguments = Arguments::default();
            arguments.insert("authority", authority.iter().map(Into::into).collect());
            arguments.insert("pin", vec![pin.into()]);
            Trusted.settings(&ProviderName::new("prod").unwrap(), &arguments)
        };
        let pin = BASE64URL_NOPAD.encode(&[7; 32]);
        let table = settings(&["https://a:6843,https://b.example:1", "https://[::1]:6843"], &pin).unwrap();
        let known: Settings = table.clone().try_into().unwrap();
        assert_eq!(known.authority, ["https://a:6843", "https://b.example:1", "https://[::1]:6843"]);
        assert_eq!((known.pin, Table::try_from(&known).unwrap()), (Pin([7; 32]), table));
        for wrong in
            ["a:6843", "http://a:6843", "https://a", "https://:1", "https://a:0", "https://a:1/v1", "https://a:1,", ""]
        {
            let error = settings(&[wrong], &pin).unwrap_err();
            assert!(
                error.kind() == Kind::Invalid && error.to_string().contains("expected https://NAME:PORT"),
                "{error}"
            );
            assert!(toml::from_str::<Settings>(&format!("authority = [{wrong:?}]\npin = {pin:?}")).is_err(), "{wrong}");
        }
        for wrong in ["", "abc", &pin[1..], &format!("{pin}A")] {
            assert_eq!(settings(&["https://a:6843"], wrong).unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
        assert!(settings(&[&["https://a:1"; 17].join(",")], &pin).is_err());
    }
}
