use super::*;
use crate::provider::{kind, primary_key};

fn native(key: &str, backed_up: bool) -> Settings {
    let primary_key =
        primary_key::Settings { primary_key: key.into(), backed_up, ..primary_key::Settings::of(&name("x")) };
    Settings::new(kinds::named("native").unwrap(), kind::table(&primary_key).unwrap())
}

fn name(name: &str) -> ProviderName {
    ProviderName::new(name).unwrap()
}

const COMMENTED: &str = "\
# ours since 2026
default = \"local\" # not the lab

[provider.local]
kind = \"native\"
primary-key = \"keys/local.key\" # on the mirrored disk
backed-up = false # soon

[provider.\"lab.1\"]
primary-key = \"/srv/lab.key\"
kind = \"native\"
";

#[test]
fn a_file_says_its_providers() {
    let config = parse(COMMENTED).unwrap();
    assert_eq!(config.default_name(), Some(&name("local")));
    assert_eq!(config.settings(&name("local")).unwrap(), &native("keys/local.key", false));
    assert_eq!(config.settings(&name("lab.1")).unwrap(), &native("/srv/lab.key", false));
    assert_eq!(config.providers().len(), 2);
}

/// Each text, the line of its flaw, and a part of the message that says what was expected.
#[test]
fn every_flaw_is_reported_with_its_line_and_what_was_expected() {
    let cases = [
        (
            "colour = 1\n",
            1,
            "unknown key `colour`, expected `agent`, `board`, `default`, `defaults`, `dumps`, `events`, `memory` or `provider`",
        ),
        ("\n\n[providers.local]\nkind = \"native\"\n", 3, "unknown key `providers`, expected"),
        ("provider = 3\n", 1, "a value of type integer, expected a table"),
        ("[provider]\nlocal = true\n", 2, "a value of type boolean, expected a table"),
        (
            "[provider.local]\nprimary-key = \"x\"\n",
            1,
            "missing key `kind`, expected `kind = \"native\"`, `kind = \"kmip\"`, `kind = \"managed\"` or `kind = \"trusted\"`",
        ),
        (
            "[provider.local]\nkind = \"kmip2\"\n",
            2,
            "unknown kind of provider \"kmip2\", expected \"native\", \"kmip\", \"managed\" or \"trusted\"",
        ),
        ("[provider.local]\nkind = 1\n", 2, "expected a string"),
        ("[provider.local]\nkind = \"native\"\n", 1, "missing field `primary-key`"),
        (
            "[provider.local]\nkind = \"native\"\nprimary-key = \"x\"\nbacked_up = true\n",
            4,
            "unknown field `backed_up`, expected one of `primary-key`, `backed-up`, `kek-share`, `tpm`, `former-names`",
        ),
        ("[provider.local]\nkind = \"native\"\nprimary-key = \"x\"\nbacked-up = \"yes\"\n", 4, "expected a boolean"),
        ("[provider.\"a b\"]\nkind = \"native\"\nprimary-key = \"x\"\n", 1, "provider name \"a b\", expected"),
        ("# x\ndefault = \"gone\"\n", 2, "no key provider gone: none is configured"),
        ("default = 7\n", 1, "expected a string"),
        ("[defaults]\ndisk-names = [\"a/b\"]\n", 2, "disk name pattern"),
        ("[defaults]\nnames = []\n", 2, "unknown field `names`, expected `disk-names`"),
        ("default = \"local\"\ndefault = \"local\"\n", 2, "duplicate key"),
        ("a\n= 1\n", 1, "expected"),
    ];
    for (text, line, part) in cases {
        let flaw = parse(text).unwrap_err();
        assert!(flaw.message.contains(part), "{text:?}: {}", flaw.message);
        assert_eq!(flaw.line(text), line, "{text:?}: {}", flaw.message);
    }
}

#[test]
fn comments_survive_every_change() {
    let mut config = parse(COMMENTED).unwrap();
    config.set_default(&name("lab.1")).unwrap();
    config.set(&name("local"), native("keys/local.key", true)).unwrap();
    config.set(&name("lab.1"), native("/srv/lab.key", true)).unwrap();
    config.add(name("new.2"), native("keys/new.2.key", false)).unwrap();
    let text = rewrite(COMMENTED, &config).unwrap();
    assert_eq!(parse(&text).unwrap(), config);
    for comment in ["# ours since 2026\n", " # not the lab\n", " # on the mirrored disk\n", "= true # soon\n"] {
        assert!(text.contains(comment), "{comment:?} of\n{text}");
    }
}

#[test]
fn defaults_of_new_homes_survive_a_rewritten_file() {
    let inline = "provider = {}\n[defaults]\ndisk-names = [\"vm#\"]\n";
    let mut config = parse(inline).unwrap();
    assert_eq!(config.defaults().disk_names.stored(), ["vm#"]);
    config.add(name("other"), native("y", false)).unwrap();
    assert_eq!(parse(&rewrite(inline, &config).unwrap()).unwrap(), config);
}

#[test]
fn file_with_only_comments_keeps_them() {
    let mut config = Config::default();
    config.add(name("local"), native("keys/local.key", false)).unwrap();
    let text = rewrite("# nothing yet", &config).unwrap();
    assert_eq!(parse(&text).unwrap(), config);
    assert!(text.contains("# nothing yet\n"), "{text}");
}

#[test]
fn what_cannot_be_edited_is_rewritten() {
    let inline = "provider = { local = { kind = \"native\", primary-key = \"x\" } }\n";
    let mut config = parse(inline).unwrap();
    config.set(&name("local"), native("x", true)).unwrap();
    config.add(name("other"), native("y", false)).unwrap();
    assert_eq!(parse(&rewrite(inline, &config).unwrap()).unwrap(), config);
}

#[test]
fn a_new_file_is_written_as_documented() {
    let mut config = Config::default();
    config.add(name("local"), native("keys/local.key", false)).unwrap();
    let expected = "default = \"local\"\n\n[provider.local]\nkind = \"native\"\nprimary-key = \"keys/local.key\"\n\
                    backed-up = false\n";
    assert_eq!(rewrite("", &config).unwrap(), format!("{OPENING}{expected}"));
}
