use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A policy with sets of these names, approved a day after the other.
fn text(sets: &[&str]) -> String {
    let names: Vec<String> = sets.iter().map(|set| format!("{set:?}")).collect();
    let mut text = format!(
        "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"*\"]\nlevel = \"secureboot\"\n\
         sets = [{}]\n",
        names.join(", ")
    );
    for (day, set) in sets.iter().enumerate() {
        let digest = format!("sha256:{:064x}", day + 1);
        text.push_str(&format!(
            "[[set]]\nname = {set:?}\napproved = \"2026-12-0{}\"\n[[set.pcr]]\nnumber = 7\nmeasured = [{digest:?}]\n",
            day + 1
        ));
    }
    text
}

fn full<T>() -> Result<T> {
    Err(Error::new(Kind::Io, "no space"))
}

#[test]
fn another_policy_is_another_generation_and_a_retired_set_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let policies = Policies::load(dir.path().join("policy.toml")).unwrap();
    let generation = || policies.generation().load(Ordering::SeqCst);
    assert_eq!(policies.current().map(drop).unwrap_err().kind(), Kind::Denied);
    let first = policies.approve(&text(&["old", "new"]), |_| Ok(())).unwrap();
    assert_eq!((first.generation, generation()), (1, 1));
    let retired = policies.retire(&first, "old", |_| Ok(())).unwrap().unwrap();
    assert_eq!((retired.generation, generation(), retired.policy.sets().len()), (1, 1, 1));
    assert_ne!(retired.version(), first.version());
    assert!(policies.retire(&first, "new", |_| panic!("the policy is another one")).unwrap().is_none());
    assert!(policies.retire(&retired, "new", |_| panic!("the class needs it")).is_err());
    let next = policies.approve(&text(&["newer"]), |_| Ok(())).unwrap();
    assert_eq!((next.generation, generation()), (2, 2));
    assert_eq!(Policies::load(dir.path().join("policy.toml")).unwrap().current().unwrap().text, next.text);
}

#[test]
fn no_policy_is_in_force_without_its_entry() {
    let dir = tempfile::tempdir().unwrap();
    let policies = Policies::load(dir.path().join("policy.toml")).unwrap();
    let first = policies.approve(&text(&["old", "new"]), |_| Ok(())).unwrap();
    assert!(policies.approve(&text(&["other"]), |_| full()).is_err());
    assert!(policies.retire(&first, "old", |_| full()).is_err());
    assert!(policies.change(|policy| Ok(policy.clone()), |_| full()).is_err());
    assert_eq!(policies.current().unwrap().sha256, first.sha256);
    assert_eq!(Policies::load(dir.path().join("policy.toml")).unwrap().current().unwrap().sha256, first.sha256);
    fs::set_permissions(dir.path().join("policy.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(Policies::load(dir.path().join("policy.toml")).map(drop).unwrap_err().kind(), Kind::Denied);
}
