//! How many lines a limit has left out.

/// How many lines were left out before one that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub(super) own: u64,
    pub(super) of_others: u64,
}

impl LeftOut {
    /// Those of the same kind; `None` if there were none.
    pub fn own(self) -> Option<u64> {
        Some(self.own).filter(|number| *number > 0)
    }

    /// Those of kinds that were forgotten since, or never had a place; `None` if there were none.
    pub fn of_others(self) -> Option<u64> {
        Some(self.of_others).filter(|number| *number > 0)
    }
}
