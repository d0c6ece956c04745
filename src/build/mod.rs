//! The path of a build from an order to an image.

pub mod add;
pub mod archives;
mod circles;
pub mod client;
mod convert;
pub mod dockerfile;
pub mod downloads;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod gate;
mod ignored;
pub mod input;
pub mod isolation;
pub mod limits;
pub mod outcome;
pub mod outputs;
mod packets;
mod pass_progress;
mod paths;
pub mod patience;
mod rename;
pub mod running;
pub mod session;
mod sources;
pub mod spec;
mod stop;
pub mod tar;
