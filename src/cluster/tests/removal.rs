//! What becomes of a host that is removed, and of what it had.

use super::*;
use crate::provider::generations::Generations;

const COMPROMISED: Removal = Removal { compromised: true, evicted: false, presumed_destroyed: false };

impl Site {
    fn status(&self) -> ClusterStatus {
        ClusterStatus::of(&self.session("h1").unwrap()).unwrap()
    }

    fn state(&self, host: &str) -> HostState {
        self.status().hosts.iter().find(|status| status.name == host).unwrap().state
    }
}

#[test]
fn a_removed_host_is_to_be_seen_to_until_it_has_wiped_or_an_admin_says_that_it_never_will() {
    let site = Site::with_two();
    site.remove("h2").unwrap();
    assert_eq!(site.state("h2"), HostState::Removed);
    let problems = site.status().problems;
    assert!(problems.iter().any(|problem| problem.contains("h2 was removed in document 4")), "{problems:?}");
    refused(site.remove("h2"), Kind::NotFound, "no active host h2 in the cluster (it was removed in document 4;");
    let destroyed = Removal { presumed_destroyed: true, ..Removal::default() };
    let removed = site.remove_as("h2", destroyed).unwrap();
    assert!(!removed.was_active && removed.removal == destroyed);
    let behind = site.status().problems;
    assert!(
        behind.len() == 1 && behind[0].contains("h1 is behind: it has acted on document 3, and 5 is"),
        "{behind:?}"
    );
    site.sync("h1").unwrap();
    assert_eq!((site.state("h2"), site.status().problems), (HostState::PresumedDestroyed, Vec::new()));
    // It comes back after all, and obeys.
    assert_eq!(site.sync("h2").unwrap().wiped.len(), 1);
    assert_eq!(site.state("h2"), HostState::Wiped);
}

#[test]
fn a_host_that_is_evicted_is_told_so() {
    let site = Site::with_two();
    assert!(!site.sync("h2").unwrap().evicted);
    site.remove_as("h2", Removal { evicted: true, ..Removal::default() }).unwrap();
    assert!(site.sync("h2").unwrap().evicted);
    assert!(!site.sync("h1").unwrap().evicted);
}

#[test]
fn a_compromised_host_never_gets_the_new_keys_and_what_it_had_is_named() {
    let site = Site::with_two();
    site.ask("h3").unwrap();
    site.approve("h3").unwrap();
    site.sync("h1").unwrap();
    site.sync("h3").unwrap();
    refused(site.remove_as("h1", COMPROMISED), Kind::Denied, "run it on another host");
    let removed = site.remove_as("h2", COMPROMISED).unwrap();
    assert_eq!(removed.rotated.len(), 1);
    let newest = removed.rotated[0].1.primary;
    for host in ["h1", "h3", "h2", "h1"] {
        site.sync(host).unwrap();
    }
    let has = |host: &str| {
        let files = Generations::of(private_file::folder_of(&site.config(host)).join("keys/shared.key"));
        files.find(newest).unwrap().is_some()
    };
    assert_eq!((has("h1"), has("h2"), has("h3")), (true, false, true));
    let problems = site.status().problems;
    assert!(problems.iter().any(|problem| problem.contains("h2 was compromised")), "{problems:?}");
    // Said again, it makes no further keys.
    assert!(site.remove_as("h2", COMPROMISED).unwrap().rotated.is_empty());
    site.sync("h3").unwrap();
    site.sync("h1").unwrap();
    let mut session = site.session("h1").unwrap();
    let old = session.old_generations(&provider_name("shared")).unwrap();
    session.retire(site.admins(), &provider_name("shared"), &old).unwrap();
    drop(session);
    site.sync("h1").unwrap();
    site.sync("h3").unwrap();
    assert_eq!(site.status().problems, Vec::<String>::new());
}

/// Nothing was made by a generation that only the host has which made it, so the cluster goes on without both.
#[test]
fn a_host_that_is_lost_in_the_middle_of_a_rotation_takes_nothing_with_it() {
    let site = Site::with_two();
    let on = |host: &str| (site.session(host).unwrap(), site.config(host));
    let (mut second, config) = on("h2");
    second.rotate(&KeyFiles { config: &config }, site.admins(), &provider_name("shared"), false).unwrap();
    drop(second);
    site.sync("h1").unwrap();
    let lost = site.session("h1").unwrap().document().providers[0].newest().primary;
    site.remove("h2").unwrap();
    let (mut first, config) = on("h1");
    let name = provider_name("shared");
    refused(
        first.rotate(&KeyFiles { config: &config }, site.admins(), &name, false),
        Kind::Denied,
        "h1 did not confirm",
    );
    first.rotate(&KeyFiles { config: &config }, site.admins(), &name, true).unwrap();
    drop(first);
    assert_eq!(site.sync("h1").unwrap().awaited.len(), 1);
    let mut first = site.session("h1").unwrap();
    let old = first.old_generations(&name).unwrap();
    assert!(old.iter().any(|old| old.primary == lost));
    first.retire(site.admins(), &name, &old).unwrap();
    drop(first);
    assert!(site.sync("h1").unwrap().awaited.is_empty());
    assert_eq!(site.state("h1"), HostState::Ready);
}

#[test]
fn envelopes_for_removed_hosts_go_also_if_the_admin_was_interrupted() {
    let site = Site::with_two();
    let envelope = site.record(&site.envelope("h2"));
    let left = fs::read(&envelope).unwrap();
    site.remove("h2").unwrap();
    assert!(!envelope.exists());
    fs::write(&envelope, left).unwrap();
    site.sync("h1").unwrap();
    assert!(!envelope.exists());
}

/// VMs were made by it before the next one came, also if no host makes any more.
#[test]
fn the_last_host_that_has_a_generation_between_others_is_not_removed_unless_it_is_destroyed() {
    let site = Site::with_two();
    let turn = || {
        site.rotate().unwrap();
        ["h1", "h2", "h1", "h2"].into_iter().for_each(|host| drop(site.sync(host).unwrap()));
        site.session("h1").unwrap().document().providers[0].newest().primary
    };
    let (second, _) = (turn(), turn());
    fs::remove_file(site.config("h1").parent().unwrap().join(format!("keys/shared.former/{second}.key"))).unwrap();
    assert_eq!(site.sync("h1").unwrap().awaited.len(), 1);
    refused(site.remove("h2"), Kind::Denied, "no host but h2 has confirmed to have all keys of provider shared");
    site.remove_as("h2", Removal { presumed_destroyed: true, ..Removal::default() }).unwrap();
}

#[test]
fn a_compromised_host_is_removed_also_if_a_provider_cannot_be_rotated_here() {
    let site = Site::with_two();
    site.add_provider("h1", "another");
    site.share("h1", "another").unwrap();
    ["h1", "h2", "h1"].into_iter().for_each(|host| drop(site.sync(host).unwrap()));
    fs::remove_file(site.config("h1").parent().unwrap().join("keys/another.key")).unwrap();
    let removed = site.remove_as("h2", COMPROMISED).unwrap();
    let names = |names: Vec<&ProviderName>| names.into_iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(removed.not_rotated.iter().map(|(name, _)| name).collect()), ["another"]);
    assert_eq!(names(removed.rotated.iter().map(|(name, _)| name).collect()), ["shared"]);
    assert!(removed.not_rotated[0].1.chain().contains("does not have a key of provider another"), "{removed:?}");
    let problems = site.status().problems;
    assert!(problems.iter().any(|problem| problem.contains("had the newest keys of another:")), "{problems:?}");
}
