//! What is known of the hosts of a cluster.

mod problems;

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use super::Session;
use super::board::MemberHealth;
use super::push::keepers;
use crate::error::Result;
use crate::format::cluster::{Document, Member, MemberState, PushedProvider, SharedProvider};

/// A cluster, as one of its hosts sees it. Names of fields are part of the command's interface.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Where its board is.
    pub board: String,
    /// What it is made of, and whether that works.
    pub board_members: Vec<MemberHealth>,
    /// Number of the newest document.
    pub epoch: u64,
    /// The host that looks.
    pub this_host: Uuid,
    /// The providers that its hosts share.
    pub providers: Vec<ProviderStatus>,
    /// The providers whose KEKs keepers push.
    pub pushed: Vec<PushedStatus>,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
    /// Hosts that ask to join; nothing of that is proven.
    pub requests: Vec<RequestStatus>,
    /// What an admin has to see to, in sentences.
    pub problems: Vec<String>,
}

/// A shared provider.
#[derive(Debug, Serialize)]
pub struct ProviderStatus {
    /// Its name.
    pub name: String,
    /// UUID of its newest primary key.
    pub primary_key: Uuid,
    /// Since which document.
    pub since: u64,
    /// Its number, from 1 on.
    pub generation: usize,
    /// UUIDs of older primary keys that are not retired, the newest first.
    pub old_generations: Vec<Uuid>,
}

/// A provider whose KEKs keepers push.
#[derive(Debug, Serialize)]
pub struct PushedStatus {
    /// Its name.
    pub name: String,
    /// Its kind at the keepers.
    pub kind: String,
    /// Made when it was shared.
    pub uuid: Uuid,
    /// Since which document.
    pub since: u64,
    /// For how many seconds hosts use a KEK without another word of a keeper.
    pub life: u64,
    /// Whether hosts may keep KEKs sealed by their TPM.
    pub persists: bool,
    /// Names of the keepers that are active members.
    pub keepers: Vec<String>,
    /// Where the key server is.
    pub places: Vec<String>,
}

impl PushedStatus {
    fn of(document: &Document, pushed: &PushedProvider) -> Self {
        Self {
            name: pushed.name.to_string(),
            kind: pushed.kind.to_string(),
            uuid: pushed.uuid,
            since: pushed.since,
            life: pushed.life.as_secs(),
            persists: pushed.persists,
            keepers: keepers(document, pushed).map(|keeper| keeper.name.to_string()).collect(),
            places: pushed.places.clone(),
        }
    }
}

/// A host.
#[derive(Debug, Serialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it is, and what is to be known of that.
    pub state: HostState,
    /// Since which document it is a member, or removed.
    pub since: u64,
    /// Version of its agent, if that runs: what is under a lease there. It is not signed, and decides nothing.
    pub agent: Option<String>,
    /// The newest document that it has acted on.
    pub epoch: Option<u64>,
    /// When, by its own clock.
    pub time: Option<String>,
    /// The providers of which it says to have all keys, or to be a keeper that is ready.
    pub holds: Vec<String>,
    /// UUIDs of the primary keys that it says to have.
    pub keys: Vec<Uuid>,
    /// Whether others may have what it had.
    pub compromised: bool,
    /// Whether its guests have to end as well.
    pub evicted: bool,
    /// Why what it has acknowledged does not count.
    pub error: Option<String>,
}

/// What a host is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// It has all keys, and has acted on the newest document.
    Ready,
    /// It has not acted on the newest document yet, or lacks a key.
    Behind,
    /// It was removed, and says that it has wiped what it had.
    Wiped,
    /// It was removed, and has not said that it has wiped what it had; an admin says that it never will.
    PresumedDestroyed,
    /// It was removed, and has not said that it has wiped what it had.
    Removed,
}

impl HostState {
    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Behind => "behind",
            Self::Wiped => "wiped",
            Self::PresumedDestroyed => "presumed-destroyed",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Behind => "behind",
            Self::Wiped => "removed, keys wiped",
            Self::PresumedDestroyed => "removed, presumed destroyed",
            Self::Removed => "removed, KEYS NOT WIPED",
        })
    }
}

/// A request to join.
#[derive(Debug, Serialize)]
pub struct RequestStatus {
    /// Name of the host.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// When its token ends.
    pub expires: String,
}

impl ClusterStatus {
    /// Looks at a cluster.
    ///
    /// # Errors
    /// Those of the board.
    pub fn of(session: &Session) -> Result<Self> {
        let document = session.document();
        let providers = document.providers.iter().map(|shared| ProviderStatus {
            name: shared.name.to_string(),
            primary_key: shared.newest().primary,
            since: shared.newest().since,
            generation: shared.generations.len(),
            old_generations: shared.in_use().rev().skip(1).map(|generation| generation.primary).collect(),
        });
        let requests = session.join_requests()?.into_iter().map(|request| RequestStatus {
            name: request.claims().host.name.to_string(),
            uuid: request.claims().host.uuid,
            expires: request.claims().expires.to_millis(),
        });
        Ok(Self {
            cluster: document.name.to_string(),
            uuid: document.cluster,
            board: session.board_place().to_owned(),
            board_members: session.board_health(),
            epoch: document.epoch,
            this_host: session.host(),
            providers: providers.collect(),
            pushed: document.pushed.iter().map(|pushed| PushedStatus::of(document, pushed)).collect(),
            hosts: document.members.iter().map(|member| HostStatus::of(session, member)).collect(),
            requests: requests.collect(),
            problems: problems::of(session),
        })
    }
}

impl HostStatus {
    fn of(session: &Session, member: &Member) -> Self {
        let document = session.document();
        let (ack, error) = match session.ack_of(member) {
            Ok(ack) => (ack, None),
            Err(error) => (None, Some(error.chain())),
        };
        let has = |primary: &Uuid| ack.as_ref().is_some_and(|ack| ack.holds.contains(primary));
        let has_all_of = |shared: &&SharedProvider| shared.in_use().all(|generation| has(&generation.primary));
        let has_all = document.providers.iter().all(|shared| has_all_of(&shared));
        let state = match (member.state, ack.as_ref()) {
            (MemberState::Active, Some(ack)) if has_all && ack.epoch == document.epoch => HostState::Ready,
            (MemberState::Active, _) => HostState::Behind,
            (MemberState::Removed, _) if session.knows_to_have_wiped(member) => HostState::Wiped,
            (MemberState::Removed, _) if member.removal.presumed_destroyed => HostState::PresumedDestroyed,
            (MemberState::Removed, _) => HostState::Removed,
        };
        let held = document.providers.iter().filter(has_all_of);
        let kept = document.pushed.iter().filter(|pushed| has(&pushed.uuid));
        Self {
            name: member.host.name.to_string(),
            uuid: member.host.uuid,
            state,
            since: member.since,
            compromised: member.removal.compromised,
            evicted: member.removal.evicted,
            agent: session.agent_of(member),
            epoch: ack.as_ref().map(|ack| ack.epoch),
            time: ack.as_ref().map(|ack| ack.time.to_millis()),
            keys: ack.as_ref().map(|ack| ack.holds.clone()).unwrap_or_default(),
            holds: held
                .map(|shared| shared.name.to_string())
                .chain(kept.map(|pushed| pushed.name.to_string()))
                .collect(),
            error,
        }
    }
}
