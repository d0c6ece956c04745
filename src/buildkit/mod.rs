//! BuildKit's protocol: connections, sessions, solves and failures. This module knows nothing of Docker,
//! namespaces or the store.

pub mod cache;
pub mod connection;
mod diff_copy;
pub mod failure;
mod filesend;
pub mod filesync;
pub mod probe;
mod raw;
pub mod session;
pub mod solve;
pub mod wire_form;
