//! Names and values. Each has one constructor, which checks it.

mod caller;
mod certificate;
mod configured;
mod id;
pub mod job;
mod listen;
mod login;
pub mod pattern;
mod percent;
mod platform;
mod printable;
pub mod reference;
mod reserved;
pub mod secret;
pub mod socket;
mod source;
mod usage;
mod user;

pub use caller::CallerId;
pub use certificate::CertificateName;
pub use configured::{EngineName, IssuerName};
pub use id::{NoRandomness, random_id};
pub use job::{Job, Namespace};
pub use listen::{ListenAddress, ListenError};
pub use login::{Login, Logins};
pub use pattern::Pattern;
pub use percent::percent_decoded;
pub use platform::NormalPlatform;
pub use printable::{printable, printable_json, printable_url, printable_words, shortened};
pub use reference::Reference;
pub use reserved::{RESERVED_HOST, is_reserved_host};
pub use secret::Secret;
pub use socket::SocketPath;
pub use source::Source;
pub use usage::print_usage;
pub use user::own_job;
