//! Work of many callers, where no caller's work waits behind another's: places with a part for each caller, a
//! fair order of turns, locks by name, and answers that all wait for.

mod places;
mod recent;
mod table;
mod told;
mod turns;

pub use places::{Own, Place, Places};
pub use recent::Recent;
pub use table::{Locks, Table};
pub use told::Told;
pub use turns::{Ticket, TurnLimits, Turns};
