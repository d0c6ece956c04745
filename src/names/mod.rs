//! Names and values, one checked constructor each.

pub mod job;
mod printable;
pub mod reference;
pub mod secret;

pub use job::Namespace;
pub use printable::printable;
pub use reference::Reference;
pub use secret::Secret;
