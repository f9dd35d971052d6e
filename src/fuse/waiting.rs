//! Requests that must wait for a key provider do so on threads of their own: a key server that hangs never stops an event
//! loop, and with it the I/O of guests.

use std::sync::Arc;
use std::thread;

use crate::error::Error;
use crate::fs::FileSystem;
use crate::fuse::operations::FileRequest;
use crate::fuse::respond::Respond;
use crate::vm::keyring::PendingFetch;

/// Carries a request out and replies: at once, or once a provider has sent the key that it needs.
pub(super) fn answer(fs: &Arc<FileSystem>, request: FileRequest<'static>, reply: impl Respond) {
    if request.makes_vm_folder(fs) {
        return answer_later(fs, request, reply);
    }
    match request.run(fs) {
        Err(error) if PendingFetch::of(&error).is_some() => answer_later(fs, request, reply),
        done => reply.respond(request.finish(fs, done)),
    }
}

/// If the thread cannot be started the reply is dropped, which answers the request with an error.
fn answer_later(fs: &Arc<FileSystem>, request: FileRequest<'static>, reply: impl Respond) {
    let fs = Arc::clone(fs);
    let work = move || {
        let done = fs.served().retry_after_fetch(|| request.run(&fs));
        reply.respond(request.finish(&fs, done));
    };
    if let Err(error) = thread::Builder::new().name("key-request".into()).spawn(work) {
        tracing::error!("{}", Error::io("a request that waits for a key gets no thread", error).chain());
    }
}
