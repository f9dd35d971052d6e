//! Values of one component, or of one copy of a header, for each file that it was read from: two files may be copies of each other.

use crate::format::header::HeaderPlace;

/// A value for each place. One whose place is not known stands for all places that have none.
pub struct ByPlace<V>(Vec<(Option<HeaderPlace>, V)>);

impl<V> Default for ByPlace<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> ByPlace<V> {
    fn position(&self, place: Option<HeaderPlace>) -> Option<usize> {
        let at = |wanted: Option<HeaderPlace>| self.0.iter().position(|(known, _)| *known == wanted);
        at(place).or_else(|| at(None)).or_else(|| if place.is_none() && !self.0.is_empty() { Some(0) } else { None })
    }

    /// That of a place.
    pub fn get(&self, place: Option<HeaderPlace>) -> Option<&V> {
        self.position(place).map(|at| &self.0[at].1)
    }

    /// Gives a place a value, and returns the one that it had. One without a place takes none away from a place.
    pub fn insert(&mut self, place: Option<HeaderPlace>, value: V) -> Option<V> {
        let at = self.position(place).filter(|&at| place.is_some() || self.0[at].0.is_none());
        match at {
            Some(at) => {
                let known = &mut self.0[at];
                known.0 = place.or(known.0);
                Some(std::mem::replace(&mut known.1, value))
            }
            None => {
                self.0.push((place, value));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, place: Option<HeaderPlace>) -> Option<V> {
        self.position(place).map(|at| self.0.remove(at).1)
    }

    /// All of them, whatever their places are.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Option<HeaderPlace>, &V) -> bool) {
        self.0.retain(|(place, value)| keep(*place, value));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_a_place_takes_none_away_from_a_place() {
        let mut values = ByPlace::default();
        for (place, value) in [(Some((1, 1)), "one"), (Some((1, 2)), "two"), (None, "fetched")] {
            assert!(values.insert(place, value).is_none());
        }
        assert_eq!(
            [Some((1, 1)), Some((1, 2)), None, Some((1, 3))].map(|place| *values.get(place).unwrap()),
            ["one", "two", "fetched", "fetched"]
        );
        assert_eq!(values.insert(None, "again"), Some("fetched"));
        assert_eq!(values.insert(Some((1, 3)), "three"), Some("again"), "it was that one's");
        assert_eq!(values.values().count(), 3);
    }
}
