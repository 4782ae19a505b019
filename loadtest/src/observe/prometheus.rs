//! Prometheus' text format, as far as counters and gauges go: name, labels, value.

use std::collections::BTreeMap;

/// Values summed over labels by name, and each value with labels by `name{label=value,…}`. Buckets of histograms are
/// left out, their sums and counts are kept. Lines that do not parse are passed over.
pub(super) fn read(text: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.trim().rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')),
            None => (series, None),
        };
        if name.ends_with("_bucket") {
            continue;
        }
        *values.entry(name.to_owned()).or_default() += value;
        if let Some(labels) = labels {
            values.insert(format!("{name}{{{}}}", labels.replace('"', "")), value);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_kept_by_labels() {
        let text = "# HELP drops_total What was dropped.\n# TYPE drops_total counter\n\
                    drops_total{lane=\"lossy\",cause=\"slow\"} 3\ndrops_total{lane=\"reliable\",cause=\"slow\"} 4\n\
                    up 1\nloop_seconds_bucket{le=\"0.1\"} 7\nloop_seconds_sum 0.5\nnonsense\nodd x\n";
        let values = read(text);
        let expected = [
            ("drops_total", 7.0),
            ("drops_total{lane=lossy,cause=slow}", 3.0),
            ("drops_total{lane=reliable,cause=slow}", 4.0),
            ("loop_seconds_sum", 0.5),
            ("up", 1.0),
        ];
        assert_eq!(values, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
