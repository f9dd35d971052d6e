//! Whether what lies in VM folders is whole and, as far as keys are at hand, genuine; and whether it is encrypted at all.

mod listed;
mod sealed;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::{ComponentKind, Header};
use crate::key::Dek;
use crate::progress::to_the_end;
use crate::provider::Providers;
use crate::seen::{Memory, Past, Point};
use crate::storage::{FileStorage, Storage};
use crate::store::disk::genuine_progress;
use crate::store::header_area::{OtherCopy, StoredHeader};
use crate::store::home_file::HomeKeys;
use crate::text::Show;
use crate::vm::check::listed::Listed;
use crate::vm::home_state;
use crate::vm::inventory::misplaced::Found;
use crate::vm::inventory::{Entry, FolderKind, Inventory, What, clear_what, headless_what, nested_what};
use crate::vm::keyring::{self, FetchedKeks};
use crate::vm::manifest::{HomeTree, Proof};
use crate::vm::scan;
use crate::vm::under_way::UnderWay;
use sealed::{Sealed, Tally};

/// What was found of a component, a file or a folder.
#[derive(Debug)]
pub struct Finding {
    /// Below the folder that was checked; a home's is its VM folder's.
    pub path: PathBuf,
    /// `home`, `disk`, `file` or `folder`.
    pub kind: &'static str,
    /// A component's, if its header can be read.
    pub uuid: Option<Uuid>,
    /// How it is.
    pub state: State,
    /// For people.
    pub result: String,
}

/// How something is that was checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Whole and genuine.
    Good,
    /// It is not encrypted, which may be as it should.
    Clear,
    /// It was erased.
    Erased,
    /// What it holds lies elsewhere.
    NotLookedAt,
    /// Something is wrong.
    Problem(Kind),
}

/// How to check.
pub struct Check<'a> {
    /// Opens what has this path in the inventory, for reading.
    pub open: &'a dyn Fn(&Path) -> Result<File>,
    /// Whether to read all that can prove itself, not only headers.
    pub data: bool,
    /// Whether one file is asked about, so that the rest of its VM folder is not gone through.
    pub one_file: bool,
}

impl Check<'_> {
    /// Checks all components, asking for their keys, and all files that belong to a home. Names everything that is in the
    /// clear, and everything that cannot be read.
    pub fn run(&self, inventory: &Inventory, providers: &Providers) -> Vec<Finding> {
        let ids = inventory.components().flat_map(|(_, _, headers)| headers.unverified());
        let ids = ids.flat_map(|header| header.claims().slots.key_ids().cloned());
        let keks = providers.fetch_all(ids);
        let mut checked = Checked {
            check: self,
            keks,
            memory: Memory::of(providers),
            homes: BTreeMap::new(),
            findings: Vec::new(),
            seen: HashSet::new(),
            led_to: HashSet::new(),
        };
        // Homes first, whatever their names: files are proven by their keys.
        let (headers, others): (Vec<_>, Vec<_>) = inventory.entries.iter().partition(|entry| entry.is_own_header());
        headers.into_iter().chain(others).for_each(|entry| checked.entry(entry));
        checked.tell_of_files(inventory);
        if !self.one_file {
            checked.compare_manifests();
        }
        checked.tell_of_lost_headers(inventory);
        checked.tell_of_nested(inventory);
        tell_of_twins(inventory, &mut checked.findings);
        tell_of_copies(inventory, &mut checked.findings);
        checked.tell_of_tallies();
        let (findings, led_to) = (checked.findings.into_iter().enumerate(), checked.led_to);
        let mut findings: Vec<Finding> =
            findings.filter(|(at, _)| !led_to.contains(at)).map(|(_, finding)| finding).collect();
        findings.sort_by(|a, b| a.path.cmp(&b.path));
        findings
    }
}

/// What is in the clear, also files that no VM folder has, what is unknown, and what was not looked at. Needs no key.
pub fn clear(inventory: &Inventory) -> Vec<Finding> {
    let finding = |entry| {
        let seen = clear_finding(entry).or_else(|| unreadable_finding(entry)).or_else(|| other_file_finding(entry));
        seen.or_else(|| not_looked_at(entry))
    };
    let mut findings: Vec<Finding> = Vec::new();
    for found in inventory.entries.iter().filter_map(finding) {
        // A link and what it leads to have one path.
        match findings.last_mut().filter(|link| link.path == found.path && link.state == found.state) {
            Some(link) => link.result += &format!("; it leads to what is {}", found.result),
            None => findings.push(found),
        }
    }
    findings
}

/// A check under way.
struct Checked<'a, 'e> {
    check: &'a Check<'a>,
    keks: FetchedKeks,
    memory: Arc<Memory>,
    /// Unlocked homes, by VM folder.
    homes: BTreeMap<&'e Path, CheckedHome>,
    findings: Vec<Finding>,
    /// Files of several names are looked at once.
    seen: HashSet<Option<(u64, u64)>>,
    /// Findings of what links in the place of a disk lead to: the link is what is wrong.
    led_to: HashSet<usize>,
}

/// A component that is whole and genuine.
struct Examined {
    state: State,
    result: String,
    /// A home's.
    keys: Option<(HomeKeys, Listed, Header)>,
}

struct CheckedHome {
    keys: HomeKeys,
    listed: Listed,
    header: Header,
    finding: usize,
    tally: Tally,
}

impl<'e> Checked<'_, 'e> {
    fn entry(&mut self, entry: &'e Entry) {
        if let Some((kind, headers)) = entry.headers() {
            // A draft is nobody's yet.
            if !entry.reserved || entry.is_own_header() {
                self.component(entry, kind, headers.stored.as_ref());
            }
        } else if entry.is_own_header() && !matches!(entry.what, What::Erased(_) | What::Unreadable(_)) {
            // Not a file: that is said of the home.
        } else if let Some(mut finding) = clear_finding(entry).or_else(|| unreadable_finding(entry)) {
            // While a home comes in, its disks are still in the clear.
            if entry.may_be_ciphertext() && entry.vm.as_deref().is_some_and(|vm| self.homes.contains_key(vm)) {
                finding.state = State::Problem(Kind::Corrupt);
            }
            self.findings.push(finding);
        } else if let What::Erased(erasure) = &entry.what {
            self.add(entry.component_path(), erasure.kind.word(), erasure.uuid, State::Erased, erasure.describe());
        } else if !entry.reserved {
            self.of_home(entry);
        }
    }

    fn component(&mut self, entry: &'e Entry, kind: ComponentKind, stored: std::result::Result<&StoredHeader, &Error>) {
        let claims = stored.ok().map(|stored| stored.header.claims());
        let uuid = claims.map(|claims| claims.uuid);
        let examined = stored.map_err(|error| Error::new(error.kind(), error.chain())).and_then(|stored| {
            if let Err(unfinished) = entry.refuse_unfinished(stored.header.claims()) {
                return keyring::refuse_forged(&stored.header, &self.keks).and(Err(unfinished));
            }
            self.examine(entry, stored)
        });
        let (state, result) = match &examined {
            Ok(Examined { state, result, .. }) => (*state, result.clone()),
            Err(error) => (State::Problem(error.kind()), error.chain()),
        };
        self.add(entry.component_path(), kind.word(), uuid, state, result);
        if let (Ok(Examined { keys: Some((keys, listed, header)), .. }), Some(vm)) = (examined, entry.vm.as_deref())
            && entry.is_own_header()
        {
            let finding = self.findings.len() - 1;
            self.homes.insert(vm, CheckedHome { keys, listed, header, finding, tally: Tally::default() });
        } else if kind == ComponentKind::Disk {
            self.of_home(entry); // its extended attributes are
        }
    }

    /// What is to be known of a component that is whole and genuine.
    fn examine(&self, entry: &Entry, stored: &StoredHeader) -> Result<Examined> {
        if let Some(damaged) = stored.damaged_copy() {
            return Err(Error::new(Kind::Corrupt, damaged));
        }
        let dek = keyring::unlock(&stored.header, &self.keks)?;
        let header = stored.header.clone().verify(&dek)?;
        verify_older(stored, &header, &dek)?;
        let storage = FileStorage::new((self.check.open)(&entry.path)?);
        // Nothing tells what length a disk had, and its data proves nothing.
        let result =
            if header.shape.disk().is_some() { "its header is whole and genuine" } else { "whole and genuine" };
        let mut result = result.to_owned();
        let mut cursor = None;
        if let Some(transition) = &header.transition {
            match header.shape.kind() {
                ComponentKind::Home => transition.old_dek(&dek).map(drop)?,
                ComponentKind::Disk => cursor = Some(genuine_progress(&storage, &header, transition, &dek)?),
            }
            let under_way = UnderWay::of(&storage, &header)?.map_or_else(String::new, UnderWay::describe);
            result += &format!("; a deep rekey is under way, {under_way}");
        }
        let there = Point::of(&stored.header, &dek)?.at(cursor);
        let (mut state, compared) = self.compare(there.clone());
        result += &compared;
        let Some(disk) = header.shape.disk() else {
            if !header.binds_disks {
                result += "; its disks are not bound to it: `vmcryptfs upgrade VM_FOLDER` binds them";
            } else if !header.lists_disks {
                result += "; it has no list of its disks: `vmcryptfs upgrade VM_FOLDER` makes it";
            }
            let listed = Listed::of(self.check.open, entry, (&header, &dek), &self.memory)?;
            if let Some(gone_back) = listed.past.as_ref().and_then(Past::gone_back) {
                state = State::Problem(Kind::ReadOnly);
                result += &format!("; {}", gone_back.error());
            }
            return Ok(Examined { state, result, keys: Some((HomeKeys::of(&header, &dek)?, listed, header)) });
        };
        if let Some(home) = entry.vm.as_deref().and_then(|vm| self.homes.get(vm)) {
            home.listed.refuse(&header, entry)?;
            if let Some(gone_back) = home.listed.gone_back(&there)?.filter(|_| state == State::Good) {
                state = State::Problem(Kind::ReadOnly);
                result += &format!("; {}", gone_back.error());
            }
        }
        let len = storage.len()?;
        disk.refuse_wrong_len(len)?;
        let plain_len = disk.plain_len(len);
        match disk.kind.layout().why_unchecked().filter(|_| self.check.data) {
            Some(why) => result += &format!("; its {plain_len} bytes of data {why}"),
            None => result += &format!("; it has {plain_len} bytes of data"),
        }
        if is_raw_image(&entry.path) && !plain_len.is_multiple_of(512) {
            result += "; that is not a multiple of 512: it may have been cut off";
        }
        Ok(Examined { state, result, keys: None })
    }

    /// Compares a component with what this host has seen of it.
    fn compare(&self, there: Point) -> (State, String) {
        let known = self.memory.describe(there.uuid()).map(|known| format!("this host's memory of {known}"));
        let shared = self.memory.describe_shared(&there);
        let known = [known, shared].into_iter().flatten().reduce(|host, shared| format!("{host}, and with {shared}"));
        match (self.memory.meet(there).gone_back(), known) {
            (Some(gone_back), _) => (State::Problem(Kind::ReadOnly), format!("; {}", gone_back.error())),
            (None, Some(known)) => (State::Good, format!("; compared with {known}")),
            (None, None) => (State::Good, "; this host has not seen it before".to_owned()),
        }
    }

    /// What is sealed under a home's keys: a file, a link, values of extended attributes.
    fn of_home(&mut self, entry: &'e Entry) {
        let Some(home) = entry.vm.as_deref().and_then(|vm| self.homes.get_mut(vm)) else { return };
        if let Err(error) = home.listed.refuse_home_file(entry) {
            self.add(&entry.path, "file", None, State::Problem(error.kind()), error.chain());
            return;
        }
        if matches!(entry.what, What::Sealed | What::Disk(_)) && !self.seen.insert(entry.inode()) {
            return;
        }
        let sealed = Sealed { open: self.check.open, keys: &home.keys, data: self.check.data };
        match sealed.check(entry, &mut home.tally) {
            Ok(None) => {}
            Ok(Some(why)) => {
                let advice = format!(
                    "genuine; a home file that looks like a disk ({why}): `vmcryptfs convert FILE` makes it one"
                );
                self.add(&entry.path, "file", None, State::Good, advice);
            }
            Err(error) => self.add(&entry.path, "file", None, State::Problem(error.kind()), error.chain()),
        }
    }

    /// What was looked at belongs to what is said of a home, but for what lies in the place of a disk.
    fn tell_of_files(&mut self, inventory: &Inventory) {
        for (vm, home) in &self.homes {
            let misplaced = home.listed.misplaced(vm, inventory);
            let is_told = |found| matches!(found, Found::Nothing | Found::NoHeader | Found::Other(_));
            // An older list has disks that were removed since.
            let is_older = home.listed.past.as_ref().is_some_and(|past| past.gone_back().is_some());
            for other in misplaced.iter().filter(|other| is_told(other.found)) {
                let path = vm.join(&other.path);
                let kind = if is_older && other.found == Found::Nothing { Kind::ReadOnly } else { Kind::Corrupt };
                let (state, result) = (State::Problem(kind), other.message.clone());
                // A link, and what it leads to, have one path.
                let mut there = self.findings.iter_mut().enumerate().filter(|(_, finding)| finding.path == path);
                match there.next() {
                    Some((_, finding)) => {
                        (finding.state, finding.result) = (state, result);
                        self.led_to.extend(there.map(|(at, _)| at));
                    }
                    None => self.findings.push(Finding { path, kind: "disk", uuid: None, state, result }),
                }
            }
        }
    }

    /// How much of each home was proven. Where something is wrong, that is not all of it.
    fn tell_of_tallies(&mut self) {
        for (vm, home) in &self.homes {
            let is_problem = |finding: &Finding| matches!(finding.state, State::Problem(_));
            let is_all = !self.findings.iter().any(|finding| finding.path.starts_with(vm) && is_problem(finding));
            self.findings[home.finding].result.push_str(&home.tally.describe(self.check.data, is_all));
        }
    }

    /// What a home's manifest shows is said of the home.
    fn compare_manifests(&mut self) {
        for (vm, home) in &self.homes {
            let compared = (self.check.open)(vm).and_then(|dir| {
                let tree = HomeTree {
                    dir: &dir,
                    header: &home.header,
                    keys: &home.keys,
                    memory: &self.memory,
                    go_on: &to_the_end,
                };
                if tree.is_kept() { tree.prove().map(Some) } else { Ok(None) }
            });
            let finding = &mut self.findings[home.finding];
            match compared.unwrap_or_else(|error| Some(Proof::failed(&error))) {
                None => {}
                Some(proof) => {
                    if let Some(found) = proof.describe() {
                        finding.state = State::Problem(Kind::Corrupt);
                        finding.result += &format!("; {found}");
                    }
                    let unproven = proof.describe_unproven();
                    let sealed = || proof.describe_sealed().filter(|_| proof.findings.is_empty());
                    if let Some(more) = unproven.or_else(sealed) {
                        finding.result += &format!("; {more}");
                    }
                }
            }
        }
    }

    fn tell_of_lost_headers(&mut self, inventory: &Inventory) {
        for folder in inventory.folders_without_header() {
            self.add(folder, "folder", None, State::Problem(Kind::Corrupt), headless_what());
        }
    }

    fn tell_of_nested(&mut self, inventory: &Inventory) {
        for (inner, outer) in inventory.nested_folders() {
            self.add(inner, "folder", None, State::Problem(Kind::Corrupt), nested_what(outer));
        }
    }

    fn add(&mut self, path: &Path, kind: &'static str, uuid: Option<Uuid>, state: State, result: String) {
        self.findings.push(Finding { path: path.to_path_buf(), kind, uuid, state, result });
    }
}

/// Whether a disk of this name is as long as its guest sees it.
fn is_raw_image(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".raw", ".img", "-flat.vmdk"].iter().any(|ending| name.ends_with(ending))
}

/// A copy that does not count must be the owner's all the same. During a deep rekey it may be under the DEK before.
fn verify_older(stored: &StoredHeader, header: &Header, dek: &Dek) -> Result<()> {
    match &stored.other {
        OtherCopy::Older(older) if older.claims().dek_generation == header.dek_generation => {
            let verified = older.as_ref().clone().verify(dek).map(drop);
            verified.map_err(|error| Error::with_source(Kind::Corrupt, "the header copy that is not in use", error))
        }
        OtherCopy::Older(_) | OtherCopy::Same | OtherCopy::Damaged(_) => Ok(()),
    }
}

fn clear_finding(entry: &Entry) -> Option<Finding> {
    let (kind, result) = entry.in_the_clear()?;
    Some(Finding { path: entry.path.clone(), kind, uuid: None, state: State::Clear, result })
}

fn other_file_finding(entry: &Entry) -> Option<Finding> {
    let What::Clear(kind) = entry.what else { return None };
    let result = format!("in the clear: {}", clear_what(kind));
    Some(Finding { path: entry.path.clone(), kind: "file", uuid: None, state: State::Clear, result })
}

/// A fifo or socket holds nothing, but a device may be a disk, and what a mount shows lies in another folder.
fn not_looked_at(entry: &Entry) -> Option<Finding> {
    let (kind, what) = match entry.what {
        What::Special(what) => ("file", what),
        What::Mount => ("folder", "a mount of vmcryptfs"),
        What::Folder(_)
        | What::Home(_)
        | What::Disk(_)
        | What::Erased(_)
        | What::SavedHeader(_)
        | What::Sealed
        | What::Clear(_)
        | What::Empty(_)
        | What::Link(_)
        | What::Unreadable(_) => return None,
    };
    Some(Finding { path: entry.path.clone(), kind, uuid: None, state: State::NotLookedAt, result: what.to_owned() })
}

fn unreadable_finding(entry: &Entry) -> Option<Finding> {
    let (kind, problem, result) = match &entry.what {
        What::Folder(FolderKind::SeveralHeaders(first, second)) => {
            let error = home_state::two_headers(*first, *second);
            ("folder", error.kind(), error.chain())
        }
        What::Unreadable(error) | What::SavedHeader(Err(error)) => ("file", error.kind(), error.chain()),
        What::Folder(_)
        | What::Home(_)
        | What::Disk(_)
        | What::Erased(_)
        | What::SavedHeader(Ok(_))
        | What::Sealed
        | What::Clear(_)
        | What::Empty(_)
        | What::Link(_)
        | What::Special(_)
        | What::Mount => return None,
    };
    Some(Finding { path: entry.path.clone(), kind, uuid: None, state: State::Problem(problem), result })
}

/// Two components of one folder with one UUID: a copy, or a header that was put where it does not belong. Neither the headers nor
/// the data of a disk can tell which.
fn tell_of_twins(inventory: &Inventory, findings: &mut [Finding]) {
    let mut first: HashMap<(Option<&Path>, Uuid), &Entry> = HashMap::new();
    for (entry, _, headers) in inventory.components().filter(|(entry, ..)| !entry.reserved) {
        let Some(uuid) = headers.unverified().map(|header| header.claims().uuid) else { continue };
        let folder = entry.vm.as_deref().or_else(|| entry.path.parent());
        let twin = *first.entry((folder, uuid)).or_insert(entry);
        if twin.inode() == entry.inode() {
            continue;
        }
        let found =
            findings.iter_mut().find(|finding| finding.path == entry.component_path() && finding.uuid == Some(uuid));
        if let Some(finding) = found.filter(|finding| finding.state == State::Good) {
            finding.state = State::Problem(Kind::Corrupt);
            finding.result = format!(
                "it has the UUID of {}: one is a copy of the other, or one of the two has the wrong header, and then its data \
                 is unreadable",
                twin.component_path().shown()
            );
        }
    }
}

/// VM folders with one UUID are copies of one VM, which may be meant: it is said of each, and is no problem by itself.
fn tell_of_copies(inventory: &Inventory, findings: &mut [Finding]) {
    type ByInode<'a> = BTreeMap<Option<(u64, u64)>, &'a Path>;
    let mut homes: BTreeMap<Uuid, ByInode<'_>> = BTreeMap::new();
    for (entry, _, headers) in inventory.components().filter(|(entry, ..)| entry.is_own_header()) {
        if let Some(header) = headers.unverified() {
            homes.entry(header.claims().uuid).or_default().entry(entry.inode()).or_insert(entry.component_path());
        }
    }
    for (uuid, folders) in homes.into_iter().filter(|(_, folders)| folders.len() > 1) {
        let mut folders: Vec<&Path> = folders.into_values().collect();
        folders.sort();
        let copies = scan::describe_copies(uuid, &folders);
        for finding in findings.iter_mut().filter(|finding| finding.kind == "home" && finding.uuid == Some(uuid)) {
            finding.result += &format!("; {copies}");
        }
    }
}
