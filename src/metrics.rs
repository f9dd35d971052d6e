//! What a mount's process counts, and its text for Prometheus and other readers of OpenMetrics.
//!
//! Families go over the control socket as values, so that a verb can put several mounts into one text, whatever version they are of.

mod families;
mod http;
mod text;

use serde::{Deserialize, Serialize};

pub use families::of_mount;
pub use http::serve;
pub use text::text;

/// Metrics of one name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Family {
    /// Without the endings that the text gives it, such as `_total`.
    pub name: String,
    /// What is counted, for people.
    pub help: String,
    /// What is counted, each by other labels.
    pub samples: Vec<Sample>,
}

/// One metric of a family.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// Names and values. All samples of a family have the same names.
    pub labels: Vec<(String, String)>,
    /// What was counted.
    pub value: Value,
}

/// What was counted. All of a family are of one type.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// What only grows.
    Counter(u64),
    /// Seconds that only grow.
    Seconds(f64),
    /// A number that grows and shrinks.
    Gauge(i64),
    /// How often something took how long.
    Times {
        /// Seconds of all of them.
        sum: f64,
        /// Upper bound in seconds, and how many took no longer than that, and longer than the bound before.
        buckets: Vec<(f64, u64)>,
        /// How many took longer than the last bound.
        above: u64,
    },
}
