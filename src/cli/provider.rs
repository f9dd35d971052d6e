//! `vmcryptfs provider`: key providers added, listed, tested, chosen, backed up and restored.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "results go to stdout, advice to stderr")]

mod add;
pub(super) mod passphrase;
mod retire;
mod seal;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use crate::cli::progress::perform;
use crate::error::{Error, Kind, Result};
use crate::key::ProviderName;
use crate::operations::provider::{BackUpProvider, ChooseDefault, RenameProvider, RestoreProvider, TestProvider};
use crate::provider::config::Config;
use crate::provider::kind::{Configured, Settings, Tested};
use crate::provider::kinds::KINDS;
use crate::text::Show;
use passphrase::{PassphraseSource, Purpose};

/// Manage the key providers of this host: where the keys of VMs come from
#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// Add a key provider to this host
    #[command(
        subcommand,
        long_about = "Add a key provider to this host. The first one becomes the default: new VMs get their keys from \
                      it. Its name is permanent, since keys belong to the provider of that name.",
        after_help = "Example:\n  vmcryptfs provider add native local"
    )]
    Add(add::AddCommand),

    /// List the key providers and what is to be done about them
    #[command(
        long_about = "List the key providers of this host: name, kind, whether new VMs get their keys from it, whether \
                      it is backed up, and the UUID of its primary key.\n\n\
                      A provider is known by its name, as in vSphere: keys belong to the provider of that name.",
        after_help = "Example:\n  vmcryptfs provider list --json"
    )]
    List {
        /// Print JSON that stays the same between versions
        #[arg(long)]
        json: bool,
    },

    /// Prove that a key provider works
    #[command(
        long_about = "Prove that a key provider works, by doing with it what VMs need: a key is made, fetched again by \
                      its id, and has to unwrap what it wrapped. No VM is touched.\n\n\
                      Of a key server each member is tried on its own, and the key is destroyed. The days until \
                      certificates expire are reported.",
        after_help = "Example:\n  vmcryptfs provider test local"
    )]
    Test {
        /// Name of the provider
        #[arg(value_parser = provider_name)]
        name: ProviderName,
    },

    /// Choose the provider that new VMs get their keys from
    #[command(
        long_about = "Choose the provider that new VMs get their keys from, as \"Set as Default\" does in vSphere. \
                      Existing VMs keep theirs.",
        after_help = "Example:\n  vmcryptfs provider default local"
    )]
    Default {
        /// Name of the provider
        #[arg(value_parser = provider_name)]
        name: ProviderName,
    },

    /// Give a native provider another name
    #[command(
        long_about = "Give a native provider of this host another name. VMs whose keys have the former name open as before, on \
                      hosts where the provider was renamed; `rekey` gives a VM a key of the new name. A host whose \
                      provider has the name of one that its cluster shares needs this before it gets the cluster's.",
        after_help = "Example:\n  vmcryptfs provider rename shared mine\n  vmcryptfs cluster sync"
    )]
    Rename {
        /// Name of the provider
        #[arg(value_parser = provider_name)]
        name: ProviderName,
        /// The name that it gets
        #[arg(value_name = "NEW_NAME", value_parser = provider_name)]
        new: ProviderName,
    },

    /// Take keys out of use that nothing needs any more, and destroy them
    #[command(
        long_about = "Take keys out of use that nothing needs any more: the key server marks them as deactivated, or as \
                      compromised, and may refuse to give them out. With --destroy, destroy keys that were taken out of \
                      use before. Neither can be undone, so they are two steps: wait between them until the \
                      key has proved unneeded.\n\n\
                      Refused while a header in one of the datastores names the key, or cannot be read. Name every \
                      datastore whose VMs may need it, and run it as a user who can read all of them: what lies \
                      elsewhere, on other hosts or in backups, is not known here.",
        after_help = "Example:\n  vmcryptfs rekey /vms/web01\n  vmcryptfs provider retire corp 4711 --datastore /vms\n  \
                      vmcryptfs provider retire corp 4711 --datastore /vms --destroy"
    )]
    Retire(retire::RetireArgs),

    /// Seal the share of a provider's keys to the TPM of this host
    #[command(
        long_about = "Seal the share of a provider's keys (`provider add --kek-share`) to the TPM 2.0 of this host, which alone \
                      can then open it, and only here. The file of the share becomes its copy: move it off this host, and \
                      keep it, since a TPM that breaks or is cleared loses what is sealed to it.\n\n\
                      The same command seals the copy again, to another TPM, on another host or to other PCRs.",
        after_help = "Example:\n  vmcryptfs provider seal corp\n  vmcryptfs provider seal corp --share /media/usb/corp.share"
    )]
    Seal(seal::SealArgs),

    /// Save a native provider's primary key to a file under a passphrase
    #[command(
        long_about = "Save a native provider's primary key to a file under a passphrase, as \"Back Up\" does in vSphere \
                      and luksHeaderBackup for LUKS. Without the backup, the loss of this host's primary key is the \
                      loss of every VM encrypted under it. Keep the file on another machine and the passphrase in \
                      another place; one backup is enough for all present and future VMs.\n\n\
                      The file is read back and opened before the provider counts as backed up.",
        after_help = "Example:\n  vmcryptfs provider backup local /media/usb/local.vmcryptfs-backup"
    )]
    Backup {
        /// Name of the provider
        #[arg(value_parser = provider_name)]
        name: ProviderName,
        /// The backup file to make; it must not exist
        file: PathBuf,
        /// Where the passphrase comes from
        #[command(flatten)]
        passphrase: PassphraseSource,
    },

    /// Bring a native provider's primary key back, or to another host
    #[command(
        long_about = "Bring a native provider's primary key from its backup to this host: after a loss, or so that this \
                      host can open VMs of another one. The provider is added when this host does not have it; it keeps \
                      the name it had, since keys belong to the provider of that name. A primary key that is there is \
                      never overwritten by another.",
        after_help = "Example:\n  vmcryptfs provider restore local /media/usb/local.vmcryptfs-backup"
    )]
    Restore {
        /// Name of the provider, the same as when it was backed up
        #[arg(value_parser = provider_name)]
        name: ProviderName,
        /// The backup file
        file: PathBuf,
        /// Where the passphrase comes from
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
}

impl ProviderCommand {
    /// Whether it makes the configuration file where there is none.
    pub(super) fn makes_config(&self) -> bool {
        matches!(self, Self::Add(_) | Self::Restore { .. })
    }
}

/// Does it, with the configuration file `config`.
///
/// # Errors
/// Whatever stands in the way, in words for an administrator.
pub fn run(command: ProviderCommand, config: &Path) -> Result<()> {
    match command {
        ProviderCommand::Add(command) => command.run(config),
        ProviderCommand::List { json } => list(config, json),
        ProviderCommand::Test { name } => test(config, &name),
        ProviderCommand::Default { name } => choose_default(config, &name),
        ProviderCommand::Rename { name, new } => rename(config, &name, &new),
        ProviderCommand::Retire(args) => args.run(config),
        ProviderCommand::Seal(args) => args.run(config),
        ProviderCommand::Backup { name, file, passphrase } => back_up(config, &name, &file, &passphrase),
        ProviderCommand::Restore { name, file, passphrase } => restore(config, &name, &file, &passphrase),
    }
}

fn list(config: &Path, json: bool) -> Result<()> {
    let configured = Config::load(config)?;
    let rows = rows(&configured, config);
    if json {
        println!("{}", as_json(&rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        eprintln!("No key provider is configured. To make one: vmcryptfs provider add {} local", KINDS[0].name());
        return Ok(());
    }
    print!("{}", as_table(&rows));
    for row in &rows {
        if let Some(error) = &row.error {
            eprintln!("{}: {error}", row.name);
        } else if row.backed_up == Some(false) {
            advise_backup(row.name);
        }
    }
    Ok(())
}

fn test(config: &Path, name: &ProviderName) -> Result<()> {
    let show = |tested: &Tested| {
        print!("{}", tested.report);
        tested.notices.iter().for_each(|notice| eprintln!("{notice}"));
    };
    perform(TestProvider { name, config, show: &show })
}

fn choose_default(config: &Path, name: &ProviderName) -> Result<()> {
    perform(ChooseDefault { name, config })?;
    println!("new VMs get their keys from {name}");
    Ok(())
}

fn rename(config: &Path, name: &ProviderName, new: &ProviderName) -> Result<()> {
    perform(RenameProvider { name, new, config })?;
    println!("key provider {name} is {new} now");
    eprintln!("VMs whose keys have the former name open as before.");
    Ok(())
}

fn back_up(config: &Path, name: &ProviderName, file: &Path, source: &PassphraseSource) -> Result<()> {
    let uuid = perform(BackUpProvider { name, file, passphrase: &|| source.read(Purpose::Choose), config })?;
    println!("backed up key provider {name} with primary key {uuid} to {}", file.shown());
    eprintln!("Keep the file on another machine, and the passphrase in a different place.");
    if Config::load(config)?.settings(name)?.has_kek_share() {
        eprintln!(
            "It does not have the kek-share of {name}, without which the keys open nothing: keep a copy of that, too."
        );
    }
    Ok(())
}

fn restore(config: &Path, name: &ProviderName, file: &Path, source: &PassphraseSource) -> Result<()> {
    let (uuid, key_file) =
        perform(RestoreProvider { name, file, passphrase: &|| source.read(Purpose::Enter), config })?;
    println!("restored key provider {name} with primary key {uuid} in {}", key_file.shown());
    Ok(())
}

fn advise_backup(name: &str) {
    eprintln!(
        "{name} is not backed up. Without its primary key, every VM encrypted under it is lost. To back it up:\n  \
         vmcryptfs provider backup {name} FILE"
    );
}

pub(super) fn provider_name(text: &str) -> Result<ProviderName> {
    ProviderName::new(text)
}

/// A provider as `list` shows it; the names of fields are part of the command's interface. What does not apply to a
/// kind, or cannot be known now, is `None`.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'static str,
    default: bool,
    backed_up: Option<bool>,
    primary_key: Option<String>,
    error: Option<String>,
}

fn rows<'a>(configured: &'a Config, config: &Path) -> Vec<Row<'a>> {
    let row = |(name, settings): (&'a ProviderName, &Settings)| {
        let found = Configured { name, settings, config }.examine();
        let (primary_key, error) = found.map_or_else(|error| (None, Some(error.chain())), |uuid| (uuid, None));
        Row {
            name: name.as_str(),
            kind: settings.kind().name(),
            default: configured.default_name() == Some(name),
            backed_up: settings.primary_key().ok().flatten().map(|settings| settings.backed_up),
            primary_key: primary_key.map(|uuid| uuid.to_string()),
            error,
        }
    };
    configured.providers().iter().map(row).collect()
}

fn as_json(rows: &[Row<'_>]) -> Result<String> {
    serde_json::to_string_pretty(rows).map_err(|error| Error::with_source(Kind::Io, "writing the list as JSON", error))
}

fn as_table(rows: &[Row<'_>]) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("NAME".len());
    let mut table = format!("{:width$}  {:8}  {:7}  {:9}  PRIMARY KEY\n", "NAME", "KIND", "DEFAULT", "BACKED UP");
    for Row { name, kind, default, backed_up, primary_key, .. } in rows {
        let backed_up = backed_up.map_or("-", yes_no);
        let primary_key = primary_key.as_deref().unwrap_or("-");
        let default = yes_no(*default);
        table += &format!("{name:width$}  {kind:8}  {default:7}  {backed_up:9}  {primary_key}\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_is_known_and_what_is_wrong() {
        let rows = [
            Row {
                name: "local",
                kind: "native",
                default: true,
                backed_up: Some(false),
                primary_key: Some("6c1f".into()),
                error: None,
            },
            Row {
                name: "laboratory",
                kind: "native",
                default: false,
                backed_up: Some(true),
                primary_key: None,
                error: Some("no file".into()),
            },
        ];
        assert_eq!(
            as_table(&rows),
            "NAME        KIND      DEFAULT  BACKED UP  PRIMARY KEY\n\
             local       native    yes      no         6c1f\n\
             laboratory  native    no       yes        -\n"
        );
        let json: serde_json::Value = serde_json::from_str(&as_json(&rows).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::from_str::<serde_json::Value>(
                r#"[
                { "name": "local", "kind": "native", "default": true, "backed_up": false, "primary_key": "6c1f",
                  "error": null },
                { "name": "laboratory", "kind": "native", "default": false, "backed_up": true, "primary_key": null,
                  "error": "no file" }
                ]"#
            )
            .unwrap()
        );
    }
}
