//! BuildKit's protocol: connections, sessions, solves and its failures. It knows no Docker, no
//! namespace and no store.

pub mod connection;
pub mod failure;
pub mod filesync;
pub mod probe;
mod raw;
pub mod session;
pub mod solve;
pub mod wire_form;
