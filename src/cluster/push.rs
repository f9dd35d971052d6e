//! KEKs of a key server that hosts with its credentials, the keepers, push to the others over the board: what a host wants and takes,
//! and what a keeper reads and gives (docs/FORMAT.md, section 18.1).

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::board::{Board, Key, Lease};
use super::host::Identity;
use super::session::{Session, require_active};
use crate::crypto::wrap::LocalKek;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{
    Document, Given, HostIdentity, MemberState, Parcel, PushedProvider, Reference, Refusal, Want, Wish,
};
use crate::key::{KeyId, ProviderName};

/// How long a KEK lies on the board, if its host does not take it.
pub const LEASE: Duration = Duration::from_secs(60);
/// How long a want lies on the board, if its host does not write it again: one that is gone wants nothing.
pub const WANT_LEASE: Duration = Duration::from_secs(60);
/// Most records of a kind that are looked at.
const MAX_LISTED: usize = 65_536;
/// Records of one look that the board may fail to give, before the look ends: a board that no longer answers is not waited for again
/// and again.
const MAX_UNREAD: usize = 4;

/// What a host is for a pushed provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PushRole {
    /// It has the credentials, and seals KEKs to others.
    Keeper,
    /// It gets KEKs from keepers.
    Receiver,
    /// It was removed, and has to wipe what it has.
    Removed,
}

impl PushRole {
    /// That of a host by a document; `None` for one that is not a member yet.
    pub fn of(document: &Document, pushed: &PushedProvider, host: Uuid) -> Option<Self> {
        Some(match document.member(host)?.state {
            MemberState::Removed => Self::Removed,
            MemberState::Active if pushed.keepers.contains(&host) => Self::Keeper,
            MemberState::Active => Self::Receiver,
        })
    }
}

/// The hosts that may seal KEKs of a pushed provider: keepers that are active members.
pub fn keepers<'d>(document: &'d Document, pushed: &'d PushedProvider) -> impl Iterator<Item = &'d HostIdentity> {
    let members = document.active().map(|member| &member.host);
    members.filter(|host| pushed.keepers.contains(&host.uuid))
}

/// A keeper's answer to a host.
pub enum Answer {
    /// A KEK.
    Kek {
        /// Its key id.
        id: KeyId,
        /// The KEK.
        kek: LocalKek,
        /// Whether it may wrap.
        wraps: bool,
    },
    /// There is none.
    Refused {
        /// The key that was wanted; `None` for a new one.
        id: Option<KeyId>,
        /// Why.
        refusal: Refusal,
        /// The same for people, with the keeper's name.
        why: String,
    },
}

/// The board of pushed KEKs, as one host uses it by the newest document that it has seen. The host is not locked by it.
pub struct PushBoard {
    document: Document,
    identity: Identity,
    board: Box<dyn Board>,
}

impl Session {
    /// Ends the work that locks the host, and goes on with pushed KEKs. The board has to be one that gives leases.
    pub fn into_push_board(self) -> PushBoard {
        PushBoard { document: self.view.document, identity: self.identity, board: self.board }
    }
}

impl PushBoard {
    /// The document that decides.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// UUID of this host.
    pub fn host(&self) -> Uuid {
        self.identity.uuid
    }

    /// Says what this host wants of a provider: this, and nothing else, for [`WANT_LEASE`].
    ///
    /// # Errors
    /// `Denied` when this host is not a member, and those of the board.
    pub fn want(&self, provider: &ProviderName, wishes: &BTreeMap<Reference, Wish>) -> Result<()> {
        let key = Key::want(provider, self.host());
        if wishes.is_empty() {
            return self.board.remove(&key);
        }
        require_active(self.document.member(self.host()))?;
        let want = Want {
            cluster: self.document.cluster,
            host: self.host(),
            provider: provider.clone(),
            wishes: wishes.clone(),
        };
        // In place of what is there, whatever that is: only this host has a say in it.
        self.board.lease(WANT_LEASE)?.write(&key, &want.encode(&self.identity.sign)?)
    }

    /// A record. One that is no record, such as one that is too long, is removed, so that it stands in the way once.
    fn record(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let read = self.board.read(key);
        if read.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt) {
            self.board.remove(key)?;
        }
        read
    }

    /// Takes what keepers have left for this host, each answer with the wish that it belongs to. What is forged or damaged is removed as
    /// well, and returned as an error; so is what cannot be read, and what was taken besides is not lost by it.
    ///
    /// # Errors
    /// Those of listing what is on the board.
    pub fn take(&self, pushed: &PushedProvider) -> Result<Vec<(Reference, Result<Answer>)>> {
        let (mut taken, mut unread) = (Vec::new(), 0);
        for key in self.board.list(&Key::keks(&pushed.name, self.host()), MAX_LISTED)? {
            let read = self.record(&key).and_then(|bytes| {
                bytes.iter().try_for_each(|_| self.board.remove(&key))?;
                Ok(bytes)
            });
            let found = match read {
                Ok(None) => continue,
                Ok(Some(bytes)) => self.opened(pushed, &key, &bytes),
                Err(error) => {
                    unread += usize::from(error.kind() != Kind::Corrupt);
                    Err(error)
                }
            };
            match found {
                Ok((reference, answer)) => taken.push((reference, Ok(answer))),
                Err(error) => taken.push((Reference::NONE, Err(error).context(|| format!("{key} of the board")))),
            }
            if unread >= MAX_UNREAD {
                break;
            }
        }
        Ok(taken)
    }

    fn opened(&self, pushed: &PushedProvider, key: &Key, bytes: &[u8]) -> Result<(Reference, Answer)> {
        let (parcel, given, id) = self.checked(pushed, self.host(), key, bytes)?;
        let keeper = |uuid| keepers(&self.document, pushed).find(|keeper| keeper.uuid == uuid);
        let by = keeper(parcel.keeper).map_or("?", |keeper| keeper.name.as_str());
        let answer = match (given, id) {
            (Given::Kek { wraps, sealed }, Some(id)) => {
                Answer::Kek { id, kek: LocalKek::new(sealed.open(&self.identity.seal)?)?, wraps }
            }
            (Given::Kek { .. }, None) => return Err(Error::new(Kind::Corrupt, "a KEK without a key id")),
            (Given::Refused { refusal, why }, id) => {
                Answer::Refused { id, refusal, why: format!("keeper {by}: {why}") }
            }
        };
        Ok((parcel.reference, answer))
    }

    /// What a keeper that is a member has signed for a host, in the place that it is for.
    fn checked(
        &self,
        pushed: &PushedProvider,
        host: Uuid,
        key: &Key,
        bytes: &[u8],
    ) -> Result<(Parcel, Given, Option<KeyId>)> {
        let (parcel, given) =
            Parcel::decode(bytes, |uuid| keepers(&self.document, pushed).find(|keeper| keeper.uuid == uuid))?;
        let id = parcel.key_id(&pushed.name)?;
        let is_here = parcel.cluster == self.document.cluster
            && parcel.host == host
            && parcel.provider == pushed.uuid
            && place_of(&pushed.name, &parcel, id.as_ref()).as_ref() == Some(key);
        match is_here {
            true => Ok((parcel, given, id)),
            false => Err(Error::new(Kind::Denied, "a KEK for another host, provider or wish: it was moved")),
        }
    }

    /// What active members want of a provider, and the wants that are none or cannot be read, with the host in whose place they are.
    ///
    /// # Errors
    /// Those of listing what is on the board.
    pub fn wants(&self, pushed: &PushedProvider) -> Result<Vec<(HostIdentity, Result<Want>)>> {
        let (mut wants, mut unread) = (Vec::new(), 0);
        let active = self.document.active().map(|member| &member.host);
        let places: BTreeMap<Key, &HostIdentity> =
            active.map(|host| (Key::want(&pushed.name, host.uuid), host)).collect();
        for key in self.board.list(&format!("want/{}", pushed.name), MAX_LISTED)? {
            let Some(host) = places.get(&key).copied() else { continue };
            let want = match self.record(&key) {
                Ok(None) => continue,
                Ok(Some(bytes)) => Want::decode(&bytes, self.document.cluster, &pushed.name, host),
                Err(error) => {
                    unread += usize::from(error.kind() != Kind::Corrupt);
                    Err(error)
                }
            };
            wants.push((host.clone(), want));
            if unread >= MAX_UNREAD {
                break;
            }
        }
        Ok(wants)
    }

    /// Whether an answer to a wish of a host lies there that the host can take.
    ///
    /// # Errors
    /// Those of the board.
    pub fn is_answered(&self, pushed: &PushedProvider, host: Uuid, reference: Reference) -> Result<bool> {
        let key = Key::kek(&pushed.name, host, reference);
        match self.record(&key) {
            Err(error) if error.kind() == Kind::Corrupt => Ok(false),
            read => Ok(read?.is_some_and(|bytes| self.checked(pushed, host, &key, &bytes).is_ok())),
        }
    }

    /// Begins to give KEKs to hosts.
    ///
    /// # Errors
    /// `Denied` when this host is not a keeper of the provider that is an active member.
    pub fn give<'p>(&'p self, pushed: &'p PushedProvider) -> Result<Giver<'p>> {
        match keepers(&self.document, pushed).any(|keeper| keeper.uuid == self.host()) {
            true => Ok(Giver { push: self, pushed, lease: None }),
            false => Err(Error::new(Kind::Denied, format!("this host is not a keeper of provider {}", pushed.name))),
        }
    }
}

/// Where an answer has to be; `None` for one that no host could have wished for.
fn place_of(provider: &ProviderName, parcel: &Parcel, id: Option<&KeyId>) -> Option<Key> {
    match parcel.reference {
        Reference::NONE => Some(Key::unasked_kek(provider, parcel.host, id?)),
        reference => Some(Key::kek(provider, parcel.host, reference)),
    }
}

/// A keeper that gives KEKs of a provider. What it writes ends with a lease, if it is not taken before.
pub struct Giver<'p> {
    push: &'p PushBoard,
    pushed: &'p PushedProvider,
    lease: Option<Box<dyn Lease>>,
}

impl Giver<'_> {
    /// Gives a KEK to an active member: for its wish, or without one.
    ///
    /// # Errors
    /// `Denied` when it is not an active member, and those of the board.
    pub fn kek(
        &mut self,
        host: &HostIdentity,
        reference: Reference,
        id: &KeyId,
        kek: &LocalKek,
        wraps: bool,
    ) -> Result<()> {
        if !self.push.document.active().any(|member| member.host == *host) {
            return Err(Error::new(Kind::Denied, format!("host {} is not an active member", host.name)));
        }
        let parcel = self.parcel(host, reference, Some(id));
        let bytes = parcel.seal(kek.bytes(), wraps, &host.seal_key, &self.push.identity.sign)?;
        self.write(&parcel, Some(id), &bytes)
    }

    /// Says to a host why there is no KEK for its wish.
    ///
    /// # Errors
    /// Those of the board.
    pub fn refuse(
        &mut self,
        host: &HostIdentity,
        reference: Reference,
        id: Option<&KeyId>,
        refusal: Refusal,
        why: &str,
    ) -> Result<()> {
        let parcel = self.parcel(host, reference, id);
        let bytes = parcel.refuse(refusal, why, &self.push.identity.sign)?;
        self.write(&parcel, id, &bytes)
    }

    fn parcel(&self, host: &HostIdentity, reference: Reference, id: Option<&KeyId>) -> Parcel {
        Parcel {
            cluster: self.push.document.cluster,
            keeper: self.push.host(),
            host: host.uuid,
            provider: self.pushed.uuid,
            reference,
            key: id.map(|id| id.id().to_owned()),
        }
    }

    fn write(&mut self, parcel: &Parcel, id: Option<&KeyId>, bytes: &[u8]) -> Result<()> {
        let unplaced = || Error::new(Kind::Invalid, "a refusal of what no host wished for");
        let key = place_of(&self.pushed.name, parcel, id).ok_or_else(unplaced)?;
        if let Some(lease) = &mut self.lease {
            match lease.write(&key, bytes) {
                // A host has taken a record of it, or its time has ended: each is a reason for another lease, not for trouble.
                Err(error) if error.kind() == Kind::NotFound => {}
                written => return written,
            }
        }
        self.lease.insert(self.push.board.lease(LEASE)?).write(&key, bytes)
    }
}
