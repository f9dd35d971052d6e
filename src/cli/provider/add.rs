//! `provider add KIND`: one subcommand for each kind of provider, made of what the kind says about itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Subcommand, value_parser};

use super::{advise_backup, provider_name};
use crate::cli::progress::perform;
use crate::error::Result;
use crate::key::ProviderName;
use crate::operations::provider::AddProvider;
use crate::provider::Added;
use crate::provider::kind::{Argument, Arguments, ProviderKind, Value};
use crate::provider::kinds::KINDS;
use crate::text::Show;

const NAME: &str = "name";
const DEFAULT: &str = "default";

/// Arguments of `provider add`.
#[derive(Debug)]
pub struct AddCommand {
    kind: &'static dyn ProviderKind,
    name: ProviderName,
    arguments: Arguments,
    default: bool,
}

impl AddCommand {
    pub(super) fn run(&self, config: &Path) -> Result<()> {
        let name = &self.name;
        let kind = self.kind.name();
        let Added { primary_key, kek_share } =
            perform(AddProvider { name, kind, arguments: &self.arguments, default: self.default, config })?;
        match primary_key {
            Some((file, uuid)) => {
                println!("added key provider {name} with primary key {uuid} in {}", file.shown());
                advise_backup(name.as_str());
            }
            None => {
                println!("added key provider {name}");
                eprintln!("To see that it works:\n  vmcryptfs provider test {name}");
            }
        }
        if let Some((file, uuid)) = kek_share {
            println!("made kek-share {uuid} in {}", file.shown());
            eprintln!("Keep a copy of it, and give one to each host of {name}: without it, its keys open nothing.");
        }
        Ok(())
    }
}

impl Subcommand for AddCommand {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(KINDS.into_iter().map(subcommand))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        KINDS.iter().any(|kind| kind.name() == name)
    }
}

impl FromArgMatches for AddCommand {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (kind, given) = matches.subcommand().ok_or_else(missing)?;
        let kind = KINDS.into_iter().find(|known| known.name() == kind).ok_or_else(missing)?;
        let mut arguments = Arguments::default();
        for argument in kind.usage().arguments {
            arguments.insert(argument.name, values(given, argument));
        }
        let name = given.get_one::<ProviderName>(NAME).ok_or_else(missing)?.clone();
        Ok(Self { kind, name, arguments, default: given.get_flag(DEFAULT) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn values(given: &ArgMatches, argument: &Argument) -> Vec<OsString> {
    match argument.value {
        Value::Text(_) | Value::Base64Url(_) => {
            given.get_many::<String>(argument.name).into_iter().flatten().map(OsString::from).collect()
        }
        Value::File | Value::SecretFile => {
            given.get_many::<PathBuf>(argument.name).into_iter().flatten().map(OsString::from).collect()
        }
    }
}

fn subcommand(kind: &'static dyn ProviderKind) -> Command {
    let usage = kind.usage();
    let name = Arg::new(NAME)
        .value_name("NAME")
        .help("Name of the provider; permanent, since every key belongs to it")
        .required(true)
        .value_parser(provider_name);
    let default = Arg::new(DEFAULT)
        .long("default")
        .help("New VMs get their keys from it; the first provider is the default in any case")
        .action(ArgAction::SetTrue);
    let example = usage.example.replace('\n', "\n  ");
    Command::new(kind.name())
        .about(usage.about)
        .long_about(usage.details)
        .after_help(format!("Example:\n  {example}"))
        .arg(name)
        .args(usage.arguments.iter().map(option))
        .arg(default)
}

fn option(argument: &'static Argument) -> Arg {
    let parser = match argument.value {
        Value::Text(check) | Value::Base64Url(check) => {
            ValueParser::from(move |text: &str| check(text).map(|()| text.to_owned()))
        }
        Value::File | Value::SecretFile => value_parser!(PathBuf),
    };
    Arg::new(argument.name)
        .long(argument.name)
        .value_name(argument.value_name)
        .help(argument.help)
        .required(argument.required)
        .value_parser(parser)
        .action(if argument.repeatable { ArgAction::Append } else { ArgAction::Set })
        // A secret in PEM begins with hyphens, and would else be taken for an option and quoted.
        .allow_hyphen_values(matches!(argument.value, Value::SecretFile | Value::Base64Url(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_as_their_kind_says() {
        const VALUE: Value = Value::Text(|text| if text.len() == 3 { Ok(()) } else { Err("not three letters".into()) });
        const NEEDED: Argument =
            Argument { name: "needed", value_name: "A", help: "", value: VALUE, required: true, repeatable: true };
        static KNOWN: [Argument; 2] =
            [Argument { name: "optional", required: false, repeatable: false, ..NEEDED }, NEEDED];
        let given = |words: &[&str]| {
            let matches =
                Command::new("add").no_binary_name(true).args(KNOWN.iter().map(option)).try_get_matches_from(words);
            matches.ok().map(|matches| KNOWN.iter().map(|argument| values(&matches, argument)).collect::<Vec<_>>())
        };
        assert_eq!(given(&["--needed", "abc"]).unwrap(), [vec![], vec![OsString::from("abc")]]);
        let all = given(&["--needed", "abc", "--optional", "xyz", "--needed", "def"]).unwrap();
        assert_eq!(all, [vec!["xyz"], vec!["abc", "def"]]);
        for refused in
            [&["--optional", "xyz"][..], &["--needed", "ab"], &["--needed", "abc", "--optional=xyz", "--optional=uvw"]]
        {
            assert_eq!(given(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn letters_of_base64url_may_begin_with_a_hyphen() {
        let taken = |value: Value| {
            let argument: &'static Argument = Box::leak(Box::new(Argument {
                name: "pin",
                value_name: "HASH",
                help: "",
                value,
                required: true,
                repeatable: false,
            }));
            Command::new("add")
                .no_binary_name(true)
                .arg(option(argument))
                .try_get_matches_from(["--pin", "-1X"])
                .is_ok()
        };
        assert!(taken(Value::Base64Url(|_| Ok(()))));
        assert!(!taken(Value::Text(|_| Ok(()))));
    }
}
