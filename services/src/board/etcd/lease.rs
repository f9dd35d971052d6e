//! Leases of etcd.

use std::sync::Arc;
use std::time::Duration;

use vmcryptfs::cluster::board::{Key, Lease};
use vmcryptfs::error::{Context, Error, Kind, Result};

use super::client::Client;
use super::messages::{self, path};
use super::prefix::Prefix;

/// A lease of this process.
pub(super) struct EtcdLease {
    client: Arc<Client>,
    prefix: Prefix,
    id: u64,
}

impl EtcdLease {
    /// etcd counts in seconds, and has a shortest time of its own, about 2 seconds.
    pub(super) fn begin(client: Arc<Client>, prefix: Prefix, time: Duration) -> Result<Self> {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let answer = client.call(path::GRANT, &messages::grant(seconds)).context(|| "beginning a lease".into())?;
        match messages::granted(&answer.bytes)? {
            0 => Err(Error::new(Kind::Corrupt, "etcd's answer is not one: a lease without an identity")),
            id => Ok(Self { client, prefix, id }),
        }
    }
}

impl Lease for EtcdLease {
    fn write(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        let put = messages::put(&self.prefix.of_key(key), value, self.id);
        self.client.call(path::PUT, &put).map(drop).context(|| format!("writing {key} to the board"))
    }

    fn keep_alive(&mut self) -> Result<bool> {
        let answer = self.client.call(path::KEEP_ALIVE, &messages::lease(self.id));
        Ok(messages::time_left(&answer.context(|| "keeping a lease alive".into())?.bytes)? > 0)
    }

    fn end(self: Box<Self>) -> Result<()> {
        match self.client.call(path::REVOKE, &messages::lease(self.id)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            ended => ended.map(drop).context(|| "ending a lease".into()),
        }
    }
}
