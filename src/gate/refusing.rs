//! A gate that says no, for tests of what happens before it is asked.

use std::cell::RefCell;

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::event::EventName;

thread_local! {
    /// What this thread's operations asked for, while all of them are refused.
    static ASKED: RefCell<Option<Vec<EventName>>> = const { RefCell::new(None) };
}

/// What is refused is counted by the process, like all else.
static REFUSING: Mutex<()> = Mutex::new(());

/// While this is held, no other test has operations refused.
pub(super) fn keep_out() -> MutexGuard<'static, ()> {
    REFUSING.lock()
}

/// Does work whose operations are all refused, on this thread; returns what they asked for.
pub fn refusing<T>(work: impl FnOnce() -> T) -> (T, Vec<EventName>) {
    let _alone = keep_out();
    ASKED.set(Some(Vec::new()));
    (work(), ASKED.take().unwrap_or_default())
}

pub(super) fn ask(name: EventName) -> Result<()> {
    ASKED.with_borrow_mut(|asked| match asked {
        None => Ok(()),
        Some(asked) => {
            asked.push(name);
            Err(Error::new(Kind::Denied, "refused by a test"))
        }
    })
}
