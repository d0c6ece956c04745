//! wharfd's log, and limits on lines that repeat.

mod budgets;
mod left_out;
mod log;
mod repeats;

pub use budgets::Budgets;
pub use left_out::LeftOut;
pub use log::{Filter, FilterError, LogFormat, init};
pub use repeats::Repeats;
pub(crate) use repeats::{Line, each_second};
