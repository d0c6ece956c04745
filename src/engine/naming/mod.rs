//! Names in the engine: what of a caller's names goes there, and as what.
//!
//! Everything of wharfd's is called `wharf.invalid/<instance>/…`: RFC 6761 reserves `.invalid`, so
//! the engine can fetch nothing under such a name.

mod keys;
mod private;

pub use keys::{KeyError, Keys};
pub use private::{NamespaceNames, Owner, PrivateName};

/// The host of every name of wharfd's.
pub const PRIVATE_HOST: &str = "wharf.invalid";
