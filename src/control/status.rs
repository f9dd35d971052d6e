//! The state of a mount and of its components, as `status` shows it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::event;
use crate::format::header::ComponentKind;
use crate::fs::FileSystem;
use crate::key::KeyName;
use crate::provider::Notice;
use crate::seen;
use crate::serve::{MAX_COMPONENTS, Unusable};
use crate::storage::claims::Holder;
use crate::store::header_area::StoredHeader;
use crate::text::{self, Show};
use crate::timestamp::Timestamp;
use crate::vm::inventory::FolderKind;
use crate::vm::keyring::LockState;
use crate::vm::scan::FoundComponent;
use crate::vm::under_way::UnderWay;

/// Most bytes of JSON that components, files in the clear and folders without a home take in one answer. A line of an answer
/// has at most 64 MiB, and names of any bytes may be three times as long as they are counted here.
const MAX_BYTES: usize = 16 << 20;

/// A mount as `status` shows it. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MountStatus {
    /// Process that serves the mount.
    pub pid: u32,
    /// All components, VM folder by VM folder.
    pub components: Vec<ComponentStatus>,
    /// Notices of key providers, the latest last, why the last event could not be recorded, and what is wrong with this host's memory
    /// of components.
    #[serde(default)]
    pub notices: Vec<NoticeStatus>,
    /// What is not encrypted, of VM folders of any depth; none of it shows in the mount. Only `status` reports it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_the_clear: Vec<ClearStatus>,
    /// Folders, at any depth, with sealed files or disks, but without a home header in them or above; nothing of them shows in
    /// the mount. Only `status` reports it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "crate::text::path")]
    pub headless: Vec<PathBuf>,
    /// Disks of a home's list in whose place nothing lies, or something that is not a component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<UnusableStatus>,
}

/// What lies in the place of a disk that its home's list has. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UnusableStatus {
    /// Below the mounted folder.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// Of the disk that should be there.
    pub uuid: uuid::Uuid,
    /// Whether nothing is there.
    pub missing: bool,
    /// What is there, and what was expected, for people.
    pub what: String,
}

/// What can be done with a component.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentState {
    /// It opens.
    Unlocked,
    /// Its DEK is not in memory.
    Locked,
    /// Its DEK is in memory, but it does not belong where it lies, or is not whole: each open fails with EIO.
    Unusable,
    /// Its header cannot be read.
    Damaged,
    /// No key opens it any more.
    Erased,
}

impl ComponentState {
    /// The state in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unlocked => "unlocked",
            Self::Locked => "locked",
            Self::Unusable => "unusable",
            Self::Damaged => "damaged",
            Self::Erased => "erased",
        }
    }
}

/// A folder or file that is not encrypted. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ClearStatus {
    /// Below the mounted folder.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// `folder`, of a VM, or `file`, in an encrypted one.
    pub kind: String,
    /// What it is, for people.
    pub what: String,
}

/// Something that an administrator should know although nothing failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NoticeStatus {
    /// RFC 3339, UTC.
    pub time: String,
    /// The key provider that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// For people.
    pub text: String,
}

impl NoticeStatus {
    fn of_mount(text: String) -> Self {
        Self { time: Timestamp::now().to_millis(), provider: None, text }
    }
}

/// A component as `status` shows it. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ComponentStatus {
    /// Below the mount; a home's is its VM folder's.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// `home` or `disk`.
    pub kind: String,
    /// Whether the DEK is in memory.
    pub unlocked: bool,
    /// What can be done with it; a mount of an older version does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ComponentState>,
    /// Why it cannot be used, unless its state is `unlocked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last time that it could not be unlocked, also if it could since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Identity of the component, if its header can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<uuid::Uuid>,
    /// Each KEK that could unlock it.
    pub keys: Vec<KeyName>,
    /// Length of a disk in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// A deep rekey that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deep_rekey: Option<UnderWay>,
    /// Of two header copies one is damaged, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged_copy: Option<String>,
    /// Why it can only be read: it is older than what this host has seen of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_back: Option<String>,
    /// Of a disk: another mount, process or host that writes it, or keeps writers away. Only `status` reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HolderStatus>,
    /// Of a home: what its manifest shows that others did, or since when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

impl ComponentStatus {
    /// What can be done with it.
    pub fn state(&self) -> ComponentState {
        let otherwise = if self.unlocked { ComponentState::Unlocked } else { ComponentState::Locked };
        self.state.unwrap_or(otherwise)
    }
}

/// Another opener of a disk, by what it says of itself. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HolderStatus {
    /// Name of its host.
    #[serde(with = "crate::text::path")]
    pub host: PathBuf,
    /// Its process there.
    pub process: u32,
    /// Where that has the disk mounted, unless it works without a mount.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::text::path")]
    pub mountpoint: Option<PathBuf>,
    /// RFC 3339, UTC, by its own clock.
    pub since: String,
    /// All of that, for people.
    pub text: String,
}

impl From<Holder> for HolderStatus {
    fn from(holder: Holder) -> Self {
        Self {
            host: holder.host().into(),
            process: holder.process(),
            mountpoint: holder.mountpoint().map(Path::to_path_buf),
            since: holder.since().to_millis(),
            text: holder.to_string(),
        }
    }
}

/// Since when and why a component could not be unlocked.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LastFailure {
    /// RFC 3339, UTC.
    pub since: String,
    /// For people.
    pub reason: String,
}

/// The state of a mount, by its own process.
///
/// # Errors
/// `Io` when its folder cannot be read.
pub fn status(fs: &FileSystem) -> Result<MountStatus> {
    let inventory = fs.served().inventory()?;
    let in_the_clear = inventory.entries.iter().filter_map(|entry| {
        let (kind, what) = entry.in_the_clear()?;
        Some(ClearStatus { path: entry.path.clone(), kind: kind.to_owned(), what })
    });
    let headless = inventory.folders().filter(|(_, kind)| *kind == FolderKind::Headless);
    let components = fs.served().components()?;
    let mut status = MountStatus {
        in_the_clear: in_the_clear.collect(),
        headless: headless.map(|(entry, _)| entry.path.clone()).collect(),
        ..status_of(&components, fs)
    };
    for disk in status.components.iter_mut().filter(|component| component.kind == ComponentKind::Disk.word()) {
        disk.held_by = fs.served().other_holder(&disk.path).map(HolderStatus::from);
    }
    let left_out = fs.served().left_out();
    if left_out > 0 {
        status.notices.push(NoticeStatus::of_mount(format!(
            "{} not shown, and unlocked only when opened: a VM folder has more than {MAX_COMPONENTS}",
            text::count(left_out, "component is", "components are")
        )));
    }
    Ok(bounded(status, MAX_BYTES))
}

/// Leaves out what makes an answer too long, components that are locked before those that are not, and says so.
fn bounded(mut status: MountStatus, most: usize) -> MountStatus {
    let mut left = most;
    let mut left_out = 0_usize;
    let mut fits = |item: serde_json::Result<Vec<u8>>| {
        let rest = item.ok().and_then(|json| left.checked_sub(json.len() + 1));
        left = rest.unwrap_or(left);
        left_out += usize::from(rest.is_none());
        rest.is_some()
    };
    let mut kept = vec![false; status.components.len()];
    for unlocked in [true, false] {
        for (kept, component) in kept.iter_mut().zip(&status.components).filter(|(_, one)| one.unlocked == unlocked) {
            *kept = fits(serde_json::to_vec(component));
        }
    }
    let mut kept = kept.into_iter();
    status.components.retain(|_| kept.next().unwrap_or_default());
    status.in_the_clear.retain(|clear| fits(serde_json::to_vec(clear)));
    status.headless.retain(|path| fits(serde_json::to_vec(&path.shown().to_string())));
    status.unusable.retain(|disk| fits(serde_json::to_vec(disk)));
    if left_out > 0 {
        let left_out = text::count(left_out, "component or file is", "components and files are");
        let notice = format!("{left_out} left out: the state of all would be too long");
        status.notices.push(NoticeStatus::of_mount(notice));
    }
    status
}

/// The state of some components of a mount, and its notices.
pub fn status_of(found: &[FoundComponent], fs: &FileSystem) -> MountStatus {
    let Components { all: components, unusable } = components(found, fs);
    let (pid, notices) = (std::process::id(), notices(fs));
    let status = MountStatus { pid, components, notices, in_the_clear: Vec::new(), headless: Vec::new(), unusable };
    bounded(status, MAX_BYTES)
}

/// Components of a mount and their state.
pub struct Components {
    /// As they were found.
    pub all: Vec<ComponentStatus>,
    /// What lies in the places of listed disks and is not a component.
    pub unusable: Vec<UnusableStatus>,
}

/// The state of components of a mount that were found.
pub fn components(found: &[FoundComponent], fs: &FileSystem) -> Components {
    let refused = fs.served().unusable(found); // notes what has gone back, which is part of a state
    let mut all: Vec<ComponentStatus> = found.iter().map(|component| component_status(component, fs)).collect();
    let places: HashMap<&Path, usize> =
        found.iter().enumerate().map(|(place, component)| (component.path.as_path(), place)).collect();
    let mut unusable = Vec::new();
    for Unusable { path, uuid, why, is_missing: missing } in refused {
        let component = places.get(path.as_path()).map(|&place| &mut all[place]);
        match component.filter(|component| component.unlocked) {
            Some(component) => {
                component.state = Some(ComponentState::Unusable);
                component.reason = Some(why.chain());
            }
            None => unusable.push(UnusableStatus { path, uuid, missing, what: why.chain() }),
        }
    }
    Components { all, unusable }
}

fn notices(fs: &FileSystem) -> Vec<NoticeStatus> {
    let of_provider = |notice: Notice| NoticeStatus {
        time: notice.time.to_millis(),
        provider: Some(notice.provider.to_string()),
        text: notice.text,
    };
    let unrecorded = event::unrecorded().into_iter().chain(seen::trouble()).map(NoticeStatus::of_mount);
    fs.served().keyring().notices().into_iter().map(of_provider).chain(unrecorded).collect()
}

fn component_status(found: &FoundComponent, fs: &FileSystem) -> ComponentStatus {
    let claims = found.unverified().map(|header| header.claims());
    let keyring = fs.served().keyring();
    let state = found.unverified().and_then(|header| keyring.state(header));
    let reason = match (&found.header, state) {
        (Err(error), _) => Some(error.chain()),
        (Ok(_), Some(LockState::Unlocked(_))) => None,
        (Ok(_), Some(LockState::Locked { reason, .. })) => Some(reason),
        (Ok(_), None) => Some("not used since the mount began: it is unlocked when it is first opened".into()),
    };
    let state = match &found.header {
        Err(_) if found.is_erased() => ComponentState::Erased,
        Err(_) => ComponentState::Damaged,
        Ok(_) if reason.is_none() => ComponentState::Unlocked,
        Ok(_) => ComponentState::Locked,
    };
    let size = claims.and_then(|claims| Some(claims.shape.disk()?.plain_len(found.cipher_len)));
    ComponentStatus {
        path: found.path.clone(),
        kind: found.kind.word().to_owned(),
        unlocked: reason.is_none(),
        state: Some(state),
        reason,
        last_failure: found
            .unverified()
            .and_then(|header| keyring.last_failure(header))
            .map(|last| LastFailure { since: last.since.to_millis(), reason: last.reason }),
        uuid: claims.map(|claims| claims.uuid),
        keys: claims.map(|claims| claims.slots.key_ids().map(KeyName::of).collect()).unwrap_or_default(),
        size: size.filter(|_| found.kind == ComponentKind::Disk),
        deep_rekey: found.deep_rekey,
        damaged_copy: found.header.as_ref().ok().and_then(StoredHeader::damaged_copy),
        gone_back: found.unverified().and_then(|header| keyring.gone_back(header)),
        held_by: None,
        manifest: claims
            .filter(|_| found.kind == ComponentKind::Home)
            .and_then(|home| fs.served().manifest_finding(&found.path, home.uuid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(number: usize, unlocked: bool) -> ComponentStatus {
        ComponentStatus {
            path: format!("evil/{number}.raw").into(),
            kind: "disk".into(),
            unlocked,
            state: None,
            reason: (!unlocked).then(|| "x".repeat(1000)),
            last_failure: None,
            uuid: None,
            keys: Vec::new(),
            size: None,
            deep_rekey: None,
            damaged_copy: None,
            gone_back: None,
            held_by: None,
            manifest: None,
        }
    }

    #[test]
    fn status_that_would_be_too_long_keeps_what_is_unlocked() {
        let components: Vec<ComponentStatus> = (0..1000).map(|number| component(number, number % 10 == 9)).collect();
        let clear = |name: &str| ClearStatus { path: name.into(), kind: "file".into(), what: "y".repeat(60_000) };
        let in_the_clear = vec![clear("a"), clear("b")];
        let whole = MountStatus {
            pid: 1,
            components,
            notices: Vec::new(),
            in_the_clear,
            headless: Vec::new(),
            unusable: Vec::new(),
        };
        let len = |status: &MountStatus| serde_json::to_vec(status).unwrap().len();
        assert!(len(&whole) > 1_000_000);
        let short = bounded(whole.clone(), 500_000);
        assert!(len(&short) < 501_000, "{}", len(&short));
        assert_eq!(short.components.iter().filter(|component| component.unlocked).count(), 100);
        let left_out = 1000 - short.components.len() + 2 - short.in_the_clear.len();
        assert!(left_out > 400, "{left_out}");
        assert!(short.notices[0].text.starts_with(&format!("{left_out} components and files are left out")));
        let same = bounded(whole, 10_000_000);
        assert_eq!((same.components.len(), same.in_the_clear.len(), same.notices.len()), (1000, 2, 0));
    }
}
