//! Names and values. Each has one constructor, which checks it.

mod caller;
mod engine_name;
mod id;
pub mod job;
mod login;
pub mod pattern;
mod printable;
pub mod reference;
mod reserved;
pub mod secret;
pub mod socket;
mod user;

pub use caller::CallerId;
pub use engine_name::EngineName;
pub use id::{NoRandomness, random_id};
pub use job::Namespace;
pub use login::{Login, Logins};
pub use pattern::Pattern;
pub use printable::{printable, printable_json, printable_url, printable_words, shortened};
pub use reference::Reference;
pub use reserved::{RESERVED_HOST, is_reserved_host};
pub use secret::Secret;
pub use socket::SocketPath;
pub use user::own_job;
