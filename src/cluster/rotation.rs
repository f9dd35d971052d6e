//! Generations of a shared primary key: a new one is made, and old ones are retired.

use uuid::Uuid;

use super::Session;
use super::exchange::SharedKeys;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{Generation, Member, SharedProvider};
use crate::key::ProviderName;

/// A generation of a primary key that an admin made or retired.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotated {
    /// Its number, from 1 on.
    pub number: usize,
    /// The UUID of the primary key.
    pub primary: Uuid,
}

impl Session {
    /// A provider that the cluster shares.
    ///
    /// # Errors
    /// `NotFound`, naming those that it does; `Unsupported` for one that is pushed.
    pub fn shared(&self, provider: &ProviderName) -> Result<&SharedProvider> {
        self.document().providers.iter().find(|shared| shared.name == *provider).ok_or_else(|| {
            if self.document().pushed.iter().any(|pushed| pushed.name == *provider) {
                let message = format!(
                    "provider {provider} has no primary key: its key server makes a key for each VM, and keepers push them. `vmcryptfs rekey \
                     VM_FOLDER` gives a VM another key, and `vmcryptfs provider retire {provider} KEY_ID --datastore DATASTORE` on a keeper ends those that nothing needs"
                );
                return Error::new(Kind::Unsupported, message);
            }
            let names: Vec<&str> = self.document().providers.iter().map(|shared| shared.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Error::new(Kind::NotFound, format!("the cluster shares no provider {provider}; it shares {there}"))
        })
    }

    /// Makes the next generation of a shared provider's primary key. It is on this host before any other host hears of it. Hosts make
    /// new keys by it once all of them say that they have it.
    ///
    /// # Errors
    /// `NotFound` when the cluster shares no such provider, `KeyUnavailable` when this host has no key of it, `Denied`
    /// while a host does not say that it has the newest one, unless `at_once`; `Busy` when another admin was faster.
    pub fn rotate(
        &mut self,
        keys: &dyn SharedKeys,
        admins: &[SigningKey],
        provider: &ProviderName,
        at_once: bool,
    ) -> Result<Rotated> {
        self.require_active()?;
        let shared = self.shared(provider)?.clone();
        let cluster = self.membership.cluster;
        self.require_one_key(keys, &shared)?;
        if !at_once {
            self.refuse_while_missing(&shared)?;
        }
        let key = keys.next(&shared)?;
        let (primary, check) = (key.uuid(), key.check(cluster));
        self.change(admins, |next| {
            let since = next.epoch;
            let shared = next.providers.iter_mut().filter(|shared| shared.name == *provider);
            shared.for_each(|shared| shared.generations.push(Generation { primary, since, retired: None, check }));
            Ok(())
        })?;
        Ok(Rotated { number: shared.generations.len() + 1, primary })
    }

    /// The generations of a provider that can be retired: all but the newest.
    ///
    /// # Errors
    /// `NotFound` when the cluster shares no such provider, or no generation is left but the newest.
    pub fn old_generations(&self, provider: &ProviderName) -> Result<Vec<Rotated>> {
        let shared = self.shared(provider)?;
        let newest = shared.newest().primary;
        let old = shared.in_use().map(|generation| generation.primary).filter(|primary| *primary != newest);
        let old: Vec<Rotated> =
            old.filter_map(|primary| Some(Rotated { number: shared.number(primary)?, primary })).collect();
        match old.is_empty() {
            true => {
                let message = format!(
                    "provider {provider} has one key, {newest}: `vmcryptfs cluster rotate {provider} --admin-key FILE` makes another"
                );
                Err(Error::new(Kind::NotFound, message))
            }
            false => Ok(old),
        }
    }

    /// Retires generations, which hosts then wipe. That nothing needs them is for the caller to know.
    ///
    /// # Errors
    /// `Denied` while a host does not say that it makes new keys by the newest one; `Busy` when another admin was faster.
    pub fn retire(&mut self, admins: &[SigningKey], provider: &ProviderName, old: &[Rotated]) -> Result<()> {
        self.require_active()?;
        self.refuse_while_old_are_made(provider)?;
        self.change(admins, |next| {
            let epoch = next.epoch;
            let shared = next.providers.iter_mut().filter(|shared| shared.name == *provider);
            let generations = shared.flat_map(|shared| &mut shared.generations);
            let retired = generations.filter(|generation| old.iter().any(|old| old.primary == generation.primary));
            retired.for_each(|generation| generation.retired = Some(epoch));
            Ok(())
        })?;
        self.tidy();
        Ok(())
    }

    /// Refuses to go on while an active host may still make keys by an old generation. Who looks for VMs that need one asks this
    /// before as well: what is made after the look would be missed.
    ///
    /// # Errors
    /// `NotFound` when the cluster shares no such provider, `Denied` while a host does not say that it makes new keys by the newest one.
    pub fn refuse_while_old_are_made(&self, provider: &ProviderName) -> Result<()> {
        let newest = self.shared(provider)?.newest().primary;
        let behind = self.hosts_where(|member| !self.says_to_make(member, newest));
        match behind.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Denied,
                format!(
                    "{behind} did not confirm to make new keys of provider {provider} by its newest key: run `vmcryptfs cluster \
                     sync` there, twice if it did not have that key yet, or remove that host"
                ),
            )),
        }
    }

    /// Why this host makes no new keys by the newest primary key of a provider, where that is so.
    pub fn why_newest_is_awaited(&self, shared: &SharedProvider) -> Option<String> {
        let newest = shared.newest().primary;
        let own = self.own()?;
        if self.says_to_make(own, newest) {
            return None;
        }
        let (number, name) = (shared.generations.len(), &shared.name);
        let lacks = self.hosts_where(|member| member.host.uuid != own.host.uuid && !self.says_to_have(member, newest));
        Some(match lacks.is_empty() {
            false => format!(
                "generation {number} of {name} is not confirmed yet by {lacks}, so no new keys are made by it: run `vmcryptfs cluster \
                 sync` there, then on this host, and then this again"
            ),
            true => format!(
                "this host does not make keys by generation {number} of {name} yet: run `vmcryptfs cluster sync`, and then this again"
            ),
        })
    }

    /// Refuses to make a key for a provider of which this host has none: nothing would be made by it here, and it may be another one.
    pub(super) fn require_one_key(&self, keys: &dyn SharedKeys, shared: &SharedProvider) -> Result<()> {
        for generation in shared.in_use() {
            if keys.held(self.membership.cluster, shared, generation)?.is_some() {
                return Ok(());
            }
        }
        let name = &shared.name;
        let message = format!("this host does not have a key of provider {name}: run `vmcryptfs cluster sync` first");
        Err(Error::new(Kind::KeyUnavailable, message))
    }

    /// Refuses to go on while an active host does not say that it has the newest key: what is new would be closed to it.
    fn refuse_while_missing(&self, shared: &SharedProvider) -> Result<()> {
        let newest = shared.newest().primary;
        let behind = self.hosts_where(|member| !self.says_to_have(member, newest));
        match behind.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Denied,
                format!(
                    "{behind} did not confirm to have the newest key of provider {}: run `vmcryptfs cluster sync` there, or \
                     remove that host",
                    shared.name
                ),
            )),
        }
    }

    /// The names of those active hosts, with commas between them.
    fn hosts_where(&self, is_so: impl Fn(&Member) -> bool) -> String {
        let members = self.document().active().filter(|member| is_so(member));
        members.map(|member| member.host.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
