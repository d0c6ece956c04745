//! Work of many callers, where no caller's work waits behind another's: places with a part for each caller, a
//! fair order of turns, and locks by name.

mod places;
mod table;
mod turns;

pub use places::{Own, Place, Places};
pub use table::{Locks, Table};
pub use turns::{Ticket, TurnLimits, Turns};
