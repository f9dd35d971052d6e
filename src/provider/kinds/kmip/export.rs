//! KEKs for other hosts of a cluster, which have no credentials of the key server.

use std::time::Duration;

use uuid::Uuid;

use super::kek::{NO_RANDOM, is_constant};
use super::{KmipProvider, Made, Session};
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::KeyId;
use crate::provider::{ExportedKek, Failure, KeyState, NewKey};

/// How long the servers are waited for: another host waits for the answer.
const LIMIT: Duration = Duration::from_secs(6);

impl KmipProvider {
    /// A KEK, and whether it is in a state in which keys wrap.
    pub(super) fn export(&self, key_id: &KeyId) -> Result<ExportedKek> {
        self.require_no_share()?;
        let uid = self.uid(key_id)?.to_owned();
        let (key, state) = self
            .cluster
            .read_within(LIMIT, move |session| {
                let key = session.get(&uid)?;
                Ok((key, session.state(&uid)?))
            })
            .map_err(|failure| failure.into_error(format!("key {key_id} is unavailable")))?;
        let wraps = state == KeyState::Active && !is_constant(&key);
        Ok(ExportedKek { kek: LocalKek::new(key)?, wraps })
    }

    /// Makes the KEK of a request, or finds the one that was made for it before: by this host, by another one, or by a request that
    /// somebody has sent again.
    pub(super) fn create_for(&self, request: Uuid, purpose: &NewKey) -> Result<(KeyId, LocalKek)> {
        self.require_no_share()?;
        let labels = self.settings.attributes_of_new(purpose);
        let (name, mut sent) = (format!("vmcryptfs:{request}"), false);
        let (uid, key) = self
            .cluster
            .call_within(LIMIT, |session| match session.locate(&name)? {
                Some(uid) if !sent => found(session, uid),
                _ => self.make(session, &name, &mut sent, &labels),
            })
            .map_err(|failure| failure.into_error(format!("key provider {} made no key", self.name)))?;
        Ok((KeyId::new(self.name.clone(), uid)?, LocalKek::new(key)?))
    }

    /// A host without the share would have another KEK than this one has under the same key id.
    fn require_no_share(&self) -> Result<()> {
        match self.share {
            None => Ok(()),
            Some(_) => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "provider {} has a kek-share, which a cluster does not carry: its keys cannot be pushed",
                    self.name
                ),
            )),
        }
    }
}

/// A key that was made before. Whatever its state, it is not discarded: VMs may have it.
fn found(session: &mut Session, uid: String) -> Made {
    session.activate(&uid)?;
    let key = session.get(&uid)?;
    match is_constant(&key) {
        true => Err(Failure::no_kek(NO_RANDOM)),
        false => Ok((uid, key)),
    }
}
