//! `vmcryptfs provider` with key servers, as typed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::{Command, FromArgMatches, Subcommand};
use vmcryptfs::cli::provider::{ProviderCommand, run};
use vmcryptfs::error::{Kind, Result};
use vmcryptfs::provider::Providers;

use crate::pykmip::PyKmip;
use crate::site::{Site, make, name};

/// `vmcryptfs provider ARGUMENTS`.
fn provider(config: &Path, arguments: &str) -> Result<()> {
    let command = ProviderCommand::augment_subcommands(Command::new("provider"));
    let typed = std::iter::once("provider").chain(arguments.split_whitespace());
    let matches = command.try_get_matches_from(typed).unwrap_or_else(|error| panic!("{error}"));
    run(ProviderCommand::from_arg_matches(&matches).unwrap(), config)
}

fn add(site: &Site, ports: &[u16]) -> Result<()> {
    let servers: String = ports.iter().map(|port| format!(" --server 127.0.0.1:{port}")).collect();
    let (ca, cert, key) = (site.ca.cert(), &site.host.cert, &site.host.key);
    let files = format!("--ca {} --cert {} --key {}", ca.display(), cert.display(), key.display());
    provider(&site.path("etc/config.toml"), &format!("add kmip corp{servers} {files}"))
}

#[test]
fn a_key_server_is_added_tested_and_used() {
    let site = Site::new();
    let config = site.path("etc/config.toml");
    let (first, mut second) = (PyKmip::start(&site, "keys"), PyKmip::start(&site, "keys"));
    add(&site, &[first.port(), second.port()]).unwrap();
    assert_eq!(add(&site, &[first.port()]).unwrap_err().kind(), Kind::Exists);
    provider(&config, "test corp").unwrap();
    provider(&config, "list").unwrap();
    provider(&config, "list --json").unwrap();
    let (default, corp) = Providers::load(&config).unwrap().default_provider().unwrap();
    assert_eq!(default, name());
    make(&*corp, 1);

    second.kill();
    let error = provider(&config, "test corp").unwrap_err();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert_eq!(error.to_string(), "1 of 2 members of key provider corp failed");
}

#[test]
fn a_key_server_is_not_added_with_files_that_cannot_be_used() {
    let site = Site::new();
    let config = site.path("etc/config.toml");
    let kind_of_adding = || add(&site, &[1]).unwrap_err().kind();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&site.host.key, 0o640);
    assert_eq!(kind_of_adding(), Kind::Denied);
    mode(&site.host.key, 0o600);
    mode(&site.ca.cert(), 0o664);
    assert_eq!(kind_of_adding(), Kind::Denied);
    mode(&site.ca.cert(), 0o644);
    let key = fs::read(&site.host.key).unwrap();
    fs::copy(&site.server.key, &site.host.key).unwrap();
    assert_eq!(kind_of_adding(), Kind::Invalid, "the key of another certificate");
    fs::write(&site.host.key, "not PEM").unwrap();
    assert_eq!(kind_of_adding(), Kind::Invalid);
    fs::remove_file(&site.host.key).unwrap();
    assert_eq!(kind_of_adding(), Kind::NotFound);
    assert!(!config.exists());
    fs::write(&site.host.key, key).unwrap();
    mode(&site.host.key, 0o600);
    add(&site, &[1]).unwrap();

    let native = |verb: &str| provider(&config, verb).unwrap_err().kind();
    assert_eq!(native("backup corp nowhere --passphrase-file nowhere"), Kind::Unsupported);
}
