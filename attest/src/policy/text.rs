//! The text of policies and sets: TOML, with nothing in it that is not understood.

use serde::{Deserialize, Serialize};

use super::{Approved, ApprovedRegister, ApprovedSet, Class, Level, Policy, invalid};
use crate::error::{Error, Result};
use crate::pcr::PcrIndex;

/// Bytes of the longest policy that is read.
pub const MAX_POLICY_BYTES: usize = 4 << 20;

/// The only version of the form.
const FORMAT: u32 = 1;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    format: u32,
    name: String,
    bank: String,
    #[serde(default, rename = "class")]
    classes: Vec<ClassText>,
    #[serde(default, rename = "set")]
    sets: Vec<SetText>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ClassText {
    name: String,
    hosts: Vec<String>,
    level: Level,
    #[serde(default)]
    sets: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learn: Vec<u32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SetText {
    name: String,
    approved: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keep: bool,
    #[serde(default, rename = "pcr")]
    registers: Vec<RegisterText>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RegisterText {
    number: u32,
    measured: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<String>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// `Invalid`, with the line, when the text is not a policy; or when its parts do not fit together.
    pub fn parse(text: &str) -> Result<Self> {
        let text: PolicyText = from_toml(text)?;
        if text.format != FORMAT {
            return Err(invalid(format!("format = {}: expected {FORMAT}", text.format)));
        }
        Self {
            name: text.name,
            bank: text.bank.parse().map_err(|error: Error| invalid(error.to_string()))?,
            classes: text.classes.into_iter().map(ClassText::read).collect::<Result<_>>()?,
            sets: text.sets.into_iter().map(SetText::read).collect::<Result<_>>()?,
        }
        .checked()
    }

    /// Its text, which [`Self::parse`] reads.
    pub fn to_text(&self) -> String {
        let class = |class: &Class| ClassText {
            name: class.name.clone(),
            hosts: class.hosts.clone(),
            level: class.level,
            sets: class.sets.clone(),
            learn: class.learn.iter().map(|register| u32::from(register.number())).collect(),
        };
        to_toml(&PolicyText {
            format: FORMAT,
            name: self.name.clone(),
            bank: self.bank.to_string(),
            classes: self.classes.iter().map(class).collect(),
            sets: self.sets.iter().map(SetText::of).collect(),
        })
    }
}

impl ApprovedSet {
    /// Reads one set, for example a proposal of a host.
    ///
    /// # Errors
    /// `Invalid`, with the line, when the text is not a set. Its bank is checked when it becomes part of a policy.
    pub fn parse(text: &str) -> Result<Self> {
        from_toml::<SetText>(text)?.read()
    }

    /// Its text, which [`Self::parse`] reads.
    pub fn to_text(&self) -> String {
        to_toml(&SetText::of(self))
    }
}

impl ClassText {
    fn read(self) -> Result<Class> {
        let Self { name, hosts, level, sets, learn } = self;
        let learn = learn.into_iter().map(register_of).collect::<Result<_>>();
        let learn = learn.map_err(|error| error.within(format_args!("class {name:?}")))?;
        Ok(Class { name, hosts, level, sets, learn })
    }
}

fn register_of(number: u32) -> Result<PcrIndex> {
    PcrIndex::new(number).map_err(|error| invalid(error.to_string()))
}

impl SetText {
    fn read(self) -> Result<ApprovedSet> {
        let name = self.name.clone();
        self.read_unnamed().map_err(|error| error.within(format_args!("set {name:?}")))
    }

    fn read_unnamed(self) -> Result<ApprovedSet> {
        let mut set = ApprovedSet::new(&self.name, &self.approved)?;
        set.note = self.note;
        set.keep = self.keep;
        for text in self.registers {
            let register = register_of(text.number)?;
            let all = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<Approved>>>();
            let read = || Ok((all(&text.measured)?, all(&text.ignored)?));
            let (measured, ignored) = read().map_err(|error: Error| error.within(register))?;
            set.registers.push(ApprovedRegister { register, measured, ignored });
        }
        Ok(set)
    }

    fn of(set: &ApprovedSet) -> Self {
        let texts = |all: &[Approved]| all.iter().map(ToString::to_string).collect();
        let register = |register: &ApprovedRegister| RegisterText {
            number: u32::from(register.register.number()),
            measured: texts(&register.measured),
            ignored: texts(&register.ignored),
        };
        Self {
            name: set.name.clone(),
            approved: set.approved.clone(),
            note: set.note.clone(),
            keep: set.keep,
            registers: set.registers.iter().map(register).collect(),
        }
    }
}

fn from_toml<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T> {
    if text.len() > MAX_POLICY_BYTES {
        return Err(invalid(format!("a policy of {} bytes: expected at most {MAX_POLICY_BYTES}", text.len())));
    }
    toml::from_str(text).map_err(|error| {
        let message = error.message().trim_end().replace('\n', ", ");
        match error.span().and_then(|span| text.get(..span.start)) {
            Some(before) => invalid(format!("line {}: {message}", before.matches('\n').count() + 1)),
            None => invalid(message),
        }
    })
}

fn to_toml(value: &impl Serialize) -> String {
    toml::to_string_pretty(value).expect("texts, numbers and lists of them are TOML")
}
