//! What is worth telling an administrator although nothing failed.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Most notices that are kept; the oldest go first.
const MAX_NOTICES: usize = 64;

/// Notices that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<VecDeque<String>>);

impl Notices {
    /// Adds one, unless it is there already.
    pub(super) fn add(&self, notice: String) {
        let mut notices = self.0.lock();
        if notices.contains(&notice) {
            return;
        }
        if notices.len() == MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(notice);
    }

    /// All notices, the oldest first.
    pub(super) fn take(&self) -> Vec<String> {
        self.0.lock().drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_wait_once_and_are_bounded() {
        let notices = Notices::default();
        for number in (0..100).chain(90..100) {
            notices.add(number.to_string());
        }
        let taken = notices.take();
        assert_eq!((taken.len(), taken[0].as_str(), taken[63].as_str()), (64, "36", "99"));
        assert!(notices.take().is_empty());
    }
}
