//! Another name for a provider with a primary key, such as one whose name the cluster of this host has for its own.
//!
//! Headers name a key by its provider and by the primary key that wraps it. A provider remembers the names that it had, and
//! keys of those names that its primary keys wrap are its own.

use std::fs;
use std::path::{Path, PathBuf};

use super::backup::primary_key_of;
use super::config::{self, Config};
use super::generations::Generations;
use super::kind::{self, Configured, Settings};
use super::{primary_key, private_file};
use crate::error::{Context, Error, Kind, Result};
use crate::key::ProviderName;
use crate::text::Show;

/// Gives a provider another name, and its files in the usual places the names that they have by it. What a crash leaves is finished by
/// another call.
///
/// # Errors
/// `NotFound` without such a provider, `Exists` when the name is taken, `Unsupported` for a provider without a primary key and for one
/// with several, `Io`; then it has the name that it had.
pub fn rename(config: &Path, old: &ProviderName, new: &ProviderName) -> Result<()> {
    let mut moved = Vec::new();
    let changed = config::update(config, |configured| {
        let settings = configured.settings(old)?.clone();
        if configured.providers().contains_key(new) {
            return Err(Error::new(Kind::Exists, format!("a key provider {new} is configured already")));
        }
        let primary = primary_key_of(&settings)?;
        let generations = Generations::of(primary.primary_key_of(config));
        if generations.has_others()? {
            let message = format!(
                "provider {old} has several primary keys, which the cluster of this host gave it under this name"
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        let (renamed, files) = renamed(config, primary, old, new);
        let renamed = Settings::new(settings.kind(), kind::table(&renamed)?);
        move_all(files, &mut moved)?;
        Configured { name: new, settings: &renamed, config }.open()?;
        configured.rename(old, new, renamed)
    });
    // An error of writing it can come when it is in its place.
    if changed.is_err() && Config::load(config).is_ok_and(|configured| !configured.providers().contains_key(new)) {
        let back = moved.into_iter().map(|(from, to)| (to, from)).collect();
        move_all(back, &mut Vec::new())?;
    }
    changed
}

/// What the provider is configured as, and which files have other names then.
fn renamed(
    config: &Path,
    before: primary_key::Settings,
    old: &ProviderName,
    new: &ProviderName,
) -> (primary_key::Settings, Vec<(PathBuf, PathBuf)>) {
    let folder = private_file::folder_of(config);
    let mut after = before.clone();
    let mut files = Vec::new();
    let usual = primary_key::Settings::of(old).primary_key;
    if before.primary_key == usual {
        after.primary_key = primary_key::Settings::of(new).primary_key;
        files.push((before.primary_key_of(config), after.primary_key_of(config)));
    }
    let sealed = |name: &ProviderName| folder.join(format!("keys/{name}.kek-share"));
    files.push((sealed(old), sealed(new)));
    after.former_names.retain(|name| name != new.as_str());
    after.former_names.push(old.to_string());
    (after, files)
}

/// Moves files that are there, and says which in `moved`. One that was moved before stays.
fn move_all(files: Vec<(PathBuf, PathBuf)>, moved: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
    for (from, to) in files.into_iter().filter(|(from, _)| from.symlink_metadata().is_ok()) {
        if to.symlink_metadata().is_ok() {
            let message = format!("{} is there already, and a provider of that name may need it", to.shown());
            return Err(Error::new(Kind::Exists, message));
        }
        let renaming = || format!("renaming {} to {}", from.shown(), to.shown());
        fs::rename(&from, &to).context(renaming)?;
        let synced = private_file::sync_folder(private_file::folder_of(&to)).context(renaming);
        moved.push((from, to));
        synced?;
    }
    Ok(())
}

/// The provider, if it is configured under another name now, of a primary key that headers know under a former one.
pub(super) fn present_name(
    config: &Path,
    configured: &Config,
    former: &ProviderName,
    primary: uuid::Uuid,
) -> Option<ProviderName> {
    let is_it = |settings: &Settings| {
        let Some(primary_key) = settings.primary_key().ok().flatten() else { return false };
        let had_the_name = primary_key.former_names.iter().any(|name| name == former.as_str());
        had_the_name && Generations::of(primary_key.primary_key_of(config)).find(primary).is_ok_and(|key| key.is_some())
    };
    configured.providers().iter().find(|(_, settings)| is_it(settings)).map(|(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyId;
    use crate::provider::kind::Arguments;
    use crate::provider::{Providers, add, round_trip};

    fn name(name: &str) -> ProviderName {
        ProviderName::new(name).unwrap()
    }

    fn host() -> (tempfile::TempDir, PathBuf, KeyId) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        private_file::replace(&config, &[b"# mine\n"]).unwrap();
        add(&config, &name("shared"), "native", &Arguments::default(), false).unwrap();
        let providers = Providers::load(&config).unwrap();
        let key = round_trip(providers.provider(&name("shared")).unwrap().as_ref()).unwrap();
        (dir, config, key)
    }

    #[test]
    fn keys_of_a_renamed_provider_are_its_own_beside_another_of_the_former_name() {
        let (_dir, config, key) = host();
        rename(&config, &name("shared"), &name("mine")).unwrap();
        assert!(fs::read_to_string(&config).unwrap().contains("# mine\n"), "comments stay");
        Providers::load(&config).unwrap().fetch(&key).unwrap();
        add(&config, &name("shared"), "native", &Arguments::default(), false).unwrap();
        let providers = Providers::load(&config).unwrap();
        providers.fetch(&key).unwrap();
        let others = round_trip(providers.provider(&name("shared")).unwrap().as_ref()).unwrap();
        providers.fetch(&others).unwrap();
        assert_eq!((providers.present_name(&key), providers.present_name(&others)), (name("mine"), name("shared")));
        assert_eq!(providers.default_provider().unwrap().0, name("mine"));
        // Back again, once the name is free.
        assert_eq!(rename(&config, &name("mine"), &name("shared")).unwrap_err().kind(), Kind::Exists);
        rename(&config, &name("shared"), &name("other")).unwrap();
        rename(&config, &name("mine"), &name("shared")).unwrap();
        let providers = Providers::load(&config).unwrap();
        [&key, &others].into_iter().for_each(|key| drop(providers.fetch(key).unwrap()));
        assert_eq!((providers.present_name(&key), providers.present_name(&others)), (name("shared"), name("other")));
    }

    #[test]
    fn a_rename_that_fails_changes_nothing_and_one_that_was_interrupted_is_finished() {
        let (dir, config, key) = host();
        let (old, new) = (dir.path().join("keys/shared.key"), dir.path().join("keys/mine.key"));
        fs::write(&new, "in the way").unwrap();
        let before = fs::read(&config).unwrap();
        let error = rename(&config, &name("shared"), &name("mine")).unwrap_err();
        assert!(error.kind() == Kind::Exists && error.chain().contains("mine.key is there already"), "{error}");
        assert!(old.exists() && fs::read(&config).unwrap() == before && fs::read(&new).unwrap() == b"in the way");
        fs::rename(&old, &new).unwrap(); // as far as an interrupted one came
        rename(&config, &name("shared"), &name("mine")).unwrap();
        Providers::load(&config).unwrap().fetch(&key).unwrap();
    }

    #[test]
    fn files_have_their_former_names_where_the_configuration_cannot_be_written_and_others_are_left_alone() {
        let (dir, config, key) = host();
        let foreign = dir.path().join("keys/mine.kek-share");
        fs::write(&foreign, "of another").unwrap();
        let in_the_way = dir.path().join(".config.toml.new");
        fs::create_dir(&in_the_way).unwrap();
        assert_eq!(rename(&config, &name("shared"), &name("mine")).unwrap_err().kind(), Kind::Io);
        Providers::load(&config).unwrap().fetch(&key).unwrap();
        assert!(fs::read(&foreign).unwrap() == b"of another" && !dir.path().join("keys/shared.kek-share").exists());
        fs::remove_dir(&in_the_way).unwrap();
        rename(&config, &name("shared"), &name("mine")).unwrap();
        Providers::load(&config).unwrap().fetch(&key).unwrap();
    }
}
