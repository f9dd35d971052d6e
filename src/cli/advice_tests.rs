//! That what texts advise can be run as it is printed.

use std::path::Path;

use clap::{CommandFactory, Parser};

use super::CommandLine;

#[path = "../../tests/testkit/advice.rs"]
mod advice;

use advice::{Advised, advised, filled};

/// Whether the words are a verb's name, and nothing else.
fn is_verb(words: &[String]) -> bool {
    let mut command = CommandLine::command();
    words.iter().skip(1).all(|word| match command.find_subcommand(word).cloned() {
        Some(below) => {
            command = below;
            true
        }
        None => false,
    })
}

fn runs(advised: &Advised) -> bool {
    let forms = filled(&advised.command);
    forms
        .iter()
        .any(|words| CommandLine::try_parse_from(words).is_ok_or_shows_help() || (advised.is_help && is_verb(words)))
}

/// `--help` and `--version` are answers, not mistakes.
trait Answered {
    fn is_ok_or_shows_help(&self) -> bool;
}

impl Answered for Result<CommandLine, clap::Error> {
    fn is_ok_or_shows_help(&self) -> bool {
        self.as_ref().err().is_none_or(|error| !error.use_stderr())
    }
}

#[test]
fn each_advised_command_runs_as_it_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found: Vec<Advised> =
        ["src", "services/src"].iter().flat_map(|folder| advised(&root.join(folder), "vmcryptfs")).collect();
    assert!(found.len() > 150, "only {} advised commands were found", found.len());
    let wrong: Vec<String> =
        found.iter().filter(|found| !runs(found)).map(|found| format!("{}: {}", found.place, found.command)).collect();
    assert!(wrong.is_empty(), "{} advised commands lack something:\n{}", wrong.len(), wrong.join("\n"));
}
