//! Which new files of a VM become disks: the list in its home's header, shown and changed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::{ComponentKind, Header};
use crate::format::names::DiskNames;
use crate::progress::to_the_end;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::scan::FoundComponent;
use crate::work::unlocked_component::{UnlockedComponent, fetch_keks};

/// A change of the list. Without any it is only shown.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ChangeDiskNames {
    /// The list to begin with: `None` for the present one, no pattern for the usual one.
    pub set: Option<Vec<String>>,
    /// Patterns that it has afterwards.
    pub add: Vec<String>,
    /// Patterns that it has not.
    pub remove: Vec<String>,
}

/// The list as it is now.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DiskNamesNow {
    /// The home's UUID.
    pub uuid: Uuid,
    /// The patterns that count.
    pub disk_names: Vec<String>,
    /// Whether they are the usual ones, of which the header says nothing.
    pub usual: bool,
    /// Whether this changed them.
    pub changed: bool,
}

impl ChangeDiskNames {
    /// Shows or changes the list. Files that exist stay what they are. A mount uses the new list from its next file on.
    ///
    /// # Errors
    /// `NotFound` for a folder without a home or a pattern to be removed that is not there, `Invalid` for what is not a
    /// pattern or too many, `Denied` while a rekey is not finished; for a change also as [`UnlockedComponent::open`].
    pub fn run(&self, place: &dyn VmAccess) -> Result<DiskNamesNow> {
        let found = place.components(&to_the_end)?;
        let home = found.iter().find(|found| found.kind == ComponentKind::Home);
        let home = home.ok_or_else(|| Error::new(Kind::NotFound, "no encrypted home in this folder"))?;
        if self.set.is_none() && self.add.is_empty() && self.remove.is_empty() {
            let header = home.unverified().ok_or_else(|| Error::new(Kind::Corrupt, "the home's header is damaged"))?;
            return Ok(now(header.claims(), false));
        }
        let keks = fetch_keks(place, [home] as [&FoundComponent; 1]);
        let mut keyed = UnlockedComponent::open(place, &Component::Home, &keks)?;
        if let Some(slot) = keyed.unfinished_rekey() {
            let message =
                format!("a rekey to {} is not finished: `vmcryptfs rekey VM_FOLDER` finishes it", slot.key_id);
            return Err(Error::new(Kind::Denied, message));
        }
        let wanted = self.applied(&keyed.header().disk_names)?;
        let changed = wanted != keyed.header().disk_names;
        if changed {
            keyed.rename_disks(&wanted)?;
        }
        Ok(now(keyed.header(), changed))
    }

    fn applied(&self, present: &DiskNames) -> Result<DiskNames> {
        let start = match &self.set {
            Some(set) => DiskNames::new(set.clone())?,
            None => present.clone(),
        };
        if self.add.is_empty() && self.remove.is_empty() {
            return Ok(start);
        }
        let mut patterns = match &self.set {
            Some(set) if !set.is_empty() => set.clone(),
            Some(_) | None => start.patterns(),
        };
        for pattern in &self.remove {
            let at = patterns.iter().position(|known| known == pattern);
            let missing =
                || Error::new(Kind::NotFound, format!("{pattern:?} is not in the list: {}", patterns.join(" ")));
            patterns.remove(at.ok_or_else(missing)?);
        }
        patterns.extend(self.add.iter().filter(|pattern| !patterns.contains(pattern)).cloned().collect::<Vec<_>>());
        if patterns.is_empty() {
            return Err(Error::new(Kind::Invalid, "no pattern would be left, which means the usual list"));
        }
        DiskNames::new(patterns)
    }
}

fn now(header: &Header, changed: bool) -> DiskNamesNow {
    let names = &header.disk_names;
    DiskNamesNow { uuid: header.uuid, disk_names: names.patterns(), usual: names.stored().is_empty(), changed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(set: Option<&[&str]>, add: &[&str], remove: &[&str], present: &[&str]) -> Result<Vec<String>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let change = ChangeDiskNames { set: set.map(texts), add: texts(add), remove: texts(remove) };
        change.applied(&DiskNames::new(texts(present)).unwrap()).map(|names| names.stored().to_vec())
    }

    #[test]
    fn a_list_is_set_added_to_and_removed_from() {
        assert_eq!(applied(Some(&["*"]), &[], &[], &["a"]).unwrap(), ["*"]);
        assert_eq!(applied(None, &["b", "a"], &[], &["a"]).unwrap(), ["a", "b"]);
        assert_eq!(applied(None, &["c"], &["a"], &["a", "b"]).unwrap(), ["b", "c"]);
        assert!(applied(Some(&[]), &[], &[], &["a"]).unwrap().is_empty(), "the usual list");
        let usual = DiskNames::default().patterns();
        assert_eq!(applied(None, &["vm#"], &[], &[]).unwrap(), [usual.clone(), vec!["vm#".into()]].concat());
        assert_eq!(applied(Some(&[]), &[], &["disk"], &["a"]).unwrap().len(), usual.len() - 1);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(applied(None, &[], &["b"], &["a"]).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(applied(None, &[], &["a"], &["a"]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(applied(None, &["a/b"], &[], &["a"]).unwrap_err().kind(), Kind::Invalid);
    }
}
