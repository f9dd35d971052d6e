//! A host is removed, and what an admin says of one that was.

use uuid::Uuid;

use super::Session;
use super::exchange::SharedKeys;
use super::push::keepers;
use super::rotation::Rotated;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{
    Document, Generation, HostIdentity, Member, MemberState, Name, PushedProvider, Removal, SharedProvider,
};
use crate::key::ProviderName;

/// A host that was removed, and what it could read.
#[derive(Debug)]
pub struct RemovedHost {
    /// The host.
    pub host: HostIdentity,
    /// Whether it was a member until now.
    pub was_active: bool,
    /// The epoch in which it became a member, or was removed if that was before.
    pub since: u64,
    /// What is known of it now.
    pub removal: Removal,
    /// The providers whose primary keys it had or could have.
    pub providers: Vec<ProviderName>,
    /// The providers whose KEKs keepers could give it.
    pub pushed: Vec<ProviderName>,
    /// Those of them that it was a keeper of: it has credentials of the key server.
    pub kept: Vec<ProviderName>,
    /// New generations, which it never had.
    pub rotated: Vec<(ProviderName, Rotated)>,
    /// Providers that were to get a new generation and could not here: an admin rotates them on a host that has the key file.
    pub not_rotated: Vec<(ProviderName, Error)>,
}

/// The pushed providers whose KEKs keepers give to a member, or could give until it was removed.
pub(super) fn pushed_to<'d>(document: &'d Document, member: &Member) -> impl Iterator<Item = &'d PushedProvider> {
    let until = (member.state == MemberState::Removed).then_some(member.since);
    document.pushed.iter().filter(move |pushed| until.is_none_or(|until| pushed.since < until))
}

impl Session {
    /// Notes on this host that what [`ClusterStatus`](super::status::ClusterStatus) asks to be done about a removed host is done. No host can
    /// see all of that by itself. More is asked about one that is known to be compromised later.
    ///
    /// # Errors
    /// `NotFound` when no such host was removed, `Invalid` when several were, `Io`.
    pub fn see_to(&self, name: &Name) -> Result<HostIdentity> {
        let is_meant =
            |member: &&Member| member.state == MemberState::Removed && member.host.is_meant_by(name.as_str());
        let removed: Vec<&Member> = self.document().members.iter().filter(is_meant).collect();
        let [member] = removed.as_slice() else {
            return Err(match removed.len() {
                0 => Error::new(Kind::NotFound, format!("no host {name} was removed from the cluster")),
                _ => Error::new(Kind::Invalid, format!("several hosts {name} were removed: say which by its UUID")),
            });
        };
        match member.removal.compromised {
            true => self.files.keep_seen_to(member.host.uuid)?,
            false => self.files.keep_removal_seen_to(member.host.uuid)?,
        }
        Ok(member.host.clone())
    }

    /// This host's name and that of its cluster, if it is an active member and meant by a name or UUID.
    pub fn own_name(&self, wanted: &Name) -> Option<(Name, Name)> {
        let own = self.own().filter(|own| own.state == MemberState::Active && own.host.is_meant_by(wanted.as_str()))?;
        Some((own.host.name.clone(), self.document().name.clone()))
    }

    /// Removes a host, by its name or UUID, and its envelopes from the board; or adds to what is known of one that was removed. If it is
    /// compromised, all shared providers that can be rotated on this host get new primary keys in the same document.
    ///
    /// # Errors
    /// `NotFound` when the cluster has no such host, `Invalid` when several that were removed have the name, `Denied` when a key could be
    /// lost: no other host has acknowledged that it has it; `Busy` when another admin was faster.
    pub fn remove(
        &mut self,
        keys: &dyn SharedKeys,
        admins: &[SigningKey],
        name: &Name,
        marks: Removal,
    ) -> Result<RemovedHost> {
        self.require_active()?;
        let member = self.removable(name, marks)?.clone();
        let (host, was_active) = (member.host.clone(), member.state == MemberState::Active);
        if was_active {
            self.refuse_last_holder(&host, marks.presumed_destroyed)?;
        }
        let (mut next, mut not_rotated) = (Vec::new(), Vec::new());
        if marks.compromised && !member.removal.compromised {
            self.refuse_own(&host)?;
            for shared in &self.document().providers {
                match self.next_generation(keys, shared) {
                    Ok(generation) => next.push((shared.name.clone(), generation)),
                    Err(error) => not_rotated.push((shared.name.clone(), error)),
                }
            }
        }
        self.change(admins, |document| {
            let since = document.epoch;
            for member in document.members.iter_mut().filter(|member| member.host.uuid == host.uuid) {
                if was_active {
                    (member.state, member.since) = (MemberState::Removed, since);
                }
                member.removal.compromised |= marks.compromised;
                member.removal.evicted |= marks.evicted;
                member.removal.presumed_destroyed |= marks.presumed_destroyed;
            }
            for (name, generation) in &next {
                let shared = document.providers.iter_mut().filter(|shared| shared.name == *name);
                shared.for_each(|shared| shared.generations.push(Generation { since, ..generation.clone() }));
            }
            Ok(())
        })?;
        self.tidy();
        let providers = &self.document().providers;
        let number =
            |shared: &SharedProvider| Rotated { number: shared.generations.len(), primary: shared.newest().primary };
        let known = self.document().member(host.uuid);
        let pushed: Vec<&PushedProvider> =
            known.into_iter().flat_map(|member| pushed_to(self.document(), member)).collect();
        let name = |pushed: &&PushedProvider| pushed.name.clone();
        let is_next = |shared: &&SharedProvider| next.iter().any(|(name, _)| *name == shared.name);
        Ok(RemovedHost {
            was_active,
            since: member.since,
            removal: known.map(|member| member.removal).unwrap_or_default(),
            kept: pushed.iter().filter(|pushed| pushed.keepers.contains(&host.uuid)).map(name).collect(),
            pushed: pushed.iter().map(name).collect(),
            providers: providers.iter().map(|shared| shared.name.clone()).collect(),
            not_rotated,
            rotated: providers.iter().filter(is_next).map(|shared| (shared.name.clone(), number(shared))).collect(),
            host,
        })
    }

    /// The active host of a name, or if more is to be said of it, one that was removed.
    fn removable(&self, name: &Name, marks: Removal) -> Result<&Member> {
        let is_named = |member: &&Member| member.host.is_meant_by(name.as_str());
        if let Some(member) = self.document().active().find(is_named) {
            return Ok(member);
        }
        let may_be_removed = marks != Removal::default();
        let removed: Vec<&Member> =
            self.document().members.iter().filter(|_| may_be_removed).filter(is_named).collect();
        match removed.as_slice() {
            [member] => Ok(member),
            [] => {
                let names: Vec<&str> = self.document().active().map(|member| member.host.name.as_str()).collect();
                let removed = self.document().members.iter().rfind(is_named);
                let removed = removed.map(|member| {
                    format!(" (it was removed in document {}; say more of it with --compromised, --evict or --presume-destroyed)", member.since)
                });
                let removed = removed.unwrap_or_default();
                let message = format!("no active host {name} in the cluster{removed}; there are {}", names.join(", "));
                Err(Error::new(Kind::NotFound, message))
            }
            several => {
                let uuids: Vec<String> = several.iter().map(|member| member.host.uuid.to_string()).collect();
                let message =
                    format!("several hosts {name} were removed: say which by its UUID, {}", uuids.join(" or "));
                Err(Error::new(Kind::Invalid, message))
            }
        }
    }

    /// The pushed provider that would have no keeper without this host.
    fn last_keeper_of(&self, host: &HostIdentity) -> Option<&str> {
        let document = self.document();
        let is_last = |pushed: &&PushedProvider| {
            let mut keepers = keepers(document, pushed);
            keepers.next().is_some_and(|keeper| keeper.uuid == host.uuid) && keepers.next().is_none()
        };
        document.pushed.iter().find(is_last).map(|pushed| pushed.name.as_str())
    }

    fn refuse_own(&self, host: &HostIdentity) -> Result<()> {
        if host.uuid == self.identity.uuid {
            let message = format!("{} is this host, and new keys are made here: run it on another host", host.name);
            return Err(Error::new(Kind::Denied, message));
        }
        Ok(())
    }

    /// A new generation of a provider. It is on this host before any other hears of it.
    fn next_generation(&self, keys: &dyn SharedKeys, shared: &SharedProvider) -> Result<Generation> {
        self.require_one_key(keys, shared)?;
        let key = keys.next(shared)?;
        Ok(Generation { primary: key.uuid(), since: 0, retired: None, check: key.check(self.membership.cluster) })
    }

    /// A host that is removed wipes its keys: another one must have those by which something can have been made. Those are the
    /// generations of a provider up to the newest by which a host says that it makes keys, and the oldest one in any case. What a host
    /// had that is destroyed is lost already.
    fn refuse_last_holder(&self, host: &HostIdentity, is_destroyed: bool) -> Result<()> {
        let (mut held, mut made) = (Vec::new(), Vec::new());
        for member in self.document().active() {
            let Some(ack) = self.ack_of(member).ok().flatten() else { continue };
            made.extend(ack.makes);
            held.extend(ack.holds.into_iter().filter(|_| member.host.uuid != host.uuid));
        }
        let lost = |shared: &&SharedProvider| {
            let in_use: Vec<Uuid> = shared.in_use().map(|generation| generation.primary).collect();
            let newest = in_use.iter().rposition(|primary| made.contains(primary)).unwrap_or(0);
            in_use.iter().take(newest + 1).any(|primary| !held.contains(primary))
        };
        match self.document().providers.iter().filter(|_| !is_destroyed).find(lost) {
            Some(shared) => Err(Error::new(
                Kind::Denied,
                format!(
                    "no host but {} has confirmed to have all keys of provider {} that are in use: run `vmcryptfs cluster sync` there and \
                     on another one first, or, if its media are destroyed and what only it could open is lost, say so with \
                     --presume-destroyed",
                    host.name, shared.name
                ),
            )),
            None if !is_destroyed && self.last_keeper_of(host).is_some() => {
                let provider = self.last_keeper_of(host).unwrap_or("?");
                Err(Error::new(
                    Kind::Denied,
                    format!(
                        "{} is the last keeper of provider {provider}: nobody could give its keys to hosts. Make another one with `vmcryptfs \
                         cluster share {provider} --keeper HOST --admin-key FILE` first, or, if its media are destroyed, say so with --presume-destroyed",
                        host.name
                    ),
                ))
            }
            None if self.document().active().count() == 1 => {
                Err(Error::new(Kind::Denied, format!("{} is the last host of the cluster", host.name)))
            }
            None => Ok(()),
        }
    }
}
