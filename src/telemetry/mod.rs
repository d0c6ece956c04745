//! wharfd's log, and a limit on lines that repeat.

mod log;
mod repeats;

pub use log::{Filter, FilterError, Format, init};
pub(crate) use repeats::{Line, each_second};
pub use repeats::{Repeats, Said};
