//! The cluster's document: who is in it and what its hosts share, signed by its admins.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{HostIdentity, MAX_DOCUMENT_LEN, Name, TokenId, check_len, check_start, name, put_start, put_text, text};
use crate::crypto::derive::sha256;
use crate::crypto::sign::{self, SigningKey, verifies};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::ProviderName;

const MAGIC: [u8; 8] = *b"VMCRYPTD";
/// What a signature begins with, so that it is good for nothing else.
const PURPOSE: &[u8] = b"vmcryptfs cluster document 1\0";
const MAX_ADMINS: usize = 16;
const MAX_MEMBERS: usize = 4096;

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
    /// All hosts that ever were members, by ascending UUID.
    pub members: Vec<Member>,
    /// What the hosts share, by ascending name.
    pub providers: Vec<SharedProvider>,
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
}

/// Whether a host is a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemberState {
    /// It gets keys.
    Active,
    /// It gets none, and has to wipe what it has.
    Removed,
}

/// A native provider whose primary key the hosts share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SharedProvider {
    /// Its name, the same on all hosts.
    pub name: ProviderName,
    /// The UUID of its primary key.
    pub primary: Uuid,
    /// The epoch from which on it is shared.
    pub since: u64,
    /// What only the primary key gives: no host takes another one.
    pub check: [u8; 32],
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

    /// The document, signed by one admin.
    ///
    /// # Errors
    /// `Invalid` when a limit of the format is exceeded, an order is broken, or the key is not an admin's.
    pub fn sign(&self, admin: &SigningKey) -> Result<Vec<u8>> {
        let body = self.body()?;
        let index = self.admins.iter().position(|public| *public == admin.public()).ok_or_else(|| {
            Error::new(Kind::Denied, format!("this admin key is not one of the cluster {}", self.name))
        })?;
        let mut writer = Writer::default();
        writer.put(&body);
        writer.count_u8(1, "signatures")?;
        writer.count_u8(index, "admins")?;
        writer.put(admin.sign(&signed(&body)));
        let bytes = writer.bytes().to_vec();
        UnverifiedDocument::decode(&bytes).map_err(|error| {
            Error::with_source(Kind::Invalid, "this change gives a document that no host would take", error)
        })?;
        Ok(bytes)
    }

    fn body(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        put_start(&mut writer, &MAGIC);
        writer.put(self.epoch.to_le_bytes());
        writer.put(self.cluster.as_bytes());
        writer.put(self.previous);
        put_text(&mut writer, self.name.as_str())?;
        writer.put([self.threshold]);
        writer.count_u8(self.admins.len(), "admins")?;
        self.admins.iter().for_each(|admin| writer.put(admin));
        writer.count_u16(self.members.len(), "members")?;
        for member in &self.members {
            writer.put([member.state.code()]);
            writer.put(member.since.to_le_bytes());
            writer.put(member.token.0);
            member.host.write(&mut writer)?;
        }
        writer.count_u8(self.providers.len(), "providers")?;
        for provider in &self.providers {
            writer.put(provider.primary.as_bytes());
            writer.put(provider.since.to_le_bytes());
            writer.put(provider.check);
            put_text(&mut writer, provider.name.as_str())?;
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
        let sinces = self.members.iter().map(|member| member.since);
        match sinces.chain(self.providers.iter().map(|provider| provider.since)).find(|since| *since > self.epoch) {
            Some(since) => wrong(format!("something is so since epoch {since}, which is after epoch {}", self.epoch)),
            None => Ok(()),
        }
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
    signatures: Vec<(u8, [u8; sign::SIGNATURE_LEN])>,
}

impl UnverifiedDocument {
    /// Checks everything that needs no other document.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 document has, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_len(bytes, MAX_DOCUMENT_LEN, "a cluster document")?;
        let mut reader = Reader::new(bytes);
        check_start(&mut reader, MAGIC, "a cluster document")?;
        let epoch = reader.u64()?;
        let cluster = Uuid::from_bytes(reader.array()?);
        let previous = reader.array()?;
        let name = name(&mut reader, "cluster")?;
        let threshold = reader.u8()?;
        let admins = (0..reader.u8()?).map(|_| reader.array()).collect::<Result<_>>()?;
        let members = (0..reader.u16()?).map(|_| member(&mut reader)).collect::<Result<_>>()?;
        let providers = (0..reader.u8()?).map(|_| provider(&mut reader)).collect::<Result<_>>()?;
        let document = Document { epoch, cluster, previous, name, threshold, admins, members, providers };
        document.check()?;
        let body = document.body()?; // the encoding is unique, so this is what stands there
        let signatures = (0..reader.u8()?).map(|_| Ok((reader.u8()?, reader.array()?))).collect::<Result<Vec<_>>>()?;
        reader.end()?;
        if !signatures.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::new(Kind::Corrupt, "signatures are not in ascending order, each once"));
        }
        Ok(Self { hash: sha256(&body), document, body, signatures })
    }

    /// SHA-256 of the body, by which the next document and hosts know this one.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
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
        if found.admins != before.admins || found.threshold != before.threshold {
            return wrong("it has other admins than the document before it".into());
        }
        self.signed_by_its_admins()
    }

    fn signed_by_its_admins(self) -> Result<Document> {
        let message = signed(&self.body);
        let by_admin = |(index, signature): &&(u8, _)| {
            self.document.admins.get(usize::from(*index)).is_some_and(|admin| verifies(admin, &message, signature))
        };
        let good = self.signatures.iter().filter(by_admin).count();
        let needed = usize::from(self.document.threshold);
        if good < needed {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "{good} of {} signatures are by admins of the cluster, expected {needed}",
                    self.signatures.len()
                ),
            ));
        }
        Ok(self.document)
    }
}

fn signed(body: &[u8]) -> Vec<u8> {
    [PURPOSE, body].concat()
}

fn member(reader: &mut Reader<'_>) -> Result<Member> {
    let state = MemberState::of(reader.u8()?)?;
    let since = reader.u64()?;
    let token = TokenId(reader.array()?);
    let host = HostIdentity::read(reader).context(|| "a member".into())?;
    Ok(Member { host, state, since, token })
}

fn provider(reader: &mut Reader<'_>) -> Result<SharedProvider> {
    let primary = Uuid::from_bytes(reader.array()?);
    let (since, check) = (reader.u64()?, reader.array()?);
    let name = ProviderName::new(text(reader, "provider")?);
    let name = name.map_err(|error| Error::with_source(Kind::Corrupt, "a shared provider", error))?;
    Ok(SharedProvider { name, primary, since, check })
}
