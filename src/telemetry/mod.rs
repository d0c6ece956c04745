//! What wharfd says of itself: its log, and how often one thing may be said in it.

mod log;
mod repeats;

pub use log::{Filter, FilterError, Format, init};
pub use repeats::{Repeats, Said};
