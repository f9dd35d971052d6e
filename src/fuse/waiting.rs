//! Requests that must wait for a key provider, or for another mount that has a file open, do so on threads of their own: neither
//! stops an event loop, and with it the I/O of guests.

use std::sync::Arc;
use std::thread;

use crate::error::Error;
use crate::fs::FileSystem;
use crate::fuse::operations::FileRequest;
use crate::fuse::respond::Respond;
use crate::serve::ServedFolder;

/// Carries a request out and replies: at once, or once a provider has sent the key, or another mount closed the file, that it needs.
pub(super) fn answer(fs: &Arc<FileSystem>, request: FileRequest<'static>, reply: impl Respond) {
    if request.makes_vm_folder(fs) {
        return answer_later(fs, request, reply);
    }
    match request.run(fs) {
        Err(error) if ServedFolder::must_wait(&error) => answer_later(fs, request, reply),
        done => reply.respond(request.finish(fs, done)),
    }
}

/// If the thread cannot be started the reply is dropped, which answers the request with an error.
fn answer_later(fs: &Arc<FileSystem>, request: FileRequest<'static>, reply: impl Respond) {
    let fs = Arc::clone(fs);
    let work = move || {
        let done = fs.served().retry(|| request.run(&fs));
        reply.respond(request.finish(&fs, done));
    };
    if let Err(error) = thread::Builder::new().name("waiting".into()).spawn(work) {
        tracing::error!("{}", Error::io("a request that must wait gets no thread", error).chain());
    }
}
