//! Families as OpenMetrics text.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::error::{Error, Kind, Result};
use crate::metrics::{Family, Sample, Value};
use crate::text::path::to_text;

/// The label that says which mount a metric is of.
const MOUNTPOINT: &str = "mountpoint";

/// The text of the metrics of some mounts, each family once.
///
/// # Errors
/// `Invalid` for names or labels that have no text.
pub fn text(mounts: Vec<(PathBuf, Vec<Family>)>) -> Result<String> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(AllMounts(mounts)));
    let mut text = String::new();
    text::encode(&mut text, &registry)
        .map_err(|error| Error::with_source(Kind::Invalid, "metrics that have no text", error))?;
    Ok(text)
}

#[derive(Debug)]
struct AllMounts(Vec<(PathBuf, Vec<Family>)>);

impl AllMounts {
    fn families(&self) -> impl Iterator<Item = &Family> {
        self.0.iter().flat_map(|(_, families)| families)
    }
}

impl Collector for AllMounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut done = BTreeSet::new();
        for Family { name, help, samples } in self.families() {
            let Some(first) = samples.first() else { continue };
            if !done.insert(name) {
                continue;
            }
            let mut family = encoder.encode_descriptor(name, help, None, metric_type(&first.value))?;
            for (mountpoint, families) in &self.0 {
                for sample in families.iter().filter(|family| family.name == *name).flat_map(|family| &family.samples) {
                    encode(&mut family, &to_text(mountpoint), sample)?;
                }
            }
        }
        Ok(())
    }
}

fn metric_type(value: &Value) -> MetricType {
    match value {
        Value::Counter(_) | Value::Seconds(_) => MetricType::Counter,
        Value::Gauge(_) => MetricType::Gauge,
        Value::Times { .. } => MetricType::Histogram,
    }
}

fn encode(family: &mut MetricEncoder<'_>, mountpoint: &str, sample: &Sample) -> fmt::Result {
    let mut labels = vec![(MOUNTPOINT, mountpoint)];
    labels.extend(sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut metric = family.encode_family(&labels)?;
    match &sample.value {
        Value::Counter(count) => metric.encode_counter::<NoLabelSet, u64, f64>(count, None),
        Value::Seconds(seconds) => metric.encode_counter::<NoLabelSet, f64, f64>(seconds, None),
        Value::Gauge(count) => metric.encode_gauge(count),
        Value::Times { sum, buckets, above } => {
            let count = buckets.iter().map(|(_, count)| count).sum::<u64>() + above;
            let buckets: Vec<(f64, u64)> = buckets.iter().copied().chain([(f64::INFINITY, *above)]).collect();
            metric.encode_histogram::<NoLabelSet>(*sum, count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &str, label: &str, value: Value) -> Family {
        let labels = vec![("name".to_owned(), label.to_owned())];
        Family { name: name.to_owned(), help: "What it is".to_owned(), samples: vec![Sample { labels, value }] }
    }

    #[test]
    fn several_mounts_are_one_text_with_each_family_once() {
        let times = Value::Times { sum: 1.5, buckets: vec![(0.1, 2), (1.0, 1)], above: 3 };
        let first = vec![family("a", "x", Value::Counter(1)), family("b", "y", times)];
        let third = family("d_seconds", "", Value::Seconds(0.25));
        let second = vec![family("a", "z\"\n\\", Value::Counter(7)), family("c", "", Value::Gauge(-2)), third];
        let text = text(vec![("/m/1".into(), first), ("/m/2".into(), second)]).unwrap();
        let expected = "\
# HELP a What it is
# TYPE a counter
a_total{mountpoint=\"/m/1\",name=\"x\"} 1
a_total{mountpoint=\"/m/2\",name=\"z\\\"\\n\\\\\"} 7
# HELP b What it is
# TYPE b histogram
b_sum{mountpoint=\"/m/1\",name=\"y\"} 1.5
b_count{mountpoint=\"/m/1\",name=\"y\"} 6
b_bucket{le=\"0.1\",mountpoint=\"/m/1\",name=\"y\"} 2
b_bucket{le=\"1.0\",mountpoint=\"/m/1\",name=\"y\"} 3
b_bucket{le=\"+Inf\",mountpoint=\"/m/1\",name=\"y\"} 6
# HELP c What it is
# TYPE c gauge
c{mountpoint=\"/m/2\",name=\"\"} -2
# HELP d_seconds What it is
# TYPE d_seconds counter
d_seconds_total{mountpoint=\"/m/2\",name=\"\"} 0.25
# EOF
";
        assert_eq!(text, expected);
        assert_eq!(super::text(Vec::new()).unwrap(), "# EOF\n");
    }
}
