//! A board that is an etcd of several members, over gRPC with mutual TLS.
//!
//! Members are tried in turn; no call waits longer than seven seconds. A write compares the revision of the record's last change, so
//! of two writers one wins. Which certificate may write what is etcd's own affair (RBAC by the certificate's common name).
//! Nothing here may run on a thread of another asynchronous runtime: calls wait.

mod client;
mod connection;
mod failure;
mod lease;
mod messages;
mod prefix;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use vmcryptfs::cluster::board::address::Endpoint;
use vmcryptfs::cluster::board::{Board, Key, Lease, MAX_RECORD, MemberHealth, Watch};
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::tls_files::TlsFiles;

use client::{CALL_TIME, Client};
use connection::within;
use failure::Failure;
use lease::EtcdLease;
use messages::{Status, path};
use prefix::Prefix;
use watch::EtcdWatch;

/// Names that are asked for at once.
const PAGE: usize = 1000;

/// The board of one cluster.
pub struct EtcdBoard {
    client: Arc<Client>,
    prefix: Prefix,
}

/// A record, and the revision of its last change: 0 where it is not there.
struct Found {
    value: Option<Vec<u8>>,
    revision: u64,
}

impl EtcdBoard {
    /// A new cluster needs no more: nothing is written for a prefix of keys.
    ///
    /// # Errors
    /// `Exists` when the cluster is on the board.
    pub(crate) fn expect_new(&self) -> Result<()> {
        match self.list("", 1)?.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Kind::Exists, "the board's etcd has a cluster of that UUID already")),
        }
    }

    /// # Errors
    /// `NotFound` when the cluster is not on the board.
    pub(crate) fn expect_known(&self) -> Result<()> {
        match self.list("document", 1)?.is_empty() {
            false => Ok(()),
            true => Err(Error::new(
                Kind::NotFound,
                "the board's etcd does not have this host's cluster: it is another etcd, or its content is gone",
            )),
        }
    }

    /// A board that is there or not.
    ///
    /// # Errors
    /// Those of [`TlsFiles::client`].
    pub fn reach(endpoints: Vec<Endpoint>, files: TlsFiles, cluster: Uuid) -> Result<Self> {
        files.client()?; // its errors are clearer than those of a connection
        Ok(Self { client: Arc::new(Client::new(endpoints, files)?), prefix: Prefix::of(cluster) })
    }

    /// Begins to watch documents and envelopes only. Others are most of what is written, and each host would get all of it.
    ///
    /// # Errors
    /// Those of [`Board::watch`].
    pub(crate) fn watch_documents_and_envelopes(&self) -> Result<Box<dyn Watch>> {
        self.watch_range(self.prefix.spanning("document", "envelope"))
    }

    fn watch_range(&self, range: Prefix) -> Result<Box<dyn Watch>> {
        Ok(Box::new(EtcdWatch::begin(Arc::clone(&self.client), self.prefix.clone(), range)?))
    }

    fn find(&self, key: &Key) -> Result<Found> {
        let name = self.prefix.of_key(key);
        let answer = self.client.call(path::RANGE, &messages::get(&name))?;
        let (found, _) = messages::range(&answer.bytes)?;
        match found.as_slice() {
            [] => Ok(Found { value: None, revision: 0 }),
            [one] if one.key == name && one.value.len() > MAX_RECORD => {
                let len = one.value.len();
                Err(Error::new(Kind::Corrupt, format!("it has {len} bytes, expected at most {MAX_RECORD}")))
            }
            [one] if one.key == name && one.revision > 0 => {
                Ok(Found { value: Some(one.value.to_vec()), revision: one.revision })
            }
            _ => Err(Error::new(Kind::Corrupt, "etcd's answer is not one: it has other keys than the one asked for")),
        }
    }

    async fn status_of(client: &Client, member: usize) -> std::result::Result<Status, Failure> {
        let connection = client.connect(member).await?;
        let answer = within(CALL_TIME, "asking", connection.call(path::STATUS, &messages::empty())).await?;
        Status::decode(&answer).map_err(Failure::Ours)
    }
}

impl Board for EtcdBoard {
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        Ok(self.find(key).context(|| format!("reading {key} of the board"))?.value)
    }

    /// When it fails, the record may have been written: a member that took it may have ended before it said so.
    fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool> {
        let writing = || format!("writing {key} to the board");
        let found = self.find(key).context(writing)?;
        if found.value.as_deref() != before {
            return Ok(false);
        }
        let put = messages::put_if_unchanged(&self.prefix.of_key(key), found.revision, after);
        let is_there = || self.find(key).map(|found| found.value.as_deref() == Some(after));
        match self.client.call(path::TXN, &put) {
            Ok(answer) if messages::succeeded(&answer.bytes).context(writing)? => Ok(true),
            // A second attempt finds what the first one has written.
            Ok(answer) => Ok(answer.was_repeated && is_there().context(writing)?),
            // The write with which etcd becomes full is carried out, and refused all the same.
            Err(error) => match is_there() {
                Ok(true) => Ok(true),
                _ => Err(error).context(writing),
            },
        }
    }

    fn remove(&self, key: &Key) -> Result<()> {
        let delete = messages::delete(&self.prefix.of_key(key));
        self.client.call(path::DELETE, &delete).map(drop).context(|| format!("removing {key} from the board"))
    }

    fn list(&self, under: &str, most: usize) -> Result<Vec<Key>> {
        let listing = || format!("listing {under} of the board");
        let part = self.prefix.under(under);
        let mut from = part.start().to_vec();
        let (mut keys, mut left) = (Vec::new(), most);
        while left > 0 {
            let names = messages::names(&from, part.end(), left.min(PAGE));
            let answer = self.client.call(path::RANGE, &names).context(listing)?;
            let (found, more) = messages::range(&answer.bytes).context(listing)?;
            keys.extend(found.iter().filter_map(|found| self.prefix.key(found.key)));
            left = left.saturating_sub(found.len());
            match found.last().filter(|last| more && last.key >= &from[..]) {
                Some(last) => from = [last.key, &[0]].concat(),
                None => break,
            }
        }
        Ok(keys)
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        self.watch_range(self.prefix.clone())
    }

    fn lease(&self, time: Duration) -> Result<Box<dyn Lease>> {
        Ok(Box::new(EtcdLease::begin(Arc::clone(&self.client), self.prefix.clone(), time)?))
    }

    fn health(&self) -> Vec<MemberHealth> {
        let members = 0..self.client.endpoints().len();
        let asked: Vec<_> = members
            .map(|member| {
                let client = Arc::clone(&self.client);
                self.client.runtime().spawn(async move { Self::status_of(&client, member).await })
            })
            .collect();
        let asked = self.client.endpoints().iter().zip(asked);
        asked
            .map(|(endpoint, asked)| {
                let member = format!("https://{endpoint}");
                let trouble = match self.client.runtime().block_on(asked) {
                    Ok(Ok(status)) => {
                        return MemberHealth { member, trouble: trouble_of(&status), version: status.version };
                    }
                    Ok(Err(Failure::Unreachable(trouble) | Failure::Untrusted(trouble))) => trouble,
                    Ok(Err(Failure::Refused(status))) => status.into_error().chain(),
                    Ok(Err(Failure::Ours(error))) => error.chain(),
                    Err(error) => error.to_string(),
                };
                MemberHealth { member, trouble: Some(trouble), version: String::new() }
            })
            .collect()
    }
}

fn trouble_of(status: &Status) -> Option<String> {
    let mut troubles = status.errors.clone();
    if !status.has_leader && troubles.is_empty() {
        troubles.push("it has no leader: too few members are there".into());
    }
    (!troubles.is_empty()).then(|| troubles.join("; "))
}
