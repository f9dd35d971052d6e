//! Requests that must wait for a key provider do so on threads of their own: a key server that hangs never stops an event
//! loop, and with it the I/O of guests.

use std::sync::Arc;
use std::thread;

use crate::error::{Error, Result};
use crate::fs::FileSystem;
use crate::vm::keyring::Question;

/// Does `work` and replies, which may look at the file system as well: at once, or when a provider has answered what has to be known
/// first.
pub(super) fn answer<T: 'static>(
    fs: &Arc<FileSystem>,
    work: impl Fn(&FileSystem) -> Result<T> + Send + 'static,
    reply: impl FnOnce(&FileSystem, Result<T>) + Send + 'static,
) {
    match work(fs) {
        Err(error) if Question::of(&error).is_some() => answer_later(fs, work, reply),
        done => reply(fs, done),
    }
}

/// As [`answer`], for what waits for a provider in any case.
pub(super) fn answer_later<T: 'static>(
    fs: &Arc<FileSystem>,
    work: impl Fn(&FileSystem) -> Result<T> + Send + 'static,
    reply: impl FnOnce(&FileSystem, Result<T>) + Send + 'static,
) {
    let fs = Arc::clone(fs);
    on_own_thread(move || reply(&fs, fs.served().retry_after_fetch(|| work(&fs))));
}

/// A request whose thread cannot be started is answered with an error: that is what its reply does when it is dropped.
fn on_own_thread(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name("key-request".into()).spawn(work) {
        tracing::error!("{}", Error::io("a request that waits for a key gets no thread", error).chain());
    }
}
