//! What is to be run and what must hold, in YAML.

pub mod bounds;
