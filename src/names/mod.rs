//! Names and values, one checked constructor each.

pub mod job;
mod login;
pub mod pattern;
mod printable;
pub mod reference;
pub mod secret;
pub mod socket;

pub use job::Namespace;
pub use login::Login;
pub use pattern::Pattern;
pub use printable::{printable, printable_json, printable_url, printable_words, shortened};
pub use reference::Reference;
pub use secret::Secret;
pub use socket::SocketPath;
