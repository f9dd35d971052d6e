//! Which components keys open below datastores. Headers say it, so no key is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::key::{KeyId, KeyName};
use crate::operations::whole;
use crate::progress::to_the_end;
use crate::text::Show;
use crate::vm::folder;
use crate::vm::in_use::{InUse, KeyUse, LookedAt, Wanted};
use crate::vm::inventory::Inventory;

/// At most this many components are named in a refusal.
const MAX_NAMED: usize = 5;

/// What the wanted keys open in datastores or VM folders. Of several, paths say of which one.
///
/// # Errors
/// `Invalid` for a folder in which nothing needs a key that can be seen: a wrong one would seem to need none; or `Io`.
pub fn search(wanted: &Wanted, datastores: &[PathBuf]) -> Result<InUse> {
    let mut found = InUse::default();
    for datastore in datastores {
        let name = |path: PathBuf| if datastores.len() > 1 { whole(datastore, &path) } else { path };
        found.add(wanted.search(&inventory(datastore)?), name);
    }
    Ok(found)
}

/// Refuses keys that a header in one of the datastores names, or may name. `on_saved_header` gets the path of each saved header that
/// names one of them. Returns what was looked at.
///
/// # Errors
/// `Denied` for a key that is needed, that of the first header that cannot be read, and those of [`search`].
pub fn refuse_keys_in_use(
    keys: &[KeyId],
    datastores: &[PathBuf],
    on_saved_header: &dyn Fn(&Path, &KeyId),
) -> Result<LookedAt> {
    let mut users: BTreeMap<&KeyId, Vec<String>> = BTreeMap::new();
    let mut looked_at = LookedAt::default();
    for datastore in datastores {
        let inventory = inventory(datastore)?;
        for key_id in keys {
            let in_use = Wanted::of(key_id).search(&inventory);
            refuse_unreadable(datastore, &in_use)?;
            in_use.saved_headers.iter().for_each(|saved| on_saved_header(&whole(datastore, &saved.path), key_id));
            if !in_use.components.is_empty() {
                let paths = in_use.components.iter().map(|user| shown(datastore, user, key_id));
                users.entry(key_id).or_default().extend(paths);
            }
        }
        looked_at.add(LookedAt::of(&inventory));
    }
    let Some((key_id, paths)) = users.first_key_value() else { return Ok(looked_at) };
    let named = some_of(paths);
    let message = format!("key {key_id} is needed by {named}: `vmcryptfs rekey VM_FOLDER` gives a VM another one");
    Err(Error::new(Kind::Denied, message))
}

/// Refuses primary keys whose KEKs a header in one of the datastores names, or may name. `on_saved_header` gets the path of each
/// saved header that names one. Returns what was looked at.
///
/// # Errors
/// Those of [`refuse_keys_in_use`].
pub fn refuse_primaries_in_use(
    primaries: &[Uuid],
    datastores: &[PathBuf],
    on_saved_header: &dyn Fn(&Path),
) -> Result<LookedAt> {
    let wanted = Wanted { primaries: primaries.to_vec(), ..Wanted::default() };
    let mut looked_at = LookedAt::default();
    let mut users = Vec::new();
    for datastore in datastores {
        let inventory = inventory(datastore)?;
        let in_use = wanted.search(&inventory);
        refuse_unreadable(datastore, &in_use)?;
        in_use.saved_headers.iter().for_each(|saved| on_saved_header(&whole(datastore, &saved.path)));
        users.extend(in_use.components.iter().map(|user| whole(datastore, &user.path).shown().to_string()));
        looked_at.add(in_use.looked_at);
    }
    match users.is_empty() {
        true => Ok(looked_at),
        false => Err(Error::new(
            Kind::Denied,
            format!(
                "a former primary key is needed by {}: `vmcryptfs rekey --old-generations DATASTORE` replaces it",
                some_of(&users)
            ),
        )),
    }
}

fn refuse_unreadable(datastore: &Path, in_use: &InUse) -> Result<()> {
    let Some(unreadable) = in_use.unreadable.first() else { return Ok(()) };
    let path = whole(datastore, &unreadable.path);
    let message = format!("{} may need the key, but cannot be read: {}", path.shown(), unreadable.reason);
    Err(Error::new(unreadable.kind, message))
}

/// The first of them, and how many more there are.
fn some_of(names: &[String]) -> String {
    let named = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// All that lies below a datastore or VM folder.
fn inventory(datastore: &Path) -> Result<Inventory> {
    let inventory = Inventory::take_with_links(&folder::open_dir(datastore)?, &DiskNames::default(), &to_the_end)
        .context(|| datastore.shown().to_string())?;
    let nothing = LookedAt::of(&inventory).is_nothing() && inventory.unreadable().next().is_none();
    match nothing && inventory.folders_without_header().is_empty() {
        true => Err(Error::new(Kind::Invalid, format!("{} holds no encrypted VM folder or disk", datastore.shown()))),
        false => Ok(inventory),
    }
}

/// A component, and the name that it has for the key if that is another one.
fn shown(datastore: &Path, user: &KeyUse, key_id: &KeyId) -> String {
    let path = whole(datastore, &user.path).shown().to_string();
    let wanted = KeyName::of(key_id).to_string();
    let names: Vec<String> = user.keys.iter().map(KeyName::to_string).collect();
    match names.contains(&wanted) {
        true => path,
        false => format!("{path} (which names it {}: that may be the same key)", names.join(", ")),
    }
}
