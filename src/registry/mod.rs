//! What goes to registries.

pub mod target;
