//! When the board is looked at again: after a while, or at once where it tells of changes.

use std::path::Path;
use std::thread;
use std::time::Duration;

use vmcryptfs::cluster::board::address::Address;
use vmcryptfs::cluster::board::agent::tls_of;
use vmcryptfs::cluster::board::{Board, Watch};
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::error::Result;

use crate::board::etcd::EtcdBoard;

/// The watch of a board that tells of changes, if this host's is one.
#[derive(Default)]
pub(super) struct Wake {
    watched: Option<(String, Box<dyn Watch>)>,
}

impl Wake {
    /// Waits until the board has changed, or for `period`. A board that cannot be watched is looked at after that, as one that
    /// tells of nothing.
    pub(super) fn wait(&mut self, config: &Path, period: Duration) {
        let waited = self.watch(config).and_then(|watch| watch.map(|watch| watch.wait(period)).transpose());
        if !matches!(waited, Ok(Some(_))) {
            self.watched = None; // its certificates may be others then
            thread::sleep(period);
        }
    }

    fn watch(&mut self, config: &Path) -> Result<Option<&mut Box<dyn Watch>>> {
        let place = HostFiles::of(config).membership()?.map(|membership| (membership.board, membership.cluster));
        let Some((place, cluster)) = place else { return Ok(None) };
        if self.watched.as_ref().is_none_or(|(watched, _)| *watched != place) {
            let Address::Etcd(endpoints) = Address::parse(&place)? else { return Ok(None) };
            let watch = EtcdBoard::reach(endpoints, tls_of(config)?, cluster)?.watch()?;
            self.watched = Some((place, watch));
        }
        Ok(self.watched.as_mut().map(|(_, watch)| watch))
    }
}
