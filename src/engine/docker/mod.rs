//! Docker's own API, where bollard's types are not enough for its answers.

pub(crate) mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod history;
pub(crate) mod lines;
pub(crate) mod listing;
pub(crate) mod presence;
