//! The configuration as TOML text: read with the line of every flaw, changed without losing an administrator's comments.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::super::tls_files::TlsFiles;
use super::{Config, Defaults, DumpSettings, EventSettings, MemorySettings};
use crate::error::{Error, Kind, Result};
use crate::key::ProviderName;
use crate::provider::agent::AgentSettings;
use crate::provider::kind::Settings;
use crate::provider::kinds::{self, KINDS, one_of};

const OPENING: &str = "# Key providers of vmcryptfs; \"vmcryptfs provider --help\" says how to change them.\n";

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) message: String,
    at: usize,
}

impl Flaw {
    fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), at: at.start }
    }

    /// The line of `text`, counted from 1, that the flaw is in.
    pub(super) fn line(&self, text: &str) -> usize {
        1 + text.bytes().take(self.at).filter(|&byte| byte == b'\n').count()
    }
}

impl From<toml::de::Error> for Flaw {
    fn from(error: toml::de::Error) -> Self {
        Self::new(error.span().unwrap_or_default(), error.message().replace('\n', ", "))
    }
}

/// Everything a [`Config`] promises is checked here.
pub(super) fn parse(text: &str) -> std::result::Result<Config, Flaw> {
    let mut top = DeTable::parse(text)?.into_inner();
    let default = top.remove("default");
    let tables = top.remove("provider");
    let events = top.remove("events");
    let memory = top.remove("memory");
    let agent = top.remove("agent");
    let board = top.remove("board");
    let dumps = top.remove("dumps");
    let defaults = top.remove("defaults");
    if let Some(key) = top.keys().min_by_key(|key| key.span().start) {
        return Err(Flaw::new(
            key.span(),
            format!(
                "unknown key `{}`, expected `agent`, `board`, `default`, `defaults`, `dumps`, `events`, `memory` or `provider`",
                key.get_ref()
            ),
        ));
    }
    let mut config = Config::default();
    let tables = tables.map(table_of).transpose()?.map(Spanned::into_inner).unwrap_or_default();
    for (key, table) in tables {
        let at = key.span();
        let name = ProviderName::new(key.into_inner()).map_err(|error| Flaw::new(at, error.to_string()))?;
        let settings = settings(table)?;
        config.providers.insert(name, settings);
    }
    if let Some(value) = events {
        config.events = Deserialize::deserialize(ValueDeserializer::from(value))?;
    }
    if let Some(value) = memory {
        config.memory = Deserialize::deserialize(ValueDeserializer::from(value))?;
    }
    if let Some(value) = agent {
        config.agent = Deserialize::deserialize(ValueDeserializer::from(value))?;
    }
    if let Some(value) = board {
        config.board = Some(Deserialize::deserialize(ValueDeserializer::from(value))?);
    }
    if let Some(value) = dumps {
        config.dumps = Deserialize::deserialize(ValueDeserializer::from(value))?;
    }
    if let Some(value) = defaults {
        config.defaults = Deserialize::deserialize(ValueDeserializer::from(value))?;
    }
    if let Some(value) = default {
        let at = value.span();
        let name = String::deserialize(ValueDeserializer::from(value))?;
        let name = ProviderName::new(name).map_err(|error| Flaw::new(at.clone(), error.to_string()))?;
        config.set_default(&name).map_err(|error| Flaw::new(at, format!("in `default`: {error}")))?;
    }
    Ok(config)
}

fn settings(value: Spanned<DeValue<'_>>) -> std::result::Result<Settings, Flaw> {
    let table = table_of(value)?;
    let at = table.span();
    let mut table = table.into_inner();
    let Some(kind) = table.remove("kind") else {
        let expected = one_of(KINDS.iter().map(|kind| format!("`kind = {:?}`", kind.name())));
        return Err(Flaw::new(at, format!("missing key `kind`, expected {expected}")));
    };
    let kind_at = kind.span();
    let kind = String::deserialize(ValueDeserializer::from(kind))?;
    let kind = kinds::named(&kind).map_err(|error| Flaw::new(kind_at, error.to_string()))?;
    let section = ValueDeserializer::from(Spanned::new(at, DeValue::Table(table)));
    Ok(Settings::new(kind, kind.parse(section)?))
}

fn table_of(value: Spanned<DeValue<'_>>) -> std::result::Result<Spanned<DeTable<'_>>, Flaw> {
    let (at, found) = (value.span(), value.get_ref().type_str());
    let DeValue::Table(table) = value.into_inner() else {
        return Err(Flaw::new(at, format!("a value of type {found}, expected a table")));
    };
    Ok(Spanned::new(at, table))
}

/// A text that says `after`: `text` with as little changed as possible, or rewritten where that does not succeed.
pub(super) fn rewrite(text: &str, after: &Config) -> Result<String> {
    let says_it = |edited: &String| parse(edited).is_ok_and(|config| config == *after);
    match edit(text, after).filter(says_it) {
        Some(edited) => Ok(edited),
        None => Ok(format!("{OPENING}{}", canonical(after)?)),
    }
}

/// The file as serde writes it.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a EventSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'a MemorySettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a AgentSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    board: Option<&'a TlsFiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dumps: Option<&'a DumpSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    defaults: Option<&'a Defaults>,
    provider: BTreeMap<&'a str, &'a Settings>,
}

fn canonical(config: &Config) -> Result<String> {
    let default = config.default.as_ref().map(ProviderName::as_str);
    let provider = config.providers.iter().map(|(name, settings)| (name.as_str(), settings)).collect();
    let events = (config.events != EventSettings::default()).then_some(&config.events);
    let memory = (config.memory != MemorySettings::default()).then_some(&config.memory);
    let agent = (config.agent != AgentSettings::default()).then_some(&config.agent);
    let dumps = (config.dumps != DumpSettings::default()).then_some(&config.dumps);
    let defaults = (config.defaults != Defaults::default()).then_some(&config.defaults);
    toml::to_string(&Document {
        default,
        events,
        memory,
        agent,
        board: config.board.as_ref(),
        dumps,
        defaults,
        provider,
    })
    .map_err(|error| Error::with_source(Kind::Invalid, "writing the configuration", error))
}

/// Makes simple edits: written values are replaced, and new ones are added after what they belong to.
fn edit(text: &str, after: &Config) -> Option<String> {
    let top = DeTable::parse(text).ok().filter(|_| !text.trim().is_empty())?.into_inner();
    let before = parse(text).ok()?;
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    if let Some(default) = after.default.as_ref().filter(|_| before.default != after.default) {
        edits.push(match top.get("default") {
            Some(value) => (value.span(), format!("\"{default}\"")),
            None => (0..0, format!("default = \"{default}\"\n")),
        });
    }
    for (name, settings) in &after.providers {
        match before.providers.get(name) {
            Some(same) if same == settings => {}
            Some(former) => {
                let section = top.get("provider")?.get_ref().get(name.as_str())?.get_ref();
                edits.extend(edit_settings(section, former, settings)?);
            }
            None if let Some((old, former)) = renamed_from(&before, after, settings) => {
                let (key, section) = top.get("provider")?.get_ref().as_table()?.get_key_value(old.as_str())?;
                edits.push((key.span(), name.to_string()));
                edits.extend(edit_settings(section.get_ref(), former, settings)?);
            }
            None => {
                let providers = [(name.clone(), settings.clone())].into();
                let only = Config { providers, ..Config::default() };
                let gap = if text.ends_with('\n') { "\n" } else { "\n\n" };
                edits.push((text.len()..text.len(), format!("{gap}{}", canonical(&only).ok()?)));
            }
        }
    }
    edits.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
    let mut edited = text.to_owned();
    for (at, new) in edits {
        edited.replace_range(at, &new);
    }
    Some(edited)
}

/// The provider that has another name now.
fn renamed_from<'b>(
    before: &'b Config,
    after: &Config,
    settings: &Settings,
) -> Option<(&'b ProviderName, &'b Settings)> {
    let former_names = settings.primary_key().ok()??.former_names;
    let is_it = |name: &ProviderName| former_names.last().is_some_and(|former| former == name.as_str());
    before.providers.iter().find(|(name, _)| is_it(name) && !after.providers.contains_key(*name))
}

/// Values that changed are replaced, and new ones added after those that precede them. Nothing else can be edited.
fn edit_settings(section: &DeValue<'_>, before: &Settings, after: &Settings) -> Option<Vec<(Range<usize>, String)>> {
    let mut edits = Vec::new();
    let mut end = section.get("kind")?.span().end;
    for (key, value) in after.values() {
        let written = section.get(key.as_str()).map(Spanned::span);
        if before.values().get(key) != Some(value) {
            edits.push(match &written {
                Some(at) => (at.clone(), value.to_string()),
                None => (end..end, format!("\n{key} = {value}")),
            });
        }
        end = written.map_or(end, |at| at.end);
    }
    Some(edits)
}

#[cfg(test)]
mod tests;
