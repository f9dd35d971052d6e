//! No circles: of the files in one folder, each knows only those that do not know it, directly or through others.
//!
//! A file and the folder of its name are one thing here: parts may use what the whole of them says, and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::{sources, tokens};

/// Which module uses which others beside it: keys and values have the same parent.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn uses(files: &[(String, String)]) -> Uses {
    let modules: BTreeMap<String, &str> =
        files.iter().map(|(path, text)| (path.trim_end_matches(".rs").replace('/', "::"), text.as_str())).collect();
    let mut found = Uses::new();
    for (module, text) in modules.iter().filter(|(module, _)| !is_test(module)) {
        for path in paths(module, &without_tests(&tokens(text))) {
            let (own, other): (Vec<&str>, Vec<&str>) = (module.split("::").collect(), path.split("::").collect());
            let known = (1..=other.len()).rev().find(|&len| modules.contains_key(&other[..len].join("::")));
            let Some(known) = known else { continue };
            let shared = own.iter().zip(&other[..known]).take_while(|(own, other)| own == other).count();
            if shared > 0 && shared < own.len() && shared < known {
                found.entry(own[..=shared].join("::")).or_default().insert(other[..=shared].join("::"));
            }
        }
    }
    found
}

fn is_test(module: &str) -> bool {
    module.split("::").any(|name| name == "tests" || name.ends_with("_tests") || name.starts_with("test_"))
}

/// Without modules that are compiled for tests only.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let test_only = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let start = tokens.windows(10).position(|at| at[..8] == test_only && at[9] == "{");
    tokens[..start.unwrap_or(tokens.len())].to_vec()
}

/// All paths that begin at the crate's root, or at a module above this one, in full.
fn paths(module: &str, tokens: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let leads = |at: usize, name: &str| tokens[at] == name && tokens.get(at + 1).is_some_and(|next| next == "::");
        let mut start: Vec<&str> = module.split("::").collect();
        if leads(at, "crate") {
            start.clear();
            at += 2;
        } else if leads(at, "super") {
            while at < tokens.len() && leads(at, "super") {
                start.pop();
                at += 2;
            }
        } else {
            at += 1; // also the one of `pub(super)`
            continue;
        }
        at = branches(&start.iter().map(ToString::to_string).collect::<Vec<_>>(), tokens, at, &mut found);
    }
    found
}

/// Adds what `tokens` name from here on, below `start`: a path, or a tree of them in braces. Returns where that ends.
fn branches(start: &[String], tokens: &[String], mut at: usize, found: &mut Vec<String>) -> usize {
    let mut path = start.to_vec();
    while let Some(token) = tokens.get(at) {
        if token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                at = branches(&path, tokens, at, found).max(at + 1);
            }
            return at + 1;
        }
        path.push(token.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    found.push(path.join("::"));
    at
}

/// A circle, from a module back to itself.
fn circle(uses: &Uses) -> Option<String> {
    fn search<'u>(uses: &'u Uses, way: &mut Vec<&'u str>, done: &mut BTreeSet<&'u str>) -> Option<String> {
        let here = *way.last()?;
        for next in uses.get(here).into_iter().flatten().map(String::as_str) {
            if let Some(begin) = way.iter().position(|module| *module == next) {
                return Some(format!("{} -> {next}", way[begin..].join(" -> ")));
            }
            if !done.contains(next) {
                way.push(next);
                let found = search(uses, way, done);
                way.pop();
                if found.is_some() {
                    return found;
                }
            }
        }
        done.insert(here);
        None
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| search(uses, &mut vec![module], &mut done))
}

#[test]
fn no_files_of_one_folder_know_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let files = found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap()));
    let uses = uses(&files.collect::<Vec<_>>());
    assert!(uses.len() > 50, "only {} modules that use others were found", uses.len());
    assert_eq!(circle(&uses), None, "move the small type that both need into a file of its own");
}

fn circle_in(files: &[(&str, &str)]) -> Option<String> {
    circle(&uses(&files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect::<Vec<_>>()))
}

#[test]
fn circle_is_seen_however_it_is_written() {
    for other in [
        "use crate::vm::acl;",
        "use crate::{error::Error, vm::{disk::{self, Disk}, acl::is_acl}};",
        "fn f() { super::acl::copy() }",
        "pub(super) use super::{disk, acl};",
    ] {
        let files = [
            ("vm/acl.rs", "use crate::vm::attributes::XATTR_MAX;"),
            ("vm/attributes.rs", other),
            ("vm/disk.rs", ""),
            ("vm.rs", "pub mod acl; mod attributes;"),
        ];
        assert_eq!(circle_in(&files).as_deref(), Some("vm::acl -> vm::attributes -> vm::acl"), "{other}");
    }
    let through_parts = [
        ("vm/a.rs", ""),
        ("vm/a/part.rs", "use crate::vm::b::B;"),
        ("vm/b.rs", "use crate::vm::c::part::C;"),
        ("vm/c.rs", ""),
        ("vm/c/part.rs", "use super::super::a::A;"),
    ];
    assert_eq!(circle_in(&through_parts).as_deref(), Some("vm::a -> vm::b -> vm::c -> vm::a"));
}

#[test]
fn whole_and_its_parts_are_no_circle_and_tests_make_none() {
    let files = [
        ("vm.rs", "pub use disk::part::A; use crate::vm::disk;"),
        (
            "vm/disk.rs",
            "use crate::vm::disk::part::A; use crate::vm::B; #[cfg(test)] mod tests { use crate::vm::scan; }",
        ),
        ("vm/disk/part.rs", "use super::Disk; use crate::vm::scan::walk; // crate::vm::scan"),
        ("vm/disk/tests.rs", "use crate::vm::scan;"),
        ("vm/scan.rs", "const A: &str = \"crate::vm::disk\"; use crate::vm::folder;"),
        ("vm/folder.rs", "struct A { pub(super) scan: u8 }"),
        ("vm/folder/tests.rs", "use crate::vm::scan;"),
    ];
    assert_eq!(circle_in(&files), None);
}
