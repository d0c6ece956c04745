//! What callers share, so that none waits behind another's work: places of which each caller has a part, and locks by
//! name.

mod places;
mod table;

pub use places::{Own, Place, Places};
pub use table::{Locks, Table};
