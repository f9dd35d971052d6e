//! A mount's life: mounting, serving until it is unmounted, ending on signals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crate::error::{Context, Error, Kind, Result};
use crate::fs::FileSystem;
use crate::fuse::mount::{self, MountSpec, Own, Unmount};
use crate::fuse::readahead;
use crate::fuse::transport::Connection;
use crate::sys::thread::{caught, may_fail};
use crate::text::Show;

/// A mount that is ready to serve.
pub struct Session {
    connection: Connection,
    mountpoint: PathBuf,
    own: Own,
}

impl Session {
    /// Mounts, and agrees with the kernel on the protocol.
    ///
    /// # Errors
    /// `NotFound` for a missing mountpoint, `Invalid` for one that is not a directory, `Busy` for one that
    /// is not empty, `Unsupported` without FUSE or the transport that is asked for, or `Io`.
    pub fn mount(fs: &Arc<FileSystem>, spec: &MountSpec) -> Result<Self> {
        let _alone = mount::check_mountpoint(spec)?;
        let prepared = spec.transport.prepare(spec.threads, fs.served().options().backing_io)?;
        let doing = || match mount::needs_open_device() {
            false => format!("mounting on {}", spec.mountpoint.shown()),
            true => format!("mounting on {} (/dev/fuse is not open to this user)", spec.mountpoint.shown()),
        };
        let device = Arc::new(mount::mount(spec).context(doing)?);
        let mountpoint = spec.mountpoint.clone();
        let own = Own::on(&mountpoint)?;
        match prepared.connect(device, fs, spec.options.acl) {
            Ok(connection) => {
                if let Err(error) = readahead::widen(&mountpoint) {
                    tracing::debug!("readahead is unchanged: {}", error.chain());
                }
                tracing::info!("{} is mounted; transport {}", mountpoint.shown(), connection.transport());
                Ok(Self { connection, mountpoint, own })
            }
            Err(error) => {
                // Nothing serves it, so it must not stay.
                let _ = own.unmount(Unmount::WhenUnused);
                Err(error).context(doing)
            }
        }
    }

    /// The mount itself, which can be found wherever it is shown.
    pub fn own(&self) -> Own {
        self.own
    }

    /// Serves requests until the mount is gone. On each of `stop`'s items the mount is unmounted: at once if nothing uses
    /// it, else as soon as the last open file is closed.
    ///
    /// # Errors
    /// `Io` when the connection to the kernel breaks, or a thread ends that requests need. Programs that use the mount then get errors
    /// at once, and it is unmounted.
    pub fn serve(self, stop: impl Iterator<Item = i32> + Send + 'static) -> Result<()> {
        let Self { connection, mountpoint, own } = self;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                stop.for_each(|signal| {
                    let done = caught(|| {
                        may_fail("signals");
                        stop_on(signal, own);
                    });
                    if done.is_none() {
                        tracing::error!("signal {signal} was not heeded: this is a bug, please report it");
                    }
                });
            })
            .context(|| "starting the signal thread".into())?;
        let served = caught(|| connection.serve()).unwrap_or_else(|| {
            Err(Error::new(Kind::Io, "the supervising thread failed: this is a bug, please report it"))
        });
        served.context(|| format!("serving {}", mountpoint.shown())).inspect_err(|error| {
            tracing::error!("the mount ends: {}", error.chain());
            own.abandon();
        })
    }
}

fn stop_on(signal: i32, own: Own) {
    tracing::info!("signal {signal}: unmounting");
    let Err(error) = own.unmount(Unmount::Now) else { return };
    if error.kind() == Kind::NotFound {
        return tracing::warn!("{}", error.chain());
    }
    match own.unmount(Unmount::WhenUnused) {
        Ok(()) => tracing::warn!("{}; it ends when the last open file is closed", error.chain()),
        Err(error) => tracing::error!("{}", error.chain()),
    }
}

/// Sends a new mount a request that only its process can answer.
///
/// # Errors
/// `Io` when the mount is gone.
pub fn answers(mountpoint: &Path) -> Result<()> {
    std::fs::metadata(mountpoint).map(drop).context(|| format!("asking the new mount on {}", mountpoint.shown()))
}
