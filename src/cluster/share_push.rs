//! A provider whose key server not every host has the credentials of is shared: its keepers push its KEKs.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::Session;
use crate::crypto::random;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{HostIdentity, Name, PushedProvider};
use crate::key::ProviderName;
use crate::provider::config::Config;
use crate::provider::kind::Configured;

/// For how long hosts use a KEK without another word of a keeper, unless an admin says otherwise: over a weekend.
const DEFAULT_LIFE: Duration = Duration::from_secs(72 * 60 * 60);

/// How a provider is to be pushed. What is not said stays as it is.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Other hosts with the credentials, by name or UUID. This host is one if it has them.
    pub keepers: Vec<String>,
    /// Hosts that are not keepers any longer.
    pub no_keepers: Vec<String>,
    /// For how long hosts use a KEK without another word of a keeper.
    pub life: Option<Duration>,
    /// Whether hosts may keep KEKs over a restart, sealed by their TPMs.
    pub persists: Option<bool>,
}

impl PushOptions {
    /// Whether anything is said.
    pub fn is_default(&self) -> bool {
        self.keepers.is_empty() && self.no_keepers.is_empty() && self.life.is_none() && self.persists.is_none()
    }
}

/// What this host has of a provider that can be pushed.
struct Own {
    kind: Name,
    places: Vec<String>,
}

impl Session {
    /// Whether a provider is pushed, or could be: this host has the credentials of its key server.
    ///
    /// # Errors
    /// Those of the configuration.
    pub fn can_push(&self, provider: &ProviderName) -> Result<bool> {
        Ok(self.document().pushed.iter().any(|pushed| pushed.name == *provider)
            || self.own_to_push(provider)?.is_some())
    }

    fn own_to_push(&self, name: &ProviderName) -> Result<Option<Own>> {
        let configured = Config::load(&self.config)?;
        let Some(settings) = configured.providers().get(name).filter(|settings| settings.kind().can_be_pushed()) else {
            return Ok(None);
        };
        if settings.has_kek_share() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("provider {name} has a kek-share, which a cluster does not carry: share one without it"),
            ));
        }
        let places = settings.kind().key_places(&Configured { name, settings, config: &self.config });
        Ok(Some(Own { kind: Name::new("kind", settings.kind().name())?, places }))
    }

    /// Shares a provider whose key server makes and keeps its KEKs, or changes how one is pushed.
    ///
    /// # Errors
    /// `NotFound` when a keeper is not an active member, or this host has no such provider and the cluster does not push one; `Invalid` when
    /// no keeper would be left; `Exists` when the cluster shares a primary key under that name; `Busy` when another admin was faster.
    pub fn share_pushed(
        &mut self,
        admins: &[SigningKey],
        name: &ProviderName,
        options: &PushOptions,
    ) -> Result<PushedProvider> {
        self.require_active()?;
        if self.document().providers.iter().any(|shared| shared.name == *name) {
            return Err(Error::new(Kind::Exists, format!("the cluster shares a provider {name} already")));
        }
        let own = self.own_to_push(name)?;
        let former = self.document().pushed.iter().find(|pushed| pushed.name == *name).cloned();
        let mut keepers: BTreeSet<Uuid> = former.iter().flat_map(|pushed| pushed.keepers.iter().copied()).collect();
        keepers.extend(own.iter().map(|_| self.identity.uuid));
        for keeper in &options.keepers {
            keepers.insert(self.active_host(keeper)?.uuid);
        }
        for keeper in &options.no_keepers {
            keepers.remove(&self.active_host(keeper)?.uuid);
        }
        // One that was removed seals nothing, and would only take a place.
        keepers.retain(|keeper| self.document().active().any(|member| member.host.uuid == *keeper));
        if keepers.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!("provider {name} would have no keeper left: say which with --keeper"),
            ));
        }
        let next = match (former, own) {
            (Some(former), own) => PushedProvider {
                places: own.map_or(former.places, |own| own.places),
                life: options.life.unwrap_or(former.life),
                persists: options.persists.unwrap_or(former.persists),
                keepers: keepers.into_iter().collect(),
                ..former
            },
            (None, Some(own)) => PushedProvider {
                name: name.clone(),
                kind: own.kind,
                uuid: random::uuid()?,
                since: 0,
                life: options.life.unwrap_or(DEFAULT_LIFE),
                persists: options.persists.unwrap_or(false),
                keepers: keepers.into_iter().collect(),
                places: own.places,
            },
            (None, None) => {
                let message =
                    format!("this host has no provider {name} whose keys can be pushed: run it on a host that has");
                return Err(Error::new(Kind::NotFound, message));
            }
        };
        self.change(admins, |document| {
            let since = if next.since == 0 { document.epoch } else { next.since };
            document.pushed.retain(|pushed| pushed.name != *name);
            document.pushed.push(PushedProvider { since, ..next.clone() });
            document.pushed.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(())
        })?;
        Ok(next)
    }

    /// The active member of a name or UUID.
    fn active_host(&self, wanted: &str) -> Result<&HostIdentity> {
        let is_it = |host: &&HostIdentity| host.is_meant_by(wanted);
        self.document().active().map(|member| &member.host).find(is_it).ok_or_else(|| {
            let names: Vec<&str> = self.document().active().map(|member| member.host.name.as_str()).collect();
            Error::new(
                Kind::NotFound,
                format!("no active host {wanted} in the cluster; there are {}", names.join(", ")),
            )
        })
    }
}
