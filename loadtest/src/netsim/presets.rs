//! Networks by name. Each is a file in `presets/`, with the source of its figures.

use std::path::Path;

use super::{NetworkSpec, SpecError};

const PRESETS: [(&str, &str); 19] = [
    ("perfect", include_str!("presets/perfect.yaml")),
    ("fibre", include_str!("presets/fibre.yaml")),
    ("cable", include_str!("presets/cable.yaml")),
    ("dsl", include_str!("presets/dsl.yaml")),
    ("good-wifi", include_str!("presets/good-wifi.yaml")),
    ("busy-wifi", include_str!("presets/busy-wifi.yaml")),
    ("hotel-wifi", include_str!("presets/hotel-wifi.yaml")),
    ("lte", include_str!("presets/lte.yaml")),
    ("3g", include_str!("presets/3g.yaml")),
    ("edge", include_str!("presets/edge.yaml")),
    ("satellite", include_str!("presets/satellite.yaml")),
    ("starlink", include_str!("presets/starlink.yaml")),
    ("train", include_str!("presets/train.yaml")),
    ("lossy-10", include_str!("presets/lossy-10.yaml")),
    ("lossy-30", include_str!("presets/lossy-30.yaml")),
    ("symmetric-nat", include_str!("presets/symmetric-nat.yaml")),
    ("udp-blocked", include_str!("presets/udp-blocked.yaml")),
    ("only-443", include_str!("presets/only-443.yaml")),
    ("corporate-firewall", include_str!("presets/corporate-firewall.yaml")),
];

/// Every preset's name, and what it is in a line.
pub fn presets() -> impl Iterator<Item = (&'static str, String)> {
    PRESETS.iter().map(|(name, yaml)| (*name, read(yaml).about))
}

/// The preset of this name.
pub fn preset(name: &str) -> Option<NetworkSpec> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, yaml)| read(yaml))
}

/// A preset by its name, or else a file by its path.
pub fn load(name: &str) -> Result<NetworkSpec, SpecError> {
    if let Some(spec) = preset(name) {
        return Ok(spec);
    }
    let yaml = std::fs::read_to_string(Path::new(name)).map_err(|source| SpecError::Unknown {
        name: name.to_owned(),
        known: names().join(", "),
        source,
    })?;
    NetworkSpec::from_yaml(&yaml)
}

pub(super) fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|(name, _)| *name).collect()
}

fn read(yaml: &str) -> NetworkSpec {
    NetworkSpec::from_yaml(yaml).expect("presets are read by a test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_can_be_read_and_says_what_it_is() {
        for (name, yaml) in PRESETS {
            let spec = NetworkSpec::from_yaml(yaml).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!spec.about.is_empty(), "{name}");
            assert!(yaml.starts_with("# "), "{name} has no source");
        }
        assert_eq!(presets().count(), PRESETS.len());
    }

    #[test]
    fn a_perfect_network_does_nothing() {
        let spec = preset("perfect").unwrap();
        assert_eq!(NetworkSpec { about: String::new(), ..spec }, NetworkSpec::default());
    }

    #[test]
    fn a_network_is_loaded_by_name_or_path_and_a_mistake_lists_the_names() {
        assert_eq!(load("lte").unwrap(), preset("lte").unwrap());
        let path = std::env::temp_dir().join(format!("network-{}.yaml", std::process::id()));
        std::fs::write(&path, "both: {delay: 7ms}\n").unwrap();
        let loaded = load(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(loaded.unwrap().up.delay.as_millis(), 7);
        let message = load("5g").unwrap_err().to_string();
        assert!(message.contains("\"5g\"") && message.contains("lte, 3g"), "{message}");
    }
}
