//! `info`: what headers say, which needs no key, and nothing of which is proven; of a VM folder also its files, and its VMDKs
//! if the home's key is available.

mod vm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::cli::check::{disk_names, inventory_of, only_clear};
use crate::cli::{out, place, size, table};
use crate::error::{Context, Error, Result};
use crate::format::header::{ComponentKind, Header};
use crate::key::KeyName;
use crate::provider::Providers;
use crate::seen::{Comparison, Memory, Recalled};
use crate::store::header_area::{OtherCopy, StoredHeader};
use crate::sys::file::regular_at;
use crate::text::Show;
use crate::vm::disk;
use crate::vm::inventory::{Entry, Headers, Inventory, What, headless_what, nested_what};
use crate::vm::under_way::UnderWay;
use vm::VmInfo;

/// Arguments of `info`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs info web01/root.raw\n  vmcryptfs info web01\n\n\
    Of a VM folder it also lists VMDKs, their extents and parents, and home files. For the VMDKs it asks the provider for the \
    home's key, if there may be any; without the key it shows the rest. \
    `vmcryptfs check` proves with the key that a header is genuine.")]
pub(super) struct InfoArgs {
    /// A VM folder, or a disk in one
    #[arg(value_name = "PATH", value_parser = place::parser())]
    pub(super) path: PathBuf,
    /// List only what is not encrypted; the exit code is 7 if there is any
    #[arg(long)]
    only_clear: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A header without its keys. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct HeaderInfo {
    #[serde(with = "crate::text::path")]
    path: PathBuf,
    kind: &'static str,
    state: &'static str,
    uuid: uuid::Uuid,
    cipher: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sector_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated: Option<u64>,
    sequence: u64,
    dek_generation: u32,
    label: String,
    keys: Vec<KeyName>,
    other_copy: String,
    /// For people, who have `other_copy` in JSON.
    #[serde(skip)]
    damaged_copy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deep_rekey: Option<UnderWay>,
    /// The home that a disk names.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<uuid::Uuid>,
    /// Whether all disks of a home name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    binds_disks: Option<bool>,
    /// Whether a home has a list of its disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    lists_disks: Option<bool>,
    /// What this host has seen of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Recalled>,
    /// Of a home that was asked for by its VM folder.
    #[serde(flatten)]
    vm: Option<VmInfo>,
}

/// What has no header to show: a VM folder or file in the clear, or a component that was erased. Field names are part of the
/// stable JSON output.
#[derive(Serialize)]
struct OtherInfo {
    #[serde(with = "crate::text::path")]
    path: PathBuf,
    kind: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<uuid::Uuid>,
    reason: String,
}

/// One element of the output.
#[derive(Serialize)]
#[serde(untagged)]
enum Info {
    Header(Box<HeaderInfo>),
    Other(OtherInfo),
}

impl Info {
    fn header(&self) -> Option<&HeaderInfo> {
        if let Self::Header(info) = self { Some(info) } else { None }
    }
}

pub(super) fn run(args: &InfoArgs, config: &dyn Fn() -> Result<PathBuf>) -> Result<()> {
    let disk_names = disk_names(config().ok().as_deref());
    if args.only_clear {
        return only_clear(&args.path, &disk_names, args.json);
    }
    let inventory = inventory_of(&args.path, &disk_names)?;
    // What can be read is shown, also if something else cannot.
    let (infos, unread): (Vec<_>, Vec<_>) = infos(&args.path, &inventory, config)?.into_iter().partition(Result::is_ok);
    let infos: Vec<Info> = infos.into_iter().flatten().collect();
    if args.json {
        out::json(&infos)?;
    } else if let [Info::Header(info)] = infos.as_slice() {
        print_one(info);
    } else if !infos.is_empty() {
        print_many(&infos);
        let say = |is_so: fn(&HeaderInfo) -> bool, what: &str| {
            let found: Vec<&HeaderInfo> = infos.iter().filter_map(Info::header).filter(|info| is_so(info)).collect();
            match found[..] {
                [] => {}
                [only] => println!("Disks of {} are {}.", only.path.shown(), place::advised(&only.path, what)),
                _ => println!("Disks of {} of these VM folders are {what}.", found.len()),
            }
        };
        say(|info| info.binds_disks == Some(false), UNBOUND);
        say(|info| info.binds_disks == Some(true) && info.lists_disks == Some(false), UNLISTED);
    }
    if !args.json {
        for info in &infos {
            if let Info::Header(info) = info
                && let Some(why) = &info.damaged_copy
            {
                eprintln!("{}: {why}", info.path.shown());
            }
            if let Info::Header(info) = info
                && let Some(vm) = &info.vm
            {
                vm.print();
            }
        }
    }
    unread.into_iter().try_for_each(|error| error.map(drop))
}

fn infos(path: &Path, inventory: &Inventory, config: &dyn Fn() -> Result<PathBuf>) -> Result<Vec<Result<Info>>> {
    let mut infos = Vec::new();
    let memory = config().and_then(|config| Providers::load(&config)).map(|providers| Memory::of(&providers)).ok();
    // What is in the clear in a VM folder is listed with its other files, if they are.
    let is_whole = path.is_dir() && inventory.entries.iter().any(has_home_files);
    for entry in &inventory.entries {
        let whole = place::whole(path, entry.component_path());
        let of_vm = is_whole && entry.vm.as_deref().is_some_and(|vm| vm.as_os_str().is_empty());
        if let Some((kind, headers)) = entry.headers().filter(|_| !entry.reserved || entry.is_own_header()) {
            infos.push((whole.clone(), header_of(path, inventory, entry, (kind, headers), config, memory.as_ref())));
        } else if let What::Erased(mark) = &entry.what {
            let (kind, reason) = (mark.kind.word(), mark.describe());
            let info = OtherInfo { path: whole.clone(), kind, state: "erased", uuid: mark.uuid, reason };
            infos.push((whole, Ok(Info::Other(info))));
        } else if let Some((kind, reason)) = entry.in_the_clear().filter(|_| !of_vm && !entry.is_own_header()) {
            let info = OtherInfo { path: whole.clone(), kind, state: "clear", uuid: None, reason };
            infos.push((whole, Ok(Info::Other(info))));
        } else if let Some(error) = entry.unreadable() {
            infos.push((whole.clone(), Err(Error::new(error.kind(), format!("{}: {}", whole.shown(), error.chain())))));
        } else if !path.is_dir() {
            let why = || whole.shown().to_string();
            let read = regular_at(path).context(why).and_then(|file| disk::read_header(file).context(why));
            infos.extend(read.err().map(|error| (whole.clone(), Err(error))));
        }
    }
    for folder in inventory.folders_without_header() {
        let path = place::whole(path, folder);
        let info =
            OtherInfo { path: path.clone(), kind: "folder", state: "headless", uuid: None, reason: headless_what() };
        infos.push((path, Ok(Info::Other(info))));
    }
    for (inner, outer) in inventory.nested_folders() {
        let path = place::whole(path, inner);
        let info =
            OtherInfo { path: path.clone(), kind: "folder", state: "nested", uuid: None, reason: nested_what(outer) };
        infos.push((path, Ok(Info::Other(info))));
    }
    infos.sort_by(|(a, _), (b, _)| a.cmp(b)); // a home before its disks
    Ok(infos.into_iter().map(|(_, info)| info).collect())
}

fn header_of(
    path: &Path,
    inventory: &Inventory,
    entry: &Entry,
    (kind, headers): (ComponentKind, &Headers),
    config: &dyn Fn() -> Result<PathBuf>,
    memory: Option<&Arc<Memory>>,
) -> Result<Info> {
    let whole = place::whole(path, entry.component_path());
    let is_disk = kind == ComponentKind::Disk;
    let describe = || format!("{}{}", if is_disk { "" } else { "home of " }, whole.shown());
    let stored = headers.stored.as_ref().map_err(|error| Error::new(error.kind(), error.chain())).context(describe)?;
    entry.refuse_unfinished(stored.header.claims()).context(describe)?;
    let lengths = is_disk.then(|| (entry.stored_len(), entry.allocated()));
    let mut info = header_info(whole.clone(), stored, lengths, headers.deep_rekey);
    info.memory = memory.and_then(|memory| memory.recall(&stored.header));
    // A datastore's VMs are asked for one by one: each takes a key.
    if path.is_dir() && has_home_files(entry) {
        info.vm = Some(VmInfo::of(path, inventory, stored, config)?);
    }
    Ok(Info::Header(Box::new(info)))
}

/// Whether this is the header of the VM folder that was asked for, by which its files are listed: neither damaged nor erased.
fn has_home_files(entry: &Entry) -> bool {
    let is_own = entry.is_own_header() && entry.component_path().as_os_str().is_empty();
    let header = entry.headers().and_then(|(_, headers)| headers.unverified()).filter(|_| is_own);
    header.is_some_and(|header| entry.refuse_unfinished(header.claims()).is_ok())
}

fn header_info(
    path: PathBuf,
    stored: &StoredHeader,
    lengths: Option<(u64, u64)>,
    deep_rekey: Option<UnderWay>,
) -> HeaderInfo {
    let claims: &Header = stored.header.claims();
    let disk = claims.shape.disk();
    HeaderInfo {
        path,
        kind: claims.shape.kind().word(),
        state: "encrypted",
        uuid: claims.uuid,
        cipher: claims.shape.cipher(),
        sector_size: disk.map(|disk| disk.sector_size.bytes()),
        data_offset: disk.map(|disk| disk.data_offset),
        size: lengths.zip(disk).map(|((len, _), disk)| disk.plain_len(len)),
        allocated: lengths.map(|(_, allocated)| allocated),
        sequence: claims.sequence,
        dek_generation: claims.dek_generation,
        label: claims.label.clone(),
        keys: claims.slots.key_ids().map(KeyName::of).collect(),
        other_copy: match &stored.other {
            OtherCopy::Same => "same".to_owned(),
            OtherCopy::Older(older) => format!("older (sequence {})", older.claims().sequence),
            OtherCopy::Damaged(error) => format!("damaged: {}", error.chain()),
        },
        damaged_copy: stored.damaged_copy(),
        deep_rekey,
        owner: claims.owner,
        binds_disks: disk.is_none().then_some(claims.binds_disks),
        lists_disks: disk.is_none().then_some(claims.lists_disks),
        memory: None,
        vm: None,
    }
}

const UNLISTED: &str = "bound to the VM; their names are not: `vmcryptfs upgrade VM_FOLDER` makes a list of them";
const UNBOUND: &str = "not bound to the VM: `vmcryptfs upgrade VM_FOLDER` binds them";

fn print_one(info: &HeaderInfo) {
    let mut lines = vec![
        ("Path", info.path.shown().to_string()),
        ("Kind", info.kind.to_owned()),
        ("UUID", info.uuid.to_string()),
        ("Cipher", info.cipher.to_owned()),
    ];
    lines.extend(info.sector_size.map(|bytes| ("Sector size", format!("{bytes} bytes"))));
    lines.extend(info.data_offset.map(|offset| ("Data offset", format!("{offset} bytes"))));
    lines.extend(info.size.map(|bytes| ("Size", format!("{} ({bytes} bytes)", size::show(bytes)))));
    lines.extend(info.allocated.map(|bytes| ("Space taken", size::show(bytes))));
    lines.push(("Sequence", info.sequence.to_string()));
    if !info.label.is_empty() {
        lines.push(("Label", info.label.clone()));
    }
    lines.extend(info.owner.map(|home| ("VM", home.to_string())));
    let disks = |(bound, listed)| match (bound, listed) {
        (true, true) => "bound to the VM, and listed by it",
        (true, false) => UNLISTED,
        (false, _) => UNBOUND,
    };
    lines.extend(
        info.binds_disks.zip(info.lists_disks).map(|known| ("Disks", place::advised(&info.path, disks(known)))),
    );
    lines.push(("Other copy", info.other_copy.clone()));
    lines.extend(info.deep_rekey.map(|under_way| ("Deep rekey", format!("under way, {}", under_way.describe()))));
    lines.extend(info.memory.map(|recalled| ("This host", describe_memory(recalled))));
    for (name, value) in lines {
        println!("{:<13} {value}", format!("{name}:"));
    }
    for (number, key) in info.keys.iter().enumerate() {
        println!("Key slot {number}:   provider {}, key id {}", key.provider, key.key_id);
    }
}

fn describe_memory(Recalled { generation, sequence, comparison }: Recalled) -> String {
    let compared = match comparison {
        Comparison::Same => "which agrees",
        Comparison::Newer => "and this is newer",
        Comparison::Older => "and this is OLDER: see `vmcryptfs accept-rollback --help`",
    };
    format!("has seen generation {generation}, sequence {sequence}, {compared}")
}

fn print_many(infos: &[Info]) {
    let row = |info: &Info| match info {
        Info::Header(info) => [
            info.path.shown().to_string(),
            info.kind.to_owned(),
            info.size.map_or_else(|| "-".to_owned(), size::show),
            info.uuid.to_string(),
            info.keys.iter().map(|key| key.provider.as_str()).collect::<Vec<_>>().join(", "),
        ],
        Info::Other(info) => [
            info.path.shown().to_string(),
            info.kind.to_owned(),
            "-".to_owned(),
            info.uuid.map_or_else(|| "-".to_owned(), |uuid| uuid.to_string()),
            info.reason.clone(),
        ],
    };
    let rows: Vec<[String; 5]> = infos.iter().map(row).collect();
    table::print(["PATH", "KIND", "SIZE", "UUID", "PROVIDERS"], &rows);
}
