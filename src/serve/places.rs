//! How many backing files may be open for the programs that use a mount: one that opens as many as it can must not leave none to
//! others, nor to what the mount itself has to open, which is folders, headers and its control socket.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::process;

/// Most descriptors that are kept back. Of a low limit a quarter is.
const MAX_RESERVE: u64 = 1024;

/// Counts what is open for each user. Root, and the mount's own user, have places that others cannot take; of those others no one
/// gets all, and listings have some that no files take.
pub struct Places {
    taken: Arc<Mutex<Taken>>,
    /// Descriptors that an open file has.
    each: u64,
}

#[derive(Default)]
struct Taken {
    files: HashMap<u32, u64>,
    /// Those of [`most_listings`].
    listings: HashMap<u32, u64>,
}

impl Taken {
    fn of(&mut self, what: PlaceKind) -> &mut HashMap<u32, u64> {
        match what {
            PlaceKind::File => &mut self.files,
            PlaceKind::Listing => &mut self.listings,
        }
    }
}

#[derive(Clone, Copy)]
enum PlaceKind {
    File,
    Listing,
}

/// An open file's place, which is free again when this is dropped.
pub struct Place {
    taken: Arc<Mutex<Taken>>,
    what: PlaceKind,
    uid: u32,
}

impl Places {
    pub fn new(each: u64) -> Self {
        Self { taken: Arc::default(), each }
    }

    /// Takes a place for a user.
    ///
    /// # Errors
    /// `Io`: `EMFILE` where the user has seven of eight places, `ENFILE` where none is left.
    pub fn take(&self, uid: u32) -> Result<Place> {
        let most = most_places(process::file_limit(), self.each);
        let mut taken = self.taken.lock();
        let all: u64 = taken.files.values().chain(taken.listings.values()).sum();
        let (used, most_used) = match is_privileged(uid) {
            true => (all, most),
            false => {
                let others = taken.files.iter().filter(|(uid, _)| !is_privileged(**uid));
                (others.map(|(_, number)| number).sum(), most - most / 8)
            }
        };
        let own = taken.files.get(&uid).copied().unwrap_or_default();
        if own >= most_used - most_used / 8 {
            return Err(refused(Errno::MFILE, &format!("user {uid}"), own));
        }
        if used >= most_used || all >= most {
            return Err(refused(Errno::NFILE, "all users", used));
        }
        Ok(self.add(&mut taken, PlaceKind::File, uid))
    }

    /// Takes a place for the listing of a directory, one that no file can have if there is no other.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_listing(&self, uid: u32) -> Result<Place> {
        self.take(uid).or_else(|error| {
            let most = most_listings(most_places(process::file_limit(), self.each));
            let mut taken = self.taken.lock();
            let (all, own) =
                (taken.listings.values().sum::<u64>(), taken.listings.get(&uid).copied().unwrap_or_default());
            if all >= most || own >= most.div_ceil(2) {
                Err(error)
            } else {
                Ok(self.add(&mut taken, PlaceKind::Listing, uid))
            }
        })
    }

    fn add(&self, taken: &mut Taken, what: PlaceKind, uid: u32) -> Place {
        *taken.of(what).entry(uid).or_default() += 1;
        Place { taken: Arc::clone(&self.taken), what, uid }
    }
}

fn refused(number: Errno, whose: &str, open: u64) -> Error {
    Error::errno(format!("{open} files are open for {whose}; the rest is for others"), number)
}

fn is_privileged(uid: u32) -> bool {
    uid == 0 || uid == process::effective_uid()
}

/// Of all places, those that only listings get: half of what files of ordinary users leave.
fn most_listings(most: u64) -> u64 {
    most / 16
}

/// Files that may be open under a limit on descriptors.
fn most_places(limit: u64, each: u64) -> u64 {
    (limit - reserve(limit)) / each
}

fn reserve(limit: u64) -> u64 {
    (limit / 4).min(MAX_RESERVE)
}

/// Whether a descriptor that was just opened is one of those that are kept back: the lowest free number is always the next.
pub fn is_of_reserve(file: &File) -> bool {
    let limit = process::file_limit();
    u64::try_from(file.as_raw_fd()).is_ok_and(|number| number >= limit - reserve(limit))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        let of_what = taken.of(self.what);
        if let Some(own) = of_what.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                of_what.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_some_all_users_leave_a_reserve_and_what_is_given_back_is_free() {
        let each = process::file_limit() / 160;
        let places = Places::new(each);
        let most = usize::try_from(most_places(process::file_limit(), each)).unwrap();
        assert!((60..=160).contains(&most), "{most}");
        // None of these is the user of this test.
        let users: Vec<u32> = (70_001..).filter(|uid| !is_privileged(*uid)).take(3).collect();
        let take = |uid| places.take(uid).map_err(|error| error.os_error());
        let for_users = most - most / 8;
        let mut held: Vec<Place> = (0..for_users - for_users / 8).map(|_| take(users[0]).unwrap()).collect();
        assert_eq!(take(users[0]).err(), Some(Some(libc::EMFILE)));
        held.extend((0..for_users / 8).map(|_| take(users[1]).unwrap()));
        for uid in &users[1..] {
            assert_eq!(take(*uid).err(), Some(Some(libc::ENFILE)));
            held.push(places.take_listing(*uid).unwrap());
        }
        while let Ok(place) = places.take_listing(users[0]) {
            held.push(place);
        }
        for uid in [0, process::effective_uid()] {
            held.push(take(uid).unwrap());
            held.push(places.take_listing(uid).unwrap());
        }
        held.remove(0);
        drop(take(users[2]).unwrap());
        drop(held);
        assert!(places.taken.lock().files.is_empty() && places.taken.lock().listings.is_empty());
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
