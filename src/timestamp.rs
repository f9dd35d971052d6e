//! Points in time, as headers, events and certificates have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that RFC 3339 has a text for.
const LAST: u64 = 253_402_300_799;

/// A point in time since 1970, UTC.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The time by this host's clock; 1970 where that is set to earlier.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// A whole second.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// From a text of RFC 3339, which may lack `T` or `Z`. `None`: it is another text.
    pub fn parse(text: &str) -> Option<Self> {
        humantime::parse_rfc3339_weak(text).ok()?.duration_since(UNIX_EPOCH).ok().map(Self)
    }

    /// An earlier time, at most as far back as 1970.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// The span of time from 1970 on.
    pub fn since_1970(self) -> Duration {
        self.0
    }

    /// RFC 3339 in whole seconds. `None` after the year 9999.
    pub fn to_seconds(self) -> Option<String> {
        (self.0.as_secs() <= LAST).then(|| humantime::format_rfc3339_seconds(UNIX_EPOCH + self.0).to_string())
    }

    /// A time as all of our outputs have it: RFC 3339 with milliseconds. After the year 9999, its last second.
    pub fn to_millis(self) -> String {
        humantime::format_rfc3339_millis(UNIX_EPOCH + self.0.min(Duration::from_secs(LAST))).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_and_absurd_times_have_none() {
        let time = Timestamp::parse("2026-11-29T19:24:06.123Z").unwrap();
        assert_eq!(
            (time.to_millis().as_str(), time.to_seconds().as_deref()),
            ("2026-11-29T19:24:06.123Z", Some("2026-11-29T19:24:06Z"))
        );
        assert_eq!(Timestamp::parse("2026-11-29 19:24:06"), Some(Timestamp::from_secs(1_795_980_246)));
        assert_eq!((Timestamp::parse("yesterday"), Timestamp::parse("2026-13-25T00:00:00Z")), (None, None));
        let absurd = Timestamp::from_secs(u64::MAX);
        assert_eq!((absurd.to_seconds(), absurd.to_millis().as_str()), (None, "9999-12-31T23:59:59.000Z"));
        assert_eq!(time.before(Duration::MAX), Timestamp::from_secs(0));
    }
}
