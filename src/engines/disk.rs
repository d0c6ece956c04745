//! An engine's disk as it was measured last, and what that means for builds.

use std::time::Duration;

use crate::{
    config::DiskMarks,
    engine::disk::Space,
    fault::{Fault, Reason},
    names::EngineName,
};

/// A client whose build is refused for want of space is told to try again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How full a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// It is not measured.
    #[default]
    Unknown,
    /// It has space for builds.
    Ample,
    /// It has little, and what is unused is being removed.
    Low,
    /// It has little, and nothing is left that could be removed.
    Spent,
    /// It is as good as full.
    Full,
}

impl Level {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ample => "ample",
            Self::Low => "low",
            Self::Spent => "spent",
            Self::Full => "full",
        }
    }
}

/// An engine's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The engine's name.
    pub engine: EngineName,
    /// How full it is.
    pub level: Level,
    /// Its space.
    pub space: Space,
    /// The marks in bytes: below the first it is low, below the second full.
    pub marks: (u64, u64),
    /// Why it is not measured.
    pub cause: Option<String>,
}

impl Disk {
    /// A disk with this space. `is_spent` says that nothing can be removed any more.
    pub fn new(engine: EngineName, space: Space, marks: DiskMarks, is_spent: bool) -> Self {
        let marks = (marks.low.of(space.total), marks.full.of(space.total));
        let level = match space.free {
            free if free < marks.1 => Level::Full,
            free if free < marks.0 && is_spent => Level::Spent,
            free if free < marks.0 => Level::Low,
            _ => Level::Ample,
        };
        Self { engine, level, space, marks, cause: None }
    }

    /// A disk that is not measured, for this reason.
    pub fn unknown(engine: EngineName, cause: String) -> Self {
        Self { engine, cause: Some(cause), ..Self::default() }
    }

    /// The refusal of a new build, if there is no space for one.
    pub fn refusal(&self) -> Option<Fault> {
        match self.level {
            Level::Unknown | Level::Ample | Level::Low => None,
            Level::Spent | Level::Full => {
                let text = format!(
                    "the disk of the engine `{}` is low: {} are free, and builds begin with {} (`disk.low`)",
                    self.engine,
                    shown(self.space.free),
                    shown(self.marks.0)
                );
                Some(limit(text))
            }
        }
    }

    /// The end of a running build, if there is no space for its rest.
    pub fn end(&self) -> Option<Fault> {
        (self.level == Level::Full).then(|| {
            limit(format!(
                "the disk of the engine `{}` is full: {} are free, and builds end below {} (`disk.full`)",
                self.engine,
                shown(self.space.free),
                shown(self.marks.1)
            ))
        })
    }
}

fn limit(text: String) -> Fault {
    let hint = "try again later: wharfd removes what nobody uses; if it persists, tell the node's operator";
    Fault::new(Reason::LimitReached, text).hint(hint).retry_after(RETRY_AFTER)
}

/// A size for a person.
fn shown(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib >= 10 << 10 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mark;

    #[test]
    fn a_disk_is_judged_by_its_marks() {
        let marks = DiskMarks { low: Mark::Percent(20), full: Mark::Bytes(100 << 20) };
        let disk = |free: u64, is_spent| {
            let space = Space { free: free << 20, total: 1000 << 20 };
            Disk::new(EngineName::default(), space, marks, is_spent)
        };
        for (free, is_spent, level) in [
            (200, true, Level::Ample),
            (199, false, Level::Low),
            (199, true, Level::Spent),
            (100, false, Level::Low),
            (99, false, Level::Full),
            (0, true, Level::Full),
        ] {
            let disk = disk(free, is_spent);
            assert_eq!(disk.level, level, "{free}");
            assert_eq!(disk.refusal().is_some(), matches!(level, Level::Spent | Level::Full));
            assert_eq!(disk.end().is_some(), level == Level::Full);
        }
        let fault = disk(99, false).end().unwrap();
        assert!(
            fault.text().contains("99 MiB are free, and builds end below 100 MiB (`disk.full`)"),
            "{fault}"
        );
        assert_eq!((fault.reason(), fault.retry()), (Reason::LimitReached, Some(RETRY_AFTER)));
        let unknown = Disk::unknown(EngineName::default(), "none".to_owned());
        assert!(unknown.refusal().is_none() && unknown.end().is_none());
    }
}
