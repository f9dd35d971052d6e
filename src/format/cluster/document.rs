//! The cluster's document: who is in it and what its hosts share, signed by its admins.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use uuid::Uuid;

use super::provider::{SharedProvider, provider};
use super::pushed::PushedProvider;
use super::{HostIdentity, MAX_DOCUMENT_LEN, Name, TokenId, check_len, check_start_of, name, put_start_of, put_text};
use crate::crypto::derive::sha256;
use crate::crypto::sign::{self, SigningKey, verifies};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};

const MAGIC: [u8; 8] = *b"VMCRYPTD";
const VERSIONS: RangeInclusive<u16> = 1..=3;
/// What a signature begins with, so that it is good for nothing else.
const PURPOSE: &[u8] = b"vmcryptfs cluster document 1\0";
const MAX_ADMINS: usize = 16;
const MAX_MEMBERS: usize = 4096;
/// Most primary keys that are not retired, over all providers: an acknowledgement names those that a host has.
const MAX_PRIMARIES: usize = 255;

/// The state of a cluster from one change to the next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document {
    /// Its number, from 1 on.
    pub epoch: u64,
    /// The cluster.
    pub cluster: Uuid,
    /// SHA-256 of the body of the document before; zeros in the first one.
    pub previous: [u8; 32],
    /// The cluster's name.
    pub name: Name,
    /// How many admins must sign.
    pub threshold: u8,
    /// Public keys of the admins, in ascending order.
    pub admins: Vec<[u8; sign::PUBLIC_LEN]>,
    /// The epoch in which admins or threshold last changed; 0 if they never did.
    pub admins_since: u64,
    /// The epoch in which the admins last accepted a board that had gone back; 0 if they never did.
    pub resumed: u64,
    /// All hosts that ever were members, by ascending UUID.
    pub members: Vec<Member>,
    /// Providers whose primary keys the hosts share, by ascending name.
    pub providers: Vec<SharedProvider>,
    /// Providers whose KEKs keepers push to the other hosts, by ascending name.
    pub pushed: Vec<PushedProvider>,
}

/// A host of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The host.
    pub host: HostIdentity,
    /// Whether it is one still.
    pub state: MemberState,
    /// The epoch from which on that is so.
    pub since: u64,
    /// The token that let it in; zeros for the first host.
    pub token: TokenId,
    /// What else is known of a host that was removed.
    pub removal: Removal,
}

/// What else is known of a host that was removed; nothing of one that is active.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removal {
    /// Others may have what it had.
    pub compromised: bool,
    /// Its guests have to end as well.
    pub evicted: bool,
    /// It will not say that it has wiped its keys: its media are destroyed, as an admin says.
    pub presumed_destroyed: bool,
}

impl Removal {
    const COMPROMISED: u8 = 1;
    const EVICTED: u8 = 2;
    const PRESUMED_DESTROYED: u8 = 4;

    fn bits(self) -> u8 {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        bit(self.compromised, Self::COMPROMISED)
            | bit(self.evicted, Self::EVICTED)
            | bit(self.presumed_destroyed, Self::PRESUMED_DESTROYED)
    }

    fn of(bits: u8) -> Result<Self> {
        if bits & !(Self::COMPROMISED | Self::EVICTED | Self::PRESUMED_DESTROYED) != 0 {
            return Err(Error::new(Kind::Corrupt, format!("marks {bits:#x} of a removed host, expected at most 0x7")));
        }
        let is = |bit: u8| bits & bit != 0;
        Ok(Self {
            compromised: is(Self::COMPROMISED),
            evicted: is(Self::EVICTED),
            presumed_destroyed: is(Self::PRESUMED_DESTROYED),
        })
    }
}

/// Whether a host is a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemberState {
    /// It gets keys.
    Active,
    /// It gets none, and has to wipe what it has.
    Removed,
}

impl Document {
    /// The member that is this host.
    pub fn member(&self, host: Uuid) -> Option<&Member> {
        self.members.iter().find(|member| member.host.uuid == host)
    }

    /// The hosts that get keys.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.state == MemberState::Active)
    }

    /// The document, signed by these admins, each of them one of this document or of the one before.
    ///
    /// # Errors
    /// `Invalid` when a limit of the format is exceeded or an order is broken, `Denied` when version 1 does for the document and a
    /// key is not one of its admins.
    pub fn sign(&self, admins: &[SigningKey]) -> Result<Vec<u8>> {
        let (version, body) = (self.version(), self.body()?);
        let message = signed(&body);
        let mut signatures = Vec::new();
        for admin in admins {
            let by = match version {
                1 => vec![self.index_of(&admin.public())?],
                _ => admin.public().to_vec(),
            };
            signatures.push((by, admin.sign(&message)));
        }
        signatures.sort();
        signatures.dedup_by(|a, b| a.0 == b.0);
        let mut writer = Writer::default();
        writer.put(&body);
        writer.count_u8(signatures.len(), "signatures")?;
        for (by, signature) in signatures {
            writer.put(by);
            writer.put(signature);
        }
        let bytes = writer.bytes().to_vec();
        UnverifiedDocument::decode(&bytes).map_err(|error| {
            Error::with_source(Kind::Invalid, "this change gives a document that no host would take", error)
        })?;
        Ok(bytes)
    }

    /// Refuses a key that is not an admin's of this document. Returns its index.
    fn index_of(&self, public: &[u8; sign::PUBLIC_LEN]) -> Result<u8> {
        let index = self.admins.iter().position(|admin| admin == public).and_then(|index| u8::try_from(index).ok());
        let message = || format!("this admin key is not one of the cluster {}", self.name);
        index.ok_or_else(|| Error::new(Kind::Denied, message()))
    }

    /// The first version that can say all of it: hosts of older versions follow as long as they can.
    pub fn version(&self) -> u16 {
        let plain = self.admins_since == 0
            && self.resumed == 0
            && self.members.iter().all(|member| member.removal == Removal::default())
            && self.providers.iter().all(|provider| provider.only().is_some());
        match (self.pushed.is_empty(), plain) {
            (false, _) => 3,
            (true, false) => 2,
            (true, true) => 1,
        }
    }

    fn body(&self) -> Result<Vec<u8>> {
        let version = self.version();
        let mut writer = Writer::default();
        put_start_of(&mut writer, &MAGIC, version);
        writer.put(self.epoch.to_le_bytes());
        writer.put(self.cluster.as_bytes());
        writer.put(self.previous);
        put_text(&mut writer, self.name.as_str())?;
        writer.put([self.threshold]);
        writer.count_u8(self.admins.len(), "admins")?;
        self.admins.iter().for_each(|admin| writer.put(admin));
        if version > 1 {
            writer.put(self.admins_since.to_le_bytes());
            writer.put(self.resumed.to_le_bytes());
        }
        writer.count_u16(self.members.len(), "members")?;
        for member in &self.members {
            writer.put([member.state.code()]);
            if version > 1 {
                writer.put([member.removal.bits()]);
            }
            writer.put(member.since.to_le_bytes());
            writer.put(member.token.0);
            member.host.write(&mut writer)?;
        }
        writer.count_u8(self.providers.len(), "providers")?;
        self.providers.iter().try_for_each(|provider| provider.write(&mut writer, version))?;
        if version > 2 {
            writer.count_u8(self.pushed.len(), "pushed providers")?;
            self.pushed.iter().try_for_each(|pushed| pushed.write(&mut writer))?;
        }
        Ok(writer.bytes().to_vec())
    }

    /// What an encoding cannot be without, and a reader relies on.
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(Kind::Corrupt, what));
        let ascends = |found: bool, what: &str| match found {
            true => Ok(()),
            false => wrong(format!("{what} are not in ascending order, each once")),
        };
        if self.epoch == 0 || (self.epoch == 1) != (self.previous == [0; 32]) {
            return wrong(format!("epoch {} and a document before it do not fit each other", self.epoch));
        }
        if !(1..=MAX_ADMINS).contains(&self.admins.len()) || self.members.len() > MAX_MEMBERS {
            let (admins, members) = (self.admins.len(), self.members.len());
            return wrong(format!(
                "{admins} admins and {members} members, expected 1 to {MAX_ADMINS} and at most {MAX_MEMBERS}"
            ));
        }
        if !(1..=self.admins.len()).contains(&usize::from(self.threshold)) {
            return wrong(format!("a threshold of {} of {} admins", self.threshold, self.admins.len()));
        }
        ascends(self.admins.is_sorted_by(|a, b| a < b), "admins")?;
        ascends(self.members.is_sorted_by(|a, b| a.host.uuid < b.host.uuid), "members")?;
        ascends(self.providers.is_sorted_by(|a, b| a.name < b.name), "providers")?;
        let mut names = BTreeSet::new();
        if let Some(twice) = self.active().find(|member| !names.insert(&member.host.name)) {
            return wrong(format!("two active hosts of the name {}", twice.host.name));
        }
        let marked = |member: &&Member| member.state == MemberState::Active && member.removal != Removal::default();
        if let Some(member) = self.members.iter().find(marked) {
            return wrong(format!("host {} is active and has marks of a removed one", member.host.name));
        }
        self.providers.iter().try_for_each(|provider| provider.check(self.epoch))?;
        let primaries: usize = self.providers.iter().map(|provider| provider.in_use().count()).sum();
        if primaries + self.pushed.len() > MAX_PRIMARIES {
            return wrong(format!(
                "{primaries} primary keys that are not retired and {} pushed providers, expected at most {MAX_PRIMARIES}",
                self.pushed.len()
            ));
        }
        self.check_pushed()?;
        let sinces = self.members.iter().map(|member| member.since).chain([self.admins_since, self.resumed]);
        match sinces.into_iter().find(|since| *since > self.epoch) {
            Some(since) => wrong(format!("something is so since epoch {since}, which is after epoch {}", self.epoch)),
            None => Ok(()),
        }
    }
}

impl Document {
    fn check_pushed(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(Kind::Corrupt, what));
        if !self.pushed.is_sorted_by(|a, b| a.name < b.name) {
            return wrong("pushed providers are not in ascending order, each once".into());
        }
        let primaries = self.providers.iter().flat_map(|shared| &shared.generations);
        let mut uuids: BTreeSet<Uuid> = primaries.map(|generation| generation.primary).collect();
        for pushed in &self.pushed {
            pushed.check(self.epoch, |host| self.member(host).is_some())?;
            if self.providers.iter().any(|shared| shared.name == pushed.name) || !uuids.insert(pushed.uuid) {
                return wrong(format!("pushed provider {} has the name or UUID of another one", pushed.name));
            }
        }
        Ok(())
    }
}

impl MemberState {
    fn code(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Removed => 2,
        }
    }

    fn of(code: u8) -> Result<Self> {
        match code {
            1 => Ok(Self::Active),
            2 => Ok(Self::Removed),
            _ => Err(Error::new(Kind::Corrupt, format!("a member in state {code}, expected 1 or 2"))),
        }
    }
}

/// A document of the right form. Nothing in it is proven: anyone who can write to the board can make one.
pub struct UnverifiedDocument {
    document: Document,
    hash: [u8; 32],
    body: Vec<u8>,
    signatures: Vec<Signature>,
}

struct Signature {
    /// `None`: by an admin that the document does not have.
    by: Option<[u8; sign::PUBLIC_LEN]>,
    signature: [u8; sign::SIGNATURE_LEN],
}

impl UnverifiedDocument {
    /// Checks everything that needs no other document.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no document of version 1 to 3 has, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_len(bytes, MAX_DOCUMENT_LEN, "a cluster document")?;
        let mut reader = Reader::new(bytes);
        let version = check_start_of(&mut reader, MAGIC, VERSIONS, "a cluster document")?;
        let epoch = reader.u64()?;
        let cluster = Uuid::from_bytes(reader.array()?);
        let previous = reader.array()?;
        let name = name(&mut reader, "cluster")?;
        let threshold = reader.u8()?;
        let admins: Vec<_> = (0..reader.u8()?).map(|_| reader.array()).collect::<Result<_>>()?;
        let (admins_since, resumed) = if version > 1 { (reader.u64()?, reader.u64()?) } else { (0, 0) };
        let members = (0..reader.u16()?).map(|_| member(&mut reader, version)).collect::<Result<_>>()?;
        let providers = (0..reader.u8()?).map(|_| provider(&mut reader, version)).collect::<Result<_>>()?;
        let pushed = match version {
            3.. => (0..reader.u8()?).map(|_| PushedProvider::read(&mut reader)).collect::<Result<_>>()?,
            _ => Vec::new(),
        };
        let document = Document {
            epoch,
            cluster,
            previous,
            name,
            threshold,
            admins,
            admins_since,
            resumed,
            members,
            providers,
            pushed,
        };
        document.check()?;
        if document.version() != version {
            let message =
                format!("a document of version {version} that says nothing which version {} cannot", version - 1);
            return Err(Error::new(Kind::Corrupt, message));
        }
        let body = document.body()?; // the encoding is unique, so this is what stands there
        let signatures = signatures(&mut reader, version, &document.admins)?;
        reader.end()?;
        Ok(Self { hash: sha256(&body), document, body, signatures })
    }

    /// SHA-256 of the body, by which the next document and hosts know this one.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Its number, of which nothing is proven.
    pub fn epoch(&self) -> u64 {
        self.document.epoch
    }

    /// Whether it says that a board which has gone back is accepted, of which nothing is proven.
    pub fn accepts_board(&self) -> bool {
        self.document.resumed == self.document.epoch
    }

    /// The document, if it is the one of this number and hash.
    ///
    /// # Errors
    /// `Denied` when it is another one.
    pub fn known(self, epoch: u64, hash: &[u8; 32]) -> Result<Document> {
        if self.document.epoch != epoch || self.hash != *hash {
            return Err(Error::new(
                Kind::Denied,
                format!("it is another document than document {epoch} that this host knows: the board was changed"),
            ));
        }
        self.signed_by_its_admins()
    }

    /// The document, if it follows this one whose hash is given, and its admins have signed it.
    ///
    /// # Errors
    /// `Denied` when it does not follow, or too few have signed.
    pub fn following(self, before: &Document, hash: &[u8; 32]) -> Result<Document> {
        let found = &self.document;
        let wrong = |what: String| Err(Error::new(Kind::Denied, what));
        if found.cluster != before.cluster || found.name != before.name {
            return wrong(format!(
                "it is of cluster {} ({}), expected {} ({})",
                found.name, found.cluster, before.name, before.cluster
            ));
        }
        if before.epoch.checked_add(1) != Some(found.epoch) || found.previous != *hash {
            return wrong(format!("document {} does not follow document {}", found.epoch, before.epoch));
        }
        let same_admins = found.admins == before.admins && found.threshold == before.threshold;
        if found.admins_since != if same_admins { before.admins_since } else { found.epoch } {
            return wrong("it has other admins than the document before it, and does not say so".into());
        }
        if found.resumed != before.resumed {
            return wrong("it says that a board was accepted, in the place of the next document".into());
        }
        self.require_signatures(before)?;
        self.signed_by_its_admins()
    }

    /// The document, if the admins of this one that a host has seen say by it that a board which has gone back is accepted.
    ///
    /// # Errors
    /// `Denied` when it is of another cluster or not later than what was seen, or too few have signed.
    pub fn resuming(self, seen: &Document) -> Result<Document> {
        let found = &self.document;
        if found.cluster != seen.cluster || found.name != seen.name {
            return Err(Error::new(Kind::Denied, format!("it is of cluster {} ({})", found.name, found.cluster)));
        }
        if found.resumed != found.epoch || found.epoch <= seen.epoch {
            let (epoch, seen) = (found.epoch, seen.epoch);
            let message =
                format!("document {epoch} does not accept the board for a host that has seen document {seen}");
            return Err(Error::new(Kind::Denied, message));
        }
        self.require_signatures(seen)?;
        self.signed_by_its_admins()
    }

    fn signed_by_its_admins(self) -> Result<Document> {
        self.require_signatures(&self.document)?;
        Ok(self.document)
    }

    /// As many admins of a document as that demands.
    fn require_signatures(&self, of: &Document) -> Result<()> {
        let message = signed(&self.body);
        let is_good = |signature: &&Signature| {
            signature.by.is_some_and(|by| of.admins.contains(&by) && verifies(&by, &message, &signature.signature))
        };
        let good = self.signatures.iter().filter(is_good).count();
        let needed = usize::from(of.threshold);
        match good < needed {
            true => Err(Error::new(
                Kind::Denied,
                format!(
                    "{good} of {} signatures are by admins of the cluster, expected {needed}",
                    self.signatures.len()
                ),
            )),
            false => Ok(()),
        }
    }
}

/// Version 1 has the index of an admin, later ones the admin's key: one that leaves signs as well.
fn signatures(reader: &mut Reader<'_>, version: u16, admins: &[[u8; sign::PUBLIC_LEN]]) -> Result<Vec<Signature>> {
    let mut signatures = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..reader.u8()? {
        let (order, by) = match version {
            1 => {
                let index = reader.u8()?;
                (vec![index], admins.get(usize::from(index)).copied())
            }
            _ => {
                let by: [u8; sign::PUBLIC_LEN] = reader.array()?;
                (by.to_vec(), Some(by))
            }
        };
        if last.as_ref().is_some_and(|last| *last >= order) {
            return Err(Error::new(Kind::Corrupt, "signatures are not in ascending order, each once"));
        }
        last = Some(order);
        signatures.push(Signature { by, signature: reader.array()? });
    }
    Ok(signatures)
}

fn signed(body: &[u8]) -> Vec<u8> {
    [PURPOSE, body].concat()
}

fn member(reader: &mut Reader<'_>, version: u16) -> Result<Member> {
    let state = MemberState::of(reader.u8()?)?;
    let removal = if version > 1 { Removal::of(reader.u8()?)? } else { Removal::default() };
    let since = reader.u64()?;
    let token = TokenId(reader.array()?);
    let host = HostIdentity::read(reader).context(|| "a member".into())?;
    Ok(Member { host, state, since, token, removal })
}
