//! The scenarios that come with the program; they are in it.

/// Name and text of each, in the order that they are listed.
const SHIPPED: [(&str, &str); 11] = [
    ("smoke", include_str!("../../scenarios/smoke.yaml")),
    ("50-writers", include_str!("../../scenarios/50-writers.yaml")),
    ("500-rooms-of-4", include_str!("../../scenarios/500-rooms-of-4.yaml")),
    ("lecture", include_str!("../../scenarios/lecture.yaml")),
    ("churn", include_str!("../../scenarios/churn.yaml")),
    ("handover", include_str!("../../scenarios/handover.yaml")),
    ("firewall", include_str!("../../scenarios/firewall.yaml")),
    ("server-restart", include_str!("../../scenarios/server-restart.yaml")),
    ("slow-receivers", include_str!("../../scenarios/slow-receivers.yaml")),
    ("abuse", include_str!("../../scenarios/abuse.yaml")),
    ("thousand", include_str!("../../scenarios/thousand.yaml")),
];

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// The text of the one with this name.
pub fn find(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
