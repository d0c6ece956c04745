//! The path of a build: from an order to an image, with everything that owns it on the way.

pub mod client;
mod ignored;
mod packets;
mod pass_facts;
pub mod running;
pub mod session;
mod sources;
pub mod tar;
