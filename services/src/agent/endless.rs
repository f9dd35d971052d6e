//! Threads of the agent that work for as long as it lives, or there is work for them.

use std::thread;
use std::time::Duration;

use vmcryptfs::error::{Context, Result};
use vmcryptfs::sys::thread::{caught, may_fail};

/// The pause after a turn that ended in a bug.
const AFTER_BUG: Duration = Duration::from_secs(2);

/// Takes one turn after the other on a thread of its own. `doing` is what it does, for people.
///
/// # Errors
/// `Io`.
pub(super) fn begin(name: &'static str, doing: &'static str, mut turn: impl FnMut() + Send + 'static) -> Result<()> {
    begin_while(name, doing, move || {
        turn();
        true
    })
}

/// As [`begin`], until a turn says that it was the last one.
///
/// # Errors
/// `Io`.
pub(super) fn begin_while(
    name: &'static str,
    doing: &'static str,
    mut turn: impl FnMut() -> bool + Send + 'static,
) -> Result<()> {
    let work = move || {
        loop {
            let taken = caught(|| {
                may_fail(name);
                turn()
            });
            match taken {
                Some(true) => {}
                Some(false) => break,
                None => {
                    tracing::error!("{doing} failed within the agent: this is a bug, please report it");
                    thread::sleep(AFTER_BUG);
                }
            }
        }
    };
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).context(|| format!("starting the thread {name}"))
}
