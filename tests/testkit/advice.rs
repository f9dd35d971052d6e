//! Commands that texts of the program advise, as its source has them: each is to run as it is printed.

use std::fs;
use std::path::Path;

/// A command of a text.
#[derive(Debug)]
pub(super) struct Advised {
    /// File and line of the text's beginning.
    pub(super) place: String,
    /// The command, with `{...}` where a value is put in.
    pub(super) command: String,
    /// Whether the text is the help of a verb, which may call another verb by its name.
    pub(super) is_help: bool,
}

/// All commands in the texts of the sources below a folder, without those of tests.
///
/// # Panics
/// Where a source cannot be read.
pub(super) fn advised(folder: &Path, program: &str) -> Vec<Advised> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() {
            found.extend(advised(&path, program));
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split_once("#[cfg(test)]\nmod tests {").map_or(text.as_str(), |(before, _)| before);
            for Literal { line, text, is_help } in literals(text) {
                let place = format!("{}:{line}", path.display());
                let command = |command: String| Advised { place: place.clone(), command, is_help };
                found.extend(commands(&text, program).map(command));
            }
        }
    }
    found
}

/// The commands of a text: between backticks or quotes, or on a line of their own.
fn commands<'t>(text: &'t str, program: &'t str) -> impl Iterator<Item = String> + 't {
    let quoted = ['`', '\''].into_iter().flat_map(|quote| text.split(quote).skip(1).step_by(2));
    let lines = text.lines().filter_map(|line| line.strip_prefix("  "));
    let is_command =
        move |words: &&str| words.strip_prefix(program).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    // What a shell reads otherwise is not the program's.
    let alone = |words: &str| words.split(['#', '>']).next().unwrap_or_default().trim().to_owned();
    quoted.chain(lines).map(str::trim).filter(is_command).map(alone)
}

/// A text in a source.
struct Literal {
    line: usize,
    text: String,
    is_help: bool,
}

/// The texts of a source, unescaped as far as texts for people need it.
fn literals(source: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\'") || rest.starts_with("b'\"'") {
            4
        } else if let Some((prefix, end)) =
            ["r##\"", "r#\"", "r\""].iter().zip(["\"##", "\"#", "\""]).find(|(p, _)| rest.starts_with(**p))
        {
            prefix.len() + rest[prefix.len()..].find(end).map_or(rest.len(), |length| length + end.len())
        } else if let Some(text) = rest.strip_prefix('"') {
            let length = length_of_text(text);
            let before = source[..at].trim_end();
            let is_help =
                ["long_about =", "after_help =", "help =", "about ="].iter().any(|name| before.ends_with(name));
            let line = source[..at].matches('\n').count() + 1;
            found.push(Literal { line, text: unescaped(&text[..length]), is_help });
            length + 2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        at += skipped.max(1);
    }
    found
}

fn length_of_text(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' if !escaped => return at,
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    text.len()
}

fn unescaped(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        result += before;
        rest = if after.starts_with('\n') {
            after.trim_start()
        } else if let Some(after) = after.strip_prefix('n') {
            result.push('\n');
            after
        } else if let Some(after) = after.strip_prefix("x20") {
            result.push(' ');
            after
        } else {
            let kept = after.chars().next().map_or(0, char::len_utf8);
            result += &after[..kept];
            &after[kept..]
        };
    }
    result + rest
}

/// The forms of a command with values in the places of its `{...}`: any of them may be the one that is printed.
pub(super) fn filled(command: &str) -> Vec<Vec<String>> {
    const VALUES: [&str; 9] = [
        "1",
        "",
        "native",
        "--disk 1",
        "1/00000000-0000-0000-0000-000000000001",
        "00000000-0000-0000-0000-000000000001",
        HEX,
        PIN,
        "https://a:1",
    ];
    const HEX: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    const PIN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let mut forms = vec![String::new()];
    let mut rest = command;
    while let Some((before, (_, after))) =
        rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        forms =
            forms.iter().flat_map(|form| VALUES.iter().map(move |value| format!("{form}{before}{value}"))).collect();
        rest = after;
    }
    forms.iter().map(|form| format!("{form}{rest}").split_whitespace().map(str::to_owned).collect()).collect()
}
