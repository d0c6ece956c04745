//! wharfd's log, and limits on lines that repeat.

mod budgets;
mod log;
mod repeats;

pub use budgets::{Budgets, LeftOut};
pub use log::{Filter, FilterError, LogFormat, init};
pub(crate) use repeats::{Line, each_second};
pub use repeats::{Repeats, Said};
