//! The components of one VM folder, and how they are named.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::header::{ComponentKind, HOME_FILE};
use crate::text::{self, Show};

/// What is encrypted and unlocked on its own. In JSON it is its path below the VM folder, which is empty for the home.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Component {
    /// All files of the VM folder that are not disks.
    Home,
    /// A disk, by its path below the VM folder.
    Disk(PathBuf),
}

impl Component {
    /// What a path below the VM folder names: the folder itself and its header's file are the home, anything else a disk.
    pub fn at(path: &Path) -> Self {
        match path.as_os_str().is_empty() || path == Path::new(HOME_FILE) {
            true => Self::Home,
            false => Self::Disk(path.to_path_buf()),
        }
    }

    /// Home or disk.
    pub fn kind(&self) -> ComponentKind {
        match self {
            Self::Home => ComponentKind::Home,
            Self::Disk(_) => ComponentKind::Disk,
        }
    }

    /// Its path below the VM folder; empty for the home.
    pub fn path(&self) -> &Path {
        match self {
            Self::Home => Path::new(""),
            Self::Disk(path) => path,
        }
    }

    /// The path below the VM folder of the file that has its header.
    pub fn header_file(&self) -> &Path {
        match self {
            Self::Home => Path::new(HOME_FILE),
            Self::Disk(path) => path,
        }
    }
}

/// As messages call it.
impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("home"),
            Self::Disk(path) => write!(f, "disk {}", path.shown()),
        }
    }
}

impl Serialize for Component {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::path::serialize(self.path(), serializer)
    }
}

impl<'d> Deserialize<'d> for Component {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer).map(|text| Self::at(&text::path::from_text(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_path_below_the_folder() {
        for (path, shown, json) in
            [("", "home", "\"\""), (HOME_FILE, "home", "\"\""), ("a/root.raw", "disk a/root.raw", "\"a/root.raw\"")]
        {
            let component = Component::at(Path::new(path));
            assert_eq!(
                (component.to_string().as_str(), serde_json::to_string(&component).unwrap().as_str()),
                (shown, json)
            );
            assert_eq!(serde_json::from_str::<Component>(json).unwrap(), component);
        }
        assert_eq!(serde_json::from_str::<Option<Component>>("null").unwrap(), None);
    }
}
