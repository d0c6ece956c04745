//! The client: what a job calls. Uses `names`, `wire` and nothing of the daemon's.

pub mod context;
pub mod sync;

pub mod progress;
pub mod report;
