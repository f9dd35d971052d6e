//! When the board is looked at again: after a while, or soon after a change that concerns this host. One on etcd reports that; of one on a
//! folder, the few files are looked for that would be such a change.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;
use vmcryptfs::cluster::board::address::{Address, Endpoint};
use vmcryptfs::cluster::board::agent::tls_of;
use vmcryptfs::cluster::board::folder::{FolderBoard, Stamp};
use vmcryptfs::cluster::board::{Change, Key, Watch};
use vmcryptfs::cluster::host::{HostFiles, Membership};
use vmcryptfs::error::Result;
use vmcryptfs::format::cluster::{Document, EnvelopeFor};

use crate::board::etcd::EtcdBoard;

/// How often a folder is looked at. A look costs a few names; what every host writes again and again is not among them.
const FOLDER_INTERVAL: Duration = Duration::from_millis(500);

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Woken {
    /// The time is over.
    Timeout,
    /// There may be a newer document.
    Document,
    /// There may be a key for this host.
    Key,
}

/// The watch of a board that reports changes, if this host's is one.
#[derive(Default)]
pub(super) struct Wake {
    watched: Option<Watching>,
    folder: Option<(Watched, Marks)>,
}

/// A watch, and of what it is.
type Watching = (Watched, Box<dyn Watch>);

/// What is watched, and for which host.
#[derive(Clone, Eq, PartialEq)]
struct Watched {
    board: String,
    cluster: Uuid,
    host: Uuid,
}

impl Wake {
    /// Waits until something has changed that concerns this host, or for `period`. A board that cannot be watched is looked at after that,
    /// as one that reports nothing.
    pub(super) fn wait(&mut self, config: &Path, period: Duration) -> Woken {
        let end = Instant::now() + period;
        if let Ok(Some(woken)) = self.wait_at_board(config, end) {
            return woken;
        }
        self.watched = None; // its certificates may be others then
        thread::sleep(end.saturating_duration_since(Instant::now()));
        Woken::Timeout
    }

    /// The same; `None` for a host that is in no cluster.
    fn wait_at_board(&mut self, config: &Path, end: Instant) -> Result<Option<Woken>> {
        let files = HostFiles::of(config);
        let Some(membership) = files.membership()? else { return Ok(None) };
        let (cluster, host) = (membership.cluster, files.identity()?.uuid);
        let wanted = Watched { board: membership.board.clone(), cluster, host };
        match Address::parse(&membership.board)? {
            Address::Folder(path) => {
                let keys = keys_of(&membership, files.document(&membership)?.as_ref(), host);
                self.wait_at_folder(&FolderBoard::open(&path, cluster)?, wanted, &keys, end)
            }
            Address::Etcd(endpoints) => self.wait_at_etcd(endpoints, config, wanted, end),
        }
        .map(Some)
    }

    fn wait_at_folder(&mut self, board: &FolderBoard, wanted: Watched, keys: &[Key], end: Instant) -> Result<Woken> {
        let host = wanted.host;
        let former = self.folder.take().filter(|(former, _)| *former == wanted);
        let (_, marks) = self.folder.insert(former.unwrap_or_else(|| (wanted, Marks::default())));
        loop {
            let woken = marks.look(board, keys, host)?;
            let left = end.saturating_duration_since(Instant::now());
            if woken != Woken::Timeout || left.is_zero() {
                return Ok(woken);
            }
            thread::sleep(left.min(FOLDER_INTERVAL));
        }
    }

    fn wait_at_etcd(
        &mut self,
        endpoints: Vec<Endpoint>,
        config: &Path,
        wanted: Watched,
        end: Instant,
    ) -> Result<Woken> {
        if let Some((watched, watch)) = &mut self.watched
            && *watched == wanted
        {
            return wait_until(end, watch.as_mut(), wanted.host);
        }
        let board = EtcdBoard::reach(endpoints, tls_of(config)?, wanted.cluster)?;
        self.watched = Some((wanted, board.watch_documents_and_envelopes()?));
        // What changed after the last look and before the watch began is not reported.
        Ok(Woken::Key)
    }
}

/// The records by which a host has something to do: the next document, one that accepts the board, and the keys for it.
fn keys_of(membership: &Membership, document: Option<&Document>, host: Uuid) -> Vec<Key> {
    let cluster = membership.cluster;
    let mut keys = vec![Key::document(membership.epoch.saturating_add(1)), Key::resumed()];
    for shared in document.iter().flat_map(|document| &document.providers) {
        let of = |primary| Key::envelope(&EnvelopeFor { cluster, provider: &shared.name, primary, host });
        keys.extend(shared.in_use().map(|generation| of(generation.primary)));
    }
    keys
}

/// How records were when they were last looked at: before all was read that there was to read, so that no change is missed.
#[derive(Default)]
struct Marks(BTreeMap<Key, Stamp>);

impl Marks {
    fn look(&mut self, board: &FolderBoard, keys: &[Key], host: Uuid) -> Result<Woken> {
        let (mut now, mut woken) = (BTreeMap::new(), Woken::Timeout);
        for key in keys {
            let Some(stamp) = board.stamp(key)? else { continue };
            if self.0.get(key) != Some(&stamp) {
                woken = woken.max(woken_by(key, host));
            }
            now.insert(key.clone(), stamp);
        }
        self.0 = now;
        Ok(woken)
    }
}

/// What concerns other hosts only does not end the wait: of 1,000 hosts each would look at the board whenever one of them acknowledges.
fn wait_until(end: Instant, watch: &mut dyn Watch, host: Uuid) -> Result<Woken> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let woken = match watch.wait(left)? {
            Change::Records(keys) => keys.iter().map(|key| woken_by(key, host)).max().unwrap_or(Woken::Timeout),
            Change::Unknown => Woken::Key,
            Change::Nothing => Woken::Timeout,
        };
        if woken != Woken::Timeout || left.is_zero() {
            return Ok(woken);
        }
    }
}

/// What a change of a record means for a host. Others are looked at after each wait, as that of a board which has gone back, or when all is
/// compared, as acknowledgements.
fn woken_by(key: &Key, host: Uuid) -> Woken {
    let text = key.as_str();
    let is_for_host = || text.rsplit('/').next().is_some_and(|last| last == host.to_string());
    match text.split('/').next() {
        Some("document" | "resumed") => Woken::Document,
        Some("envelope") if is_for_host() => Woken::Key,
        _ => Woken::Timeout,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use vmcryptfs::cluster::board::Board;
    use vmcryptfs::format::cluster::EnvelopeFor;
    use vmcryptfs::key::ProviderName;

    use super::*;

    const HOST: Uuid = Uuid::from_bytes([7; 16]);

    /// Reports these changes, and then none.
    struct Reports(Vec<Change>);

    impl Watch for Reports {
        fn wait(&mut self, time: Duration) -> Result<Change> {
            let next = self.0.pop().unwrap_or(Change::Nothing);
            if next == Change::Nothing {
                thread::sleep(time);
            }
            Ok(next)
        }
    }

    #[test]
    fn on_a_folder_a_host_wakes_for_the_next_document_and_its_own_keys_each_time_that_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let board = FolderBoard::create(dir.path(), Uuid::nil()).unwrap();
        let (mut marks, keys) = (Marks::default(), [Key::document(2), Key::resumed(), envelope(HOST)]);
        let mut look = || marks.look(&board, &keys, HOST).unwrap();
        let write = |key: &Key, before: Option<&[u8]>| assert!(board.write_if_unchanged(key, before, b"a").unwrap());
        assert_eq!(look(), Woken::Timeout);
        [Key::document(3), Key::ack(HOST), envelope(Uuid::nil())].iter().for_each(|key| write(key, None));
        assert_eq!(look(), Woken::Timeout, "none of these concerns it");
        write(&keys[0], None);
        assert_eq!((look(), look()), (Woken::Document, Woken::Timeout));
        write(&keys[2], None);
        assert_eq!((look(), look()), (Woken::Key, Woken::Timeout));
        write(&keys[2], Some(b"a"));
        assert_eq!((look(), look()), (Woken::Key, Woken::Timeout), "another one in its place");
    }

    fn envelope(host: Uuid) -> Key {
        let provider = ProviderName::new("shared").unwrap();
        Key::envelope(&EnvelopeFor { cluster: Uuid::nil(), provider: &provider, primary: HOST, host })
    }

    /// Why a wait ends, and how many changes it has left.
    fn after(changes: &[&[Key]]) -> (Woken, usize) {
        let changes = changes.iter().rev().map(|keys| Change::Records(keys.iter().cloned().collect()));
        let mut watch = Reports(changes.collect());
        let woken = wait_until(Instant::now() + Duration::from_millis(20), &mut watch, HOST).unwrap();
        (woken, watch.0.len())
    }

    #[test]
    fn a_host_wakes_for_documents_and_its_own_keys_and_sleeps_on_for_those_of_others() {
        let of_others = [Key::ack(Uuid::nil()), Key::ack(HOST), Key::alive(HOST), envelope(Uuid::nil())];
        assert_eq!(after(&[&of_others, &of_others]), (Woken::Timeout, 0));
        assert_eq!(after(&[&of_others, &[Key::document(9)], &of_others]), (Woken::Document, 1));
        assert_eq!(after(&[&of_others, &[Key::document(9), envelope(HOST), Key::ack(HOST)]]), (Woken::Key, 0));
        let mut missed = Reports(vec![Change::Unknown]);
        assert_eq!(wait_until(Instant::now(), &mut missed, HOST).unwrap(), Woken::Key);
    }
}
