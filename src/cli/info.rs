//! `info`: what headers say, which needs no key, and nothing of which is proven; of a VM folder also its files, and its VMDKs
//! if the home's key can be had.

mod vm;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::{out, size, table};
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header, Shape};
use crate::key::KeyName;
use crate::sector;
use crate::storage::Storage;
use crate::store::header_area::{OtherCopy, StoredHeader};
use crate::text::Show;
use crate::vm::deep_rekey::UnderWay;
use crate::vm::{disk, folder, scan};
use vm::VmInfo;

/// Of what.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs info web01/root.raw\n  vmcryptfs info web01\n\n\
    Of a VM folder it also lists VMDKs, their extents and parents, and home files. For the VMDKs it asks the provider for the\n\
    home's key, if there may be any; without the key it shows the rest.\n\
    `vmcryptfs check` proves with the key that a header is genuine.")]
pub(super) struct InfoArgs {
    /// A VM folder, or a disk in one
    #[arg(value_name = "PATH")]
    path: PathBuf,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    deep_rekey: Option<UnderWay>,
    /// Of a home that was asked for by its VM folder.
    #[serde(flatten)]
    vm: Option<VmInfo>,
}

pub(super) fn run(args: &InfoArgs, config: &dyn Fn() -> Result<PathBuf>) -> Result<()> {
    // What can be read is shown, also if something else cannot.
    let (infos, unread): (Vec<_>, Vec<_>) = match args.path.is_dir() {
        true => folder_infos(&args.path, config)?,
        false => vec![disk_info(&args.path)],
    }
    .into_iter()
    .partition(Result::is_ok);
    let infos: Vec<HeaderInfo> = infos.into_iter().flatten().collect();
    if args.json {
        out::json(&infos)?;
    } else if let [info] = infos.as_slice() {
        print_one(info);
    } else if !infos.is_empty() {
        print_many(&infos);
    }
    if !args.json {
        infos.iter().filter_map(|info| info.vm.as_ref()).for_each(VmInfo::print);
    }
    unread.into_iter().try_for_each(|error| error.map(drop))
}

fn folder_infos(path: &Path, config: &dyn Fn() -> Result<PathBuf>) -> Result<Vec<Result<HeaderInfo>>> {
    let dir = folder::open_dir(path)?;
    let found = scan::scan(&dir)?;
    if found.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{} is no encrypted VM folder, nor does it hold any", path.shown()),
        ));
    }
    let info = |component: scan::FoundComponent| match component.kind {
        ComponentKind::Home => {
            let path = path.join(&component.path);
            let stored = component.header.context(|| format!("home of {}", path.shown()))?;
            let mut info = header_info(path, &stored, None, component.deep_rekey);
            // A datastore's VMs are asked for one by one: each takes a key.
            if component.path.as_os_str().is_empty() {
                info.vm = Some(VmInfo::of(&dir, &stored, config)?);
            }
            Ok(info)
        }
        ComponentKind::Disk => disk_info(&path.join(&component.path)),
    };
    Ok(found.into_iter().map(info).collect())
}

fn disk_info(path: &Path) -> Result<HeaderInfo> {
    let describe = || path.shown().to_string();
    let (storage, stored) =
        std::fs::File::open(path).context(describe).and_then(disk::read_header).context(describe)?;
    let lengths = (storage.len()?, storage.allocated()?);
    let deep_rekey = UnderWay::of(&storage, stored.header.claims())?;
    Ok(header_info(path.to_path_buf(), &stored, Some(lengths), deep_rekey))
}

fn header_info(
    path: PathBuf,
    stored: &StoredHeader,
    lengths: Option<(u64, u64)>,
    deep_rekey: Option<UnderWay>,
) -> HeaderInfo {
    let claims: &Header = stored.header.claims();
    let (cipher, sector_size, data_offset) = match claims.shape {
        Shape::Home => ("XAES-256-GCM", None, None),
        Shape::Disk { sector_size, data_offset } => ("AES-256-XTS", Some(sector_size.bytes()), Some(data_offset)),
    };
    HeaderInfo {
        path,
        kind: claims.shape.kind().word(),
        uuid: claims.uuid,
        cipher,
        sector_size,
        data_offset,
        size: lengths.zip(data_offset).map(|((len, _), data)| sector::plain_len(len.saturating_sub(data))),
        allocated: lengths.map(|(_, allocated)| allocated),
        sequence: claims.sequence,
        dek_generation: claims.dek_generation,
        label: claims.label.clone(),
        keys: claims.slots.iter().map(|slot| KeyName::of(&slot.key_id)).collect(),
        other_copy: match &stored.other {
            OtherCopy::Same => "same".to_owned(),
            OtherCopy::Older(older) => format!("older (sequence {})", older.claims().sequence),
            OtherCopy::Damaged(error) => format!("damaged: {}", error.chain()),
        },
        deep_rekey,
        vm: None,
    }
}

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
    lines.push(("Other copy", info.other_copy.clone()));
    lines.extend(info.deep_rekey.map(|under_way| ("Deep rekey", format!("under way, {}", under_way.describe()))));
    for (name, value) in lines {
        println!("{:<13} {value}", format!("{name}:"));
    }
    for (number, key) in info.keys.iter().enumerate() {
        println!("Key slot {number}:   provider {}, key id {}", key.provider, key.key_id);
    }
}

fn print_many(infos: &[HeaderInfo]) {
    let row = |info: &HeaderInfo| {
        [
            info.path.shown().to_string(),
            info.kind.to_owned(),
            info.size.map_or_else(|| "-".to_owned(), size::show),
            info.uuid.to_string(),
            info.keys.iter().map(|key| key.provider.as_str()).collect::<Vec<_>>().join(", "),
        ]
    };
    let rows: Vec<[String; 5]> = infos.iter().map(row).collect();
    table::print(["PATH", "KIND", "SIZE", "UUID", "PROVIDERS"], &rows);
}
