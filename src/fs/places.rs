//! How many backing files may be open for the programs that use a mount: one that opens as many as it can must not leave none to
//! others, nor to what the mount itself has to open, which is folders, headers and its control socket.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::sys::process;

/// Most descriptors that are kept back. Of a low limit a quarter is.
const MAX_RESERVE: u64 = 1024;

/// Counts what is open for each user.
pub(super) struct Places {
    taken: Arc<Mutex<HashMap<u32, u64>>>,
    /// Descriptors that an open file has.
    each: u64,
}

/// An open file's place, which is free again when this is dropped.
pub(super) struct Place {
    taken: Arc<Mutex<HashMap<u32, u64>>>,
    uid: u32,
}

impl Places {
    pub(super) fn new(each: u64) -> Self {
        Self { taken: Arc::default(), each }
    }

    /// Takes a place for a user.
    ///
    /// # Errors
    /// `Io`: `EMFILE` where the user has seven of eight places, `ENFILE` where none is left.
    pub(super) fn take(&self, uid: u32) -> Result<Place> {
        let most = most_places(process::file_limit(), self.each);
        let mut taken = self.taken.lock();
        let refused = |errno, whose: &str, number: u64| {
            Error::io(
                format!("{number} files are open for {whose}; the rest is for others"),
                std::io::Error::from_raw_os_error(errno),
            )
        };
        let all: u64 = taken.values().sum();
        let own = taken.entry(uid).or_default();
        if *own >= most - most / 8 {
            return Err(refused(libc::EMFILE, &format!("user {uid}"), *own));
        }
        if all >= most {
            return Err(refused(libc::ENFILE, "all users", all));
        }
        *own += 1;
        Ok(Place { taken: Arc::clone(&self.taken), uid })
    }
}

/// Files that may be open under a limit on descriptors.
fn most_places(limit: u64, each: u64) -> u64 {
    (limit - reserve(limit)) / each
}

fn reserve(limit: u64) -> u64 {
    (limit / 4).min(MAX_RESERVE)
}

/// Whether a descriptor that was just opened is one of those that are kept back: the lowest free number is always the next.
pub(super) fn is_of_reserve(file: &File) -> bool {
    let limit = process::file_limit();
    u64::try_from(file.as_raw_fd()).is_ok_and(|number| number >= limit - reserve(limit))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_some_all_users_leave_a_reserve_and_what_is_given_back_is_free() {
        let each = process::file_limit() / 80;
        let places = Places::new(each);
        let most = usize::try_from(most_places(process::file_limit(), each)).unwrap();
        assert!((30..=80).contains(&most), "{most}");
        let take = |uid| places.take(uid).map_err(|error| error.os_error());
        let mut held: Vec<Place> = (0..most - most / 8).map(|_| take(1).unwrap()).collect();
        assert_eq!(take(1).err(), Some(Some(libc::EMFILE)));
        held.extend((0..most / 8).map(|_| take(2).unwrap()));
        assert_eq!(take(3).err(), Some(Some(libc::ENFILE)));
        held.remove(0);
        drop(take(3).unwrap());
        drop(held);
        assert!(places.taken.lock().is_empty());
    }

    #[test]
    fn the_first_descriptors_are_of_no_reserve() {
        assert!(!is_of_reserve(&File::open("/dev/null").unwrap()));
    }

    #[test]
    fn of_a_low_limit_a_quarter_is_kept_back() {
        assert_eq!(most_places(1024, 1), 768);
        assert_eq!(most_places(1 << 20, 2), (1 << 19) - 512);
    }
}
