//! Work of many callers, none of which waits behind another's: places of which each caller has a part, and locks by
//! name.

mod places;
mod table;

pub use places::{Own, Place, Places};
pub use table::{Locks, Table};
