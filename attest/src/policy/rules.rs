//! Rules that hold whatever is approved.

use crate::replay::{Meaning, Measured};

/// A rule that was broken, and by which event if it was one.
pub(super) struct Broken<'a> {
    pub(super) reason: String,
    pub(super) event: Option<&'a Measured>,
}

fn broken<'a>(reason: impl Into<String>, event: Option<&'a Measured>) -> Result<(), Broken<'a>> {
    Err(Broken { reason: reason.into(), event })
}

/// In PCR 0 to 7 the firmware measures one separator before it starts something that is not its own.
pub(super) fn one_separator(events: &[Measured]) -> Result<(), Broken<'_>> {
    let mut separators = events.iter().filter(|event| event.meaning == Meaning::Separator);
    let first = separators.next();
    if let Some(wrong) = events.iter().find(|event| event.meaning == Meaning::WrongSeparator) {
        return broken("it has a separator that is none, or says that the firmware failed", Some(wrong));
    }
    if let Some(second) = separators.next() {
        return broken("it has more than one separator: expected exactly one", Some(second));
    }
    if first.is_none() {
        return broken("it has no separator: expected exactly one", None);
    }
    Ok(())
}

/// Secure Boot is on, and nothing in PCR 7 could be meant to look as if it were.
///
/// SecureBoot is measured once, as a variable of the configuration, before the separator, and is 1. All other events prove
/// by their digest what they are: a log could hide a SecureBoot that is 0 under any other label.
pub(super) fn secure_boot(events: &[Measured]) -> Result<(), Broken<'_>> {
    let is_secure_boot = |event: &&Measured| matches!(event.meaning, Meaning::SecureBoot { .. });
    let mut found = events.iter().filter(is_secure_boot);
    let Some(secure_boot) = found.next() else {
        return broken("no event has the variable SecureBoot: expected exactly one", None);
    };
    if let Some(second) = found.next() {
        return broken("more than one event has the variable SecureBoot: expected exactly one", Some(second));
    }
    let mut separated = false;
    for event in events {
        match (event.meaning, separated) {
            (Meaning::Separator, _) => separated = true,
            (Meaning::Authority | Meaning::Words, _) | (Meaning::Configuration, false) => {}
            (Meaning::SecureBoot { labelled: true, .. }, false) => {}
            (Meaning::SecureBoot { labelled: false, .. }, _) => {
                return broken("the variable SecureBoot is not labelled as a variable", Some(event));
            }
            (Meaning::SecureBoot { .. } | Meaning::Configuration, true) => {
                return broken("a variable that configures Secure Boot comes after the separator", Some(event));
            }
            (Meaning::Unproven | Meaning::WrongSeparator, _) => {
                return broken("the digest of an event does not prove what it is", Some(event));
            }
        }
    }
    if !matches!(secure_boot.meaning, Meaning::SecureBoot { on: true, .. }) {
        return broken("Secure Boot is off: expected SecureBoot = 1", Some(secure_boot));
    }
    Ok(())
}
