//! What code and documents cite is there: sections, headings, tests, files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{files, root, texts};

/// A text on one line, without the marks of comments. A citation may go on in the next line of a comment.
fn prose(text: &str) -> String {
    let bare = |line: &str| line.trim_start_matches([' ', '/', '!', '#']).trim_end().to_owned();
    text.lines().map(bare).collect::<Vec<_>>().join(" ")
}

/// Everything that may cite a document, but for these tests.
fn citing() -> Vec<(PathBuf, String)> {
    let folders =
        [("src", ".rs"), ("tests", ".rs"), ("vmdk-layout", ".rs"), ("scripts", ""), ("docs", ".md"), ("bench", "")];
    let mut all: Vec<_> = folders.iter().flat_map(|(folder, ending)| readable(folder, ending)).collect();
    for name in ["README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        all.push((root().join(name), fs::read_to_string(root().join(name)).unwrap()));
    }
    all.retain(|(path, _)| !path.starts_with(root().join("tests/documents")));
    all
}

/// The texts among the files of a folder.
fn readable(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let paths = files(folder, &[ending]).into_iter();
    paths.filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text))).collect()
}

/// `(number of the section, title)` of all headings; what stands before the first numbered section has the number 0.
fn headings(document: &str) -> Vec<(usize, String)> {
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let mut section = 0;
    let titles = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    titles
        .map(|title| match title.split_once(". ").map(|(number, title)| (number.parse(), title)) {
            Some((Ok(number), title)) => {
                section = number;
                (section, title.to_owned())
            }
            _ => (section, title.to_owned()),
        })
        .collect()
}

/// The numbers at the beginning of `5 ...` or `1, 2 and 4 ...`, and the rest.
fn numbers(text: &str) -> (Vec<usize>, &str) {
    let (mut found, mut rest) = (Vec::new(), text);
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(number) = rest[..end].parse() else { return (found, rest) };
        found.push(number);
        rest = &rest[end..];
        let next = [", ", " and ", " to "].iter().find_map(|word| rest.strip_prefix(word));
        match next.filter(|next| next.starts_with(|c: char| c.is_ascii_digit())) {
            Some(next) => rest = next,
            None => return (found, rest),
        }
    }
}

/// The titles at the beginning of `"One" and "Another" ...`.
fn titles(mut rest: &str) -> Vec<&str> {
    let mut found = Vec::new();
    while let Some((title, after)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        found.push(title);
        rest = after.strip_prefix(" and ").unwrap_or_default();
    }
    found
}

/// What a text cites of a document: sections, and titles with the section that they are said to be in.
fn citations(text: &str, document: &str) -> Vec<(Option<usize>, Option<String>)> {
    let prose = prose(text);
    let mut found = Vec::new();
    for (at, name) in prose.match_indices(document) {
        let Some(rest) = prose[at + name.len()..].strip_prefix([',', ' ']) else { continue };
        let rest = rest.trim_start();
        let of_sections = rest.strip_prefix("section ").or_else(|| rest.strip_prefix("sections "));
        let (sections, rest) = of_sections.map_or((Vec::new(), rest), numbers);
        let section = sections.last().copied();
        found.extend(sections.into_iter().map(|section| (Some(section), None)));
        let titles = titles(rest.trim_start_matches([',', ' ']));
        found.extend(titles.into_iter().map(|title| (section, Some(title.to_owned()))));
    }
    found
}

#[test]
fn every_section_and_heading_that_is_cited_exists() {
    let mut cited = 0;
    for document in ["ARCHITECTURE.md", "CLI.md", "FORMAT.md", "PERFORMANCE.md", "SEMANTICS.md", "THREAT-MODEL.md"] {
        let headings = headings(document);
        for (path, text) in citing() {
            for (section, title) in citations(&text, document) {
                let is_it = |heading: &(usize, String)| {
                    section.is_none_or(|section| heading.0 == section)
                        && title.as_ref().is_none_or(|title| heading.1 == *title)
                };
                let what = format!("{}: {document} has no section {section:?} {title:?}", path.display());
                assert!(headings.iter().any(is_it), "{what}");
                cited += 1;
            }
        }
    }
    assert!(cited > 50, "only {cited} citations were found");
}

#[test]
fn the_sections_that_the_format_cites_of_itself_exist() {
    let headings = headings("FORMAT.md");
    let format = prose(&fs::read_to_string(root().join("docs/FORMAT.md")).unwrap());
    let mut cited = 0;
    for (at, word) in format.match_indices("section ").chain(format.match_indices("sections ")) {
        let before: Vec<&str> = format[..at].split_whitespace().rev().take(2).collect();
        let (sections, _) = numbers(&format[at + word.len()..]);
        for section in sections.into_iter().filter(|_| !matches!(before[..], [_, "RFC"])) {
            assert!(headings.iter().any(|(number, _)| *number == section), "there is no section {section}: {before:?}");
            cited += 1;
        }
    }
    assert!(cited > 20, "only {cited} citations were found");
}

/// `[names, home/acl, posix: fsx]`: files and folders of tests/mount, scripts of scripts/tests.
#[test]
fn every_test_that_the_semantics_name_exists() {
    let document = prose(&fs::read_to_string(root().join("docs/SEMANTICS.md")).unwrap());
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-/: ".contains(c));
    let mut named = 0;
    for (_, after) in document.match_indices('[').map(|(at, _)| document.split_at(at + 1)) {
        let (inside, behind) = after.split_once(']').unwrap();
        if behind.starts_with('(') || !inside.split(", ").all(is_name) {
            continue;
        }
        for name in inside.split(", ") {
            let (file, part) = name.split_once(": ").unwrap_or((name, ""));
            let file = file.replace("::", "/");
            let candidates = [
                format!("tests/mount/{file}.rs"),
                format!("scripts/tests/{file}.sh"),
                format!("scripts/tests/{file}.py"),
            ];
            let found = candidates.iter().find_map(|path| fs::read_to_string(root().join(path)).ok());
            let text = found.unwrap_or_else(|| panic!("docs/SEMANTICS.md: there is no test {name}"));
            assert!(text.contains(part), "docs/SEMANTICS.md: {file} has no {part}");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} tests are named");
}

/// Paths of this repository in a text, without patterns and results of runs.
fn paths(text: &str) -> Vec<String> {
    const FOLDERS: [&str; 6] = ["bench/", "docs/", "scripts/", "src/", "tests/", "vmdk-layout/"];
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "_-./*#".contains(c));
    let words = text.split(is_end).map(|word| word.trim_end_matches(['.', '/']).split('#').next().unwrap());
    let ours = words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
    ours.filter(|word| !word.contains('*') && !word.starts_with("bench/results")).map(str::to_owned).collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut named = 0;
    let documents = citing().into_iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "md"));
    for (path, text) in documents {
        for cited in paths(&text) {
            let beside = path.parent().unwrap().join(&cited);
            assert!(root().join(&cited).exists() || beside.exists(), "{} names {cited}", path.display());
            named += 1;
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_ours = !link.is_empty() && !link.contains(':');
            assert!(!is_ours || path.parent().unwrap().join(link).exists(), "{} links to {link}", path.display());
        }
    }
    assert!(named > 60, "only {named} paths are named");
}

#[test]
fn every_document_that_the_code_names_exists() {
    let mut named = 0;
    for (path, text) in citing() {
        for cited in paths(&prose(&text)).iter().filter(|cited| cited.starts_with("docs/") && cited.ends_with(".md")) {
            assert!(root().join(cited).exists(), "{} names {cited}", path.display());
            named += 1;
        }
    }
    assert!(named > 60, "only {named} documents are named");
}

/// ARCHITECTURE has paths below `src`, without that word.
#[test]
fn every_source_that_the_architecture_names_exists() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let sources: Vec<&str> = quoted.filter(|path| path.ends_with(".rs") && path.contains('/')).collect();
    assert!(sources.len() > 30, "only {} sources are named", sources.len());
    for source in sources {
        let exists = root().join("src").join(source).exists() || root().join(source).exists();
        assert!(exists, "docs/ARCHITECTURE.md names {source}");
    }
}

#[test]
fn every_decision_is_dated_and_listed_and_says_what_would_reverse_it() {
    let pages = texts("docs/decisions", &[".md"]);
    let (index, pages): (Vec<_>, Vec<_>) = pages.into_iter().partition(|(path, _)| path.ends_with("README.md"));
    assert!(pages.len() >= 40, "only {} decisions were found", pages.len());
    for (path, text) in pages {
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let title = lines.next().unwrap().trim_start_matches("# ");
        let row = format!("| {} | [{title}]({name}) | {} |", &name[..4], lines.next().unwrap());
        assert!(index[0].1.contains(&row), "docs/decisions/README.md has no row {row}");
        let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, ["Context", "Decision", "Why", "What would reverse it"], "{name}");
    }
}

#[test]
fn every_snapshot_of_messages_is_of_a_test() {
    let tests = fs::read_to_string(root().join("tests/mount/errors.rs")).unwrap();
    for (path, _) in texts("tests/snapshots/errors", &[".txt"]) {
        let test = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(tests.contains(&format!("fn {test}(")), "there is no test {test}");
    }
}
