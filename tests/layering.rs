//! The order of the layers, and what only some of them may name, as docs/ARCHITECTURE.md promises.
//!
//! Sources are read as tokens without comments and texts. A path is a use wherever it stands: there is no other way into
//! another module than `crate::` (or as many `super::` as lead to the root).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "layering/circles.rs"]
mod circles;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vmcryptfs::provider::kinds::KINDS;

/// Each module may use those before it.
const LAYERS: [&str; 26] = [
    "text",
    "timestamp",
    "error",
    "progress",
    "sys",
    "key",
    "sector",
    "crypto",
    "format",
    "storage",
    "provider",
    "cluster",
    "dump",
    "seen",
    "event",
    "gate",
    "store",
    "vm",
    "work",
    "serve",
    "fs",
    "fuse",
    "metrics",
    "control",
    "operations",
    "cli",
];

/// What a module uses in its tests only: work comes to a mount's components through `vm::access`.
const IN_TESTS_ONLY: (&str, &str) = ("serve", "work");

/// What only some files may name, and whether as a macro: `println` is one with `!` after it.
const RESERVED: [(&[&str], bool, &[&str]); 11] = [
    // What a verb or a mount does passes the gate, which leaves its events. The two files have other things of that name.
    (&["Event"], false, &["event", "gate", "operations", "fuse", "sys", "cli/log.rs", "store/linearizable.rs"]),
    (&["fuser"], false, &["fuse"]),
    (&["clap", "clap_complete", "clap_mangen"], false, &["cli"]),
    (&["aes", "xts_mode", "aws_lc_rs", "aws_lc_sys", "argon2"], false, &["crypto"]),
    (&["unsafe"], false, &["sys", "crypto/aes_block.rs", "crypto/xts/aws_lc.rs", "crypto/xts/vaes.rs"]),
    (&["print", "println", "eprint", "eprintln", "dbg"], true, &["cli"]),
    (&["tracing", "tracing_subscriber"], false, &["event", "fuse", "operations", "metrics", "control", "cli"]),
    (&["prometheus_client"], false, &["metrics"]),
    // A name goes to a terminal or a log by `shown()` of `text::Show`; what becomes JSON may fail to.
    (&["display"], false, &["text"]),
    (&["json"], true, &["text"]),
    // KEKs are fetched by `Providers::fetch`, `fetch_all` or `fetch_each`, which see every fetch.
    (&["fetch_key"], false, &["provider"]),
];

/// The two files that are no module: the crate's root, which names all of them, and the program.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

/// One source file.
struct Source {
    /// Below `src`.
    path: String,
    tokens: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), tokens: tokens(text) }
    }

    /// The module of the crate that it belongs to.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Modules of the crate that it uses. What `super::` leads to from a nested module may be something else of this
    /// file, so there only the names of modules count.
    fn used(&self) -> Vec<&str> {
        let depth = self.path.split('/').count();
        let mut used = Vec::new();
        let mut supers = 0;
        for (at, token) in self.tokens.iter().enumerate() {
            match token.as_str() {
                "super" => supers += 1,
                "::" => continue,
                _ => supers = 0,
            }
            let by_crate = token == "crate";
            if (by_crate || supers >= depth) && self.tokens.get(at + 1).is_some_and(|next| next == "::") {
                let names = first_names(&self.tokens[at + 2..]);
                used.extend(names.into_iter().filter(|name| by_crate || LAYERS.contains(name)));
            }
        }
        used
    }

    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !ROOTS.contains(&self.path.as_str()) {
            let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
            match rank(self.module()) {
                None => found.push(format!("{}: module {} has no place in LAYERS", self.path, self.module())),
                Some(own) => found.extend(
                    self.used()
                        .into_iter()
                        .filter(|used| *used != self.module())
                        .filter(|used| rank(used).is_none_or(|rank| rank > own) || self.is_only_for_tests(used))
                        .map(|used| format!("{}: {} uses {used}", self.path, self.module())),
                ),
            }
        }
        for (names, is_macro, places) in RESERVED {
            let allowed = places.iter().any(|place| self.path == *place || self.module() == *place);
            let followed = |at: usize| !is_macro || self.tokens.get(at + 1).is_some_and(|next| next == "!");
            let named =
                self.tokens.iter().enumerate().find(|(at, token)| names.contains(&token.as_str()) && followed(*at));
            if let (Some((_, name)), false) = (named, allowed || self.is_test()) {
                found.push(format!("{}: only {} may name {name}", self.path, places.join(", ")));
            }
        }
        found
    }

    fn is_only_for_tests(&self, used: &str) -> bool {
        (self.module(), used) == IN_TESTS_ONLY && !self.is_test()
    }

    /// Tests in a file of their own may print why they did not run.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
    }
}

/// The names at the front of a path: one, or those in braces.
fn first_names(tokens: &[String]) -> Vec<&str> {
    if tokens.first().is_none_or(|token| token != "{") {
        return tokens.first().map(String::as_str).into_iter().collect();
    }
    let mut names = Vec::new();
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 1 && (tokens[at - 1] == "{" || tokens[at - 1] == ",") => names.push(name),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Names, `::` and other characters, without comments, texts and white space.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = text_len(rest) {
            len
        } else if first.is_alphanumeric() || first == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(rest[..len].to_owned());
            len
        } else if rest.starts_with("::") {
            found.push("::".into());
            2
        } else {
            if !first.is_whitespace() {
                found.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    found
}

/// Length of the text or character at the front, if there is one. A lifetime is none.
fn text_len(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let behind = rest.strip_prefix(prefix).unwrap_or_default();
        behind.starts_with('"') || (prefix.ends_with('r') && behind.trim_start_matches('#').starts_with('"'))
    });
    if let Some(raw) = prefix.filter(|prefix| prefix.ends_with('r')) {
        let hashes = rest[raw.len()..].find('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let start = raw.len() + hashes + 1;
        return Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()));
    }
    if let Some(prefix) = prefix {
        let mut escaped = false;
        let end = rest[prefix.len() + 1..].find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        return Some(end.map_or(rest.len(), |end| prefix.len() + 1 + end + 1));
    }
    let quoted = rest.strip_prefix('\'')?;
    if let Some(escape) = quoted.strip_prefix('\\') {
        return Some(escape[1..].find('\'')? + 4);
    }
    let letter = quoted.chars().next()?;
    quoted[letter.len_utf8()..].starts_with('\'').then(|| letter.len_utf8() + 2)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_source_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 60, "only {} sources were found", paths.len());
    let violations = paths.iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        Source::new(path.strip_prefix(&root).unwrap().to_str().unwrap(), &text).violations()
    });
    let violations: Vec<String> = violations.collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// The words that a name in a source is made of, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut former = '_';
    for letter in name.chars() {
        if letter == '_' || (letter.is_uppercase() && !former.is_uppercase()) {
            words.push(String::new());
        }
        words.last_mut().unwrap().extend(letter.to_lowercase().filter(|letter| *letter != '_'));
        former = letter;
    }
    words
}

/// Everything else asks the table of kinds, so that a kind can be added without looking for the places that know the others.
#[test]
fn only_the_table_and_the_kind_itself_name_a_kind_of_provider() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let is_test = |path: &str| ["tests.rs", "rig.rs", "test_vm.rs"].iter().any(|end| path.ends_with(end));
    let mut seen = 0;
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: String =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
        let words: BTreeSet<String> = tokens(&code).iter().flat_map(|token| words(token)).collect();
        let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        for kind in KINDS.iter().map(|kind| kind.name()) {
            let is_named = code.contains(&format!("{kind:?}")) || words.contains(kind);
            let may_name =
                path == "provider/kinds.rs" || path.starts_with(&format!("provider/kinds/{kind}")) || is_test(&path);
            assert!(may_name || !is_named, "{path} names the kind of provider {kind}");
            seen += usize::from(is_named);
        }
    }
    assert!(seen >= 2 * KINDS.len(), "only {seen} files were seen to name a kind");
}

#[test]
fn the_table_is_that_of_the_crate() {
    let root = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let tokens = tokens(&root);
    let modules = tokens.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].as_str());
    assert_eq!(modules.collect::<Vec<_>>(), LAYERS, "src/lib.rs lists the modules in layer order");
}

fn violations(path: &str, text: &str) -> Vec<String> {
    Source::new(path, text).violations()
}

#[test]
fn a_use_of_a_later_layer_is_seen() {
    for text in [
        "use crate::vm::disk;",
        "use crate::{error::{Error, Kind}, vm::disk};",
        "fn f() { crate::vm::disk::open() }",
        "use super::super::vm;",
        "use super::super::{key, vm};",
    ] {
        assert_eq!(violations("store/disk.rs", text), ["store/disk.rs: store uses vm"], "{text}");
    }
    assert_eq!(violations("serve/homes.rs", "use crate::work::rekey::Rekey;"), ["serve/homes.rs: serve uses work"]);
    assert_eq!(violations("serve/homes/tests.rs", "use crate::work::rekey::Rekey;"), Vec::<String>::new());
    assert_eq!(violations("error.rs", "use super::sys;"), ["error.rs: error uses sys"]);
    assert_eq!(violations("store.rs", "use crate::newcomer;"), ["store.rs: store uses newcomer"]);
    assert_eq!(violations("newcomer.rs", ""), ["newcomer.rs: module newcomer has no place in LAYERS"]);
}

#[test]
fn what_is_no_use_of_a_later_layer_is_not_seen() {
    for text in [
        "use crate::error::Error; use crate::{sys, storage::{Storage, file}}; use crate::store::holes;",
        "//! As [`vm`](crate::vm) wants.\n/* crate::vm */ /// crate::vm\nconst A: &str = \"\\\" crate::vm\";",
        "const A: &str = r#\"\" crate::vm \"#; const B: (u8, char) = (b'\"', '\\''); use super::vm_like;",
        "mod tests { use super::*; use super::vm::x; }",
    ] {
        assert_eq!(violations("store/disk.rs", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn each_reserved_name_is_seen_outside_its_place_and_not_in_it() {
    let cases = [
        ("fs.rs", "use fuser::Request;", "fuse/session.rs"),
        ("provider.rs", "#[derive(clap::Args)] struct A;", "cli/mount.rs"),
        ("store/disk.rs", "use aes::Aes256;", "crypto/xts/rustcrypto.rs"),
        ("provider/backup.rs", "fn f() { aws_lc_rs::digest() }", "crypto/derive.rs"),
        ("provider/backup.rs", "use argon2::Argon2;", "crypto/passphrase.rs"),
        ("crypto/xts/rustcrypto.rs", "fn f() { unsafe { g() } }", "crypto/xts/aws_lc.rs"),
        ("storage/file.rs", "unsafe impl Send for A {}", "sys/memory.rs"),
        ("fuse.rs", "fn f() { eprintln!(\"x\") }", "cli/check.rs"),
        ("vm.rs", "fn f() { tracing::warn!(\"x\") }", "fuse/errno.rs"),
        ("vm.rs", "fn f() { provider.fetch_key(&id) }", "provider/kinds/kmip.rs"),
        ("cli/info.rs", "fn f(path: &Path) { path.display() }", "text.rs"),
        ("cli/info.rs", "fn f() { serde_json::json!(x) }", "text.rs"),
    ];
    for (elsewhere, text, place) in cases {
        assert_eq!(violations(elsewhere, text).len(), 1, "{text} in {elsewhere}");
        assert_eq!(violations(place, text), Vec::<String>::new(), "{text} in {place}");
    }
    let unlike = "#[allow(unsafe_code)] fn print() {} // unsafe\nconst HELP: &str = \"fuser, clap\";";
    assert_eq!(violations("vm.rs", unlike), Vec::<String>::new());
}

/// Fields of paths in what becomes JSON, without the form that holds any bytes. The configuration is TOML, which is text.
fn bare_paths(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut becomes_json, mut has_form) = (false, false);
    for line in text.lines() {
        let line_words = line.trim();
        if line_words.starts_with("#[derive(") {
            becomes_json = line_words.contains("Serialize");
        } else if line == "}" {
            becomes_json = false;
        } else if line_words.starts_with("#[serde(") {
            has_form |= line_words.contains("\"crate::text::path\"") || line_words == "#[serde(skip)]"; // skipped, it is in no JSON
        } else if line_words.ends_with(',') && line_words.contains(": ") && !line_words.starts_with("//") {
            let holds_path = line_words.contains("Path") || line_words.contains("OsStr");
            if becomes_json && holds_path && !has_form {
                found.push(line_words);
            }
            has_form = false;
        }
    }
    found
}

#[test]
fn paths_in_json_are_any_bytes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.retain(|path| !path.starts_with(root.join("provider")));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(bare_paths(&text), Vec::<&str>::new(), "{}: they take with = \"crate::text::path\"", path.display());
    }
}

#[test]
fn a_path_without_its_form_is_seen() {
    let formed =
        "#[derive(Clone, Serialize)]\nstruct A {\n    #[serde(with = \"crate::text::path\")]\n    a: PathBuf,\n}\n";
    let bare = "#[derive(Serialize)]\nstruct A {\n    b: u8,\n    /// A path: it.\n    a: Option<PathBuf>,\n}\n";
    let other = "#[derive(Debug)]\nstruct A {\n    a: PathBuf,\n}\n";
    assert_eq!(bare_paths(&[formed, bare, other].concat()), ["a: Option<PathBuf>,"]);
}
