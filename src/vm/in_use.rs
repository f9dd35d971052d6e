//! Which components a key opens, and which would be lost without it.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use crate::error::Kind;
use crate::format::header::ComponentKind;
use crate::key::{KeyId, KeyName, ProviderName};
use crate::text;
use crate::vm::inventory::{Entry, FolderKind, Headers, Inventory, What};

/// Keys to look for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of these providers, if given.
    pub providers: Option<BTreeSet<ProviderName>>,
    /// With this key id, if given; also with the provider's name in front, as messages have it: `PROVIDER/KEY_ID`.
    pub key_id: Option<String>,
    /// Of native providers, and wrapped by one of these primary keys, if there are any.
    pub primaries: Vec<Uuid>,
}

/// Where keys are in use. Field names are part of the stable JSON output.
#[derive(Debug, Default, Serialize)]
pub struct InUse {
    /// Components with a slot of such a key.
    pub components: Vec<KeyUse>,
    /// What cannot be read, so that nobody can tell.
    pub unreadable: Vec<Unreadable>,
    /// Saved headers with such a slot. They are no components: what they open may not be here, nor anywhere.
    pub saved_headers: Vec<SavedKeyUse>,
    /// Files of VM folders that may be disks whose headers were overwritten: which key a saved header of one needs is not known.
    #[serde(with = "crate::text::path", skip_serializing_if = "Vec::is_empty")]
    pub no_sign: Vec<PathBuf>,
    /// What was looked at.
    pub looked_at: LookedAt,
    /// Providers whose keys were not counted.
    pub other_providers: BTreeSet<String>,
}

/// What was looked at. Field names are part of the stable JSON output.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LookedAt {
    /// Components with a header.
    pub components: usize,
    /// Folders, at any depth.
    pub folders: usize,
    /// VM folders that are encrypted, be it in part.
    pub vm_folders: usize,
    /// Components that were erased: no key opens them.
    pub erased: usize,
    /// Saved headers.
    pub saved_headers: usize,
    /// Mounts of vmcryptfs, which were not entered.
    pub mounts: usize,
    /// Fifos, sockets and devices, which were not looked at.
    pub special: usize,
}

/// A component that a key opens.
#[derive(Debug, Serialize)]
pub struct KeyUse {
    /// Below the datastore; a home's is its VM folder's.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// `home` or `disk`.
    pub kind: &'static str,
    /// The component's UUID.
    pub uuid: Uuid,
    /// The keys in question that open it.
    pub keys: Vec<KeyName>,
    /// Other keys that open it.
    pub other_keys: Vec<KeyName>,
    /// Whether it would be lost without the keys in question.
    pub lost: bool,
    /// Whether only the header copy that is not in use names them: a rekey was interrupted.
    pub only_in_other_copy: bool,
    /// The hosts of this host's cluster that say that they have a shared key which opens it, where a cluster shares one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<KeyHost>>,
}

/// A host that can open something.
#[derive(Clone, Debug, Serialize)]
pub struct KeyHost {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it is in the cluster: one that was removed may have its keys still.
    pub state: &'static str,
}

/// A saved header that a key opens.
#[derive(Debug, Serialize)]
pub struct SavedKeyUse {
    /// Below the datastore.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// The UUID of the component that it was saved of.
    pub uuid: Uuid,
    /// The keys in question that open it.
    pub keys: Vec<KeyName>,
}

/// What cannot be read.
#[derive(Debug, Serialize)]
pub struct Unreadable {
    /// As a user's.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// What kind of error.
    #[serde(skip)]
    pub kind: Kind,
}

impl Wanted {
    /// One key, under whatever provider's name: two names, also those of two hosts, may be of one key server.
    pub fn of(key: &KeyId) -> Self {
        Self { key_id: Some(key.id().to_owned()), ..Self::default() }
    }

    fn matches(&self, key: &KeyId) -> bool {
        self.providers.as_ref().is_none_or(|names| names.contains(key.provider()))
            && self.key_id.as_ref().is_none_or(|id| key.may_be_called(id))
            && (self.primaries.is_empty() || primary_of(key).is_some_and(|primary| self.primaries.contains(&primary)))
    }

    /// Looks at everything below a datastore or VM folder. Needs no key, so what headers say is not proven.
    pub fn search(&self, inventory: &Inventory) -> InUse {
        let mut in_use = InUse { looked_at: LookedAt::of(inventory), ..InUse::default() };
        let mut seen = HashSet::new();
        for entry in &inventory.entries {
            if let Some((kind, headers)) = entry.headers().filter(|_| seen.insert(entry.inode())) {
                in_use.other_providers.extend(self.others(headers.keys.iter()));
                in_use.components.extend(self.user(entry, kind, headers));
            } else if let What::SavedHeader(Ok(saved)) = &entry.what {
                let claims = saved.header.claims();
                in_use.other_providers.extend(self.others(claims.slots.key_ids()));
                let keys = self.names(claims.slots.key_ids());
                if !keys.is_empty() {
                    in_use.saved_headers.push(SavedKeyUse { path: entry.path.clone(), uuid: claims.uuid, keys });
                }
            }
        }
        let unreadable = |(entry, error): (&Entry, &crate::error::Error)| Unreadable {
            path: entry.component_path().to_path_buf(),
            reason: error.chain(),
            kind: error.kind(),
        };
        in_use.components.sort_by(|a, b| a.path.cmp(&b.path)); // a home before its disks
        let no_sign = inventory.entries.iter().filter(|entry| entry.vm.is_some() || entry.headless);
        let no_sign = no_sign.filter(|entry| entry.may_be_ciphertext());
        in_use.no_sign = no_sign.map(|entry| entry.path.clone()).collect();
        in_use.unreadable = inventory.unreadable().map(unreadable).collect();
        in_use.unreadable.extend(inventory.folders_without_header().into_iter().map(Unreadable::without_header));
        in_use
    }

    /// Providers of keys, if they are not among those in question.
    fn others<'k>(&self, keys: impl Iterator<Item = &'k KeyId>) -> impl Iterator<Item = String> {
        let names = keys.map(KeyId::provider);
        names
            .filter(|name| self.providers.as_ref().is_some_and(|wanted| !wanted.contains(name)))
            .map(ToString::to_string)
    }

    fn names<'k>(&self, keys: impl Iterator<Item = &'k KeyId>) -> Vec<KeyName> {
        keys.filter(|key| self.matches(key)).map(KeyName::of).collect()
    }

    fn user(&self, entry: &Entry, kind: ComponentKind, headers: &Headers) -> Option<KeyUse> {
        let keys = self.names(headers.keys.iter());
        // Without a copy that counts, each may be the one that is needed.
        let counts = |key: &&KeyId| headers.stored.is_err() || !headers.former_keys.contains(*key);
        let (mine, other): (Vec<&KeyId>, Vec<&KeyId>) =
            headers.keys.iter().filter(counts).partition(|key| self.matches(key));
        (!keys.is_empty()).then(|| KeyUse {
            path: entry.component_path().to_path_buf(),
            kind: kind.word(),
            uuid: headers.uuid.unwrap_or_default(),
            keys,
            lost: other.is_empty(),
            other_keys: other.into_iter().map(KeyName::of).collect(),
            only_in_other_copy: mine.is_empty(),
            hosts: None,
        })
    }
}

/// The primary key that a key id of a native provider names (docs/FORMAT.md, section 5).
pub fn primary_of(key: &KeyId) -> Option<Uuid> {
    key.id().split_once('/').and_then(|(primary, _)| primary.parse().ok())
}

impl InUse {
    /// Adds what was found elsewhere; `name` is the path that something there gets.
    pub fn add(&mut self, other: Self, name: impl Fn(PathBuf) -> PathBuf) {
        self.components.extend(other.components.into_iter().map(|user| KeyUse { path: name(user.path), ..user }));
        let unreadable = other.unreadable.into_iter();
        self.unreadable.extend(unreadable.map(|entry| Unreadable { path: name(entry.path), ..entry }));
        let saved = other.saved_headers.into_iter();
        self.saved_headers.extend(saved.map(|entry| SavedKeyUse { path: name(entry.path), ..entry }));
        self.no_sign.extend(other.no_sign.into_iter().map(&name));
        self.looked_at.add(other.looked_at);
        self.other_providers.extend(other.other_providers);
    }
}

impl Unreadable {
    fn without_header(folder: &Path) -> Self {
        Self {
            path: folder.to_path_buf(),
            reason: "sealed files without their home's header: the key they need is unknown".to_owned(),
            kind: Kind::Corrupt,
        }
    }
}

impl LookedAt {
    /// What there is below a folder.
    pub fn of(inventory: &Inventory) -> Self {
        let mut seen = HashSet::new();
        let count = |is: fn(&What) -> bool| inventory.entries.iter().filter(|entry| is(&entry.what)).count();
        let has_header = |kind: FolderKind| matches!(kind, FolderKind::Vm(_) | FolderKind::SeveralHeaders(..));
        Self {
            components: inventory.components().filter(|(entry, ..)| seen.insert(entry.inode())).count(),
            folders: inventory.folders().count(),
            vm_folders: inventory.folders().filter(|(_, kind)| has_header(*kind)).count(),
            erased: count(|what| matches!(what, What::Erased(_))),
            saved_headers: count(|what| matches!(what, What::SavedHeader(_))),
            mounts: count(|what| matches!(what, What::Mount)),
            special: count(|what| matches!(what, What::Special(_))),
        }
    }

    /// Whether there was nothing that any key opens, or opened: a wrong folder would seem to need no key.
    pub fn is_nothing(&self) -> bool {
        self.components + self.erased + self.saved_headers == 0
    }

    /// Adds what was looked at elsewhere.
    pub fn add(&mut self, other: Self) {
        self.components += other.components;
        self.folders += other.folders;
        self.vm_folders += other.vm_folders;
        self.erased += other.erased;
        self.saved_headers += other.saved_headers;
        self.mounts += other.mounts;
        self.special += other.special;
    }

    /// For people: `3 components in 2 VM folders (5 folders)`.
    pub fn describe(&self) -> String {
        let mut described = format!(
            "{} in {} ({} at any depth)",
            text::count(self.components, "component", "components"),
            text::count(self.vm_folders, "VM folder", "VM folders"),
            text::count(self.folders, "folder", "folders")
        );
        let more = [
            (self.erased, ", ", "erased component", "erased components", ""),
            (self.saved_headers, ", ", "saved header", "saved headers", ""),
            (self.mounts, "; ", "mount", "mounts", " of vmcryptfs within not entered"),
            (self.special, "; not at ", "fifo, socket or device", "fifos, sockets or devices", ""),
        ];
        for (number, before, one, others, after) in more.into_iter().filter(|(number, ..)| *number > 0) {
            described += &format!("{before}{}{after}", text::count(number, one, others));
        }
        described
    }
}
