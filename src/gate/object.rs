//! What operations are done to.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::event::Event;
use crate::key::{KeyId, ProviderName};
use crate::text::Show;

/// What an operation is done to. Paths are those of the backing side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Object {
    /// A VM folder, a datastore, or a VM's home.
    Folder(PathBuf),
    /// A disk, or a file that becomes one.
    Disk(PathBuf),
    /// A key provider of this host.
    Provider(ProviderName),
    /// A key of a provider.
    Key(KeyId),
    /// The cluster that this host is in, or comes into.
    Cluster,
    /// What this host has for its dumps: its host key, and how the kernel takes them.
    Host,
    /// A dump of a process.
    Dump(PathBuf),
    /// An event log.
    EventLog(PathBuf),
}

impl Object {
    /// What lies at a path.
    pub fn at(path: PathBuf) -> Self {
        if path.is_dir() { Self::Folder(path) } else { Self::Disk(path) }
    }

    /// A component of a VM folder: its home, if the path below the folder is empty, or a disk.
    pub fn component(folder: &Path, below: &Path) -> Self {
        match below.as_os_str().is_empty() {
            true => Self::Folder(folder.to_path_buf()),
            false => Self::Disk(folder.join(below)),
        }
    }

    /// Says in an event that it is about this.
    pub(super) fn describe(&self, event: &mut Event) {
        match self {
            Self::Folder(path) => event.component(path),
            Self::Disk(path) => event.disk(path),
            Self::Provider(name) => event.provider(name),
            Self::Key(key_id) => event.key(key_id),
            Self::Dump(path) => event.component(path),
            Self::Host => event,        // its keys are in the event
            Self::Cluster => event,     // which one is in its reason
            Self::EventLog(_) => event, // its events stand in it
        };
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::Disk(path) => write!(f, "{}", path.shown()),
            Self::Provider(name) => write!(f, "key provider {name}"),
            Self::Key(key_id) => write!(f, "key {key_id}"),
            Self::Dump(path) => write!(f, "dump {}", path.shown()),
            Self::Host => f.write_str("this host"),
            Self::Cluster => f.write_str("the cluster of this host"),
            Self::EventLog(path) => write!(f, "event log {}", path.shown()),
        }
    }
}
