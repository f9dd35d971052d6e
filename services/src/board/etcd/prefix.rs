//! Names of records as keys of etcd: below `/vmcryptfs/CLUSTER/`.

use uuid::Uuid;
use vmcryptfs::cluster::board::Key;

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Prefix {
    pub(super) fn of(cluster: Uuid) -> Self {
        Self::new(format!("/vmcryptfs/{cluster}/").into_bytes())
    }

    fn new(start: Vec<u8>) -> Self {
        let mut end = start.clone();
        if let Some(last) = end.last_mut() {
            *last += 1; // it is '/'
        }
        Self { start, end }
    }

    /// The first of them.
    pub(super) fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first one after all of them.
    pub(super) fn end(&self) -> &[u8] {
        &self.end
    }

    /// Those of a part of the board. Of the whole, where its name is empty.
    pub(super) fn under(&self, part: &str) -> Self {
        if part.is_empty() { self.clone() } else { Self::new([&self.start, part.as_bytes(), b"/"].concat()) }
    }

    /// The keys from those of one part of the board to those of a later one, and all in between.
    pub(super) fn spanning(&self, first: &str, last: &str) -> Self {
        Self { start: self.under(first).start, end: self.under(last).end }
    }

    /// The key of a record.
    pub(super) fn of_key(&self, key: &Key) -> Vec<u8> {
        [&self.start, key.as_str().as_bytes()].concat()
    }

    /// The record of a key, if it is one.
    pub(super) fn key(&self, key: &[u8]) -> Option<Key> {
        Key::parse(std::str::from_utf8(key.strip_prefix(&self.start[..])?).ok()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_others_are_none() {
        let prefix = Prefix::of(Uuid::nil());
        let key = Key::ack(Uuid::nil());
        let text = prefix.of_key(&key);
        assert_eq!(prefix.key(&text), Some(key));
        assert!(prefix.start() < &text[..] && &text[..] < prefix.end());
        let hosts = prefix.under("host");
        assert!(hosts.start() < &text[..] && &text[..] < hosts.end() && prefix.under("").end() == prefix.end());
        assert!(&prefix.of_key(&Key::parse("hosts/a").unwrap())[..] > hosts.end());
        let range = prefix.spanning("document", "envelope");
        let is_in = |name: &str| {
            let key = prefix.of_key(&Key::parse(name).unwrap());
            range.start() <= &key[..] && &key[..] < range.end()
        };
        assert!(["document/1", "envelope/a/b/c"].into_iter().all(is_in));
        assert!(!["alive", "host/a/ack", "join/1", "kek/corp/a/1", "resumed", "want/corp/a"].into_iter().any(is_in));
        for other in ["/vmcryptfs/other/a", "/vmcryptfs/00000000-0000-0000-0000-000000000000/../a", ""] {
            assert_eq!(prefix.key(other.as_bytes()), None);
        }
        assert_eq!(prefix.key(&[prefix.start(), &[0xff]].concat()), None);
    }
}
