//! Work of many callers, none of which waits behind another's: places of which each caller has a part, a fair order of
//! turns, and locks by name.

mod places;
mod table;
mod turns;

pub use places::{Own, Place, Places};
pub use table::{Locks, Table};
pub use turns::{Limits, Ticket, Turns};
