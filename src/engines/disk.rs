//! An engine's disk as it was measured last, and what that means for builds.

use std::time::Duration;

use tokio::sync::watch;

use crate::{
    config::DiskMarks,
    engine::disk::Space,
    fault::{Fault, Reason},
    names::EngineName,
};

/// A client whose build is refused for lack of space should try again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How full a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// It is not measured.
    #[default]
    Unknown,
    /// It has space for builds.
    Ample,
    /// It has little, and wharfd is removing unused data.
    Low,
    /// It has little, and nothing is left that could be removed.
    Spent,
    /// It is almost full.
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

    /// Whether something is to be removed.
    pub fn is_low(self) -> bool {
        matches!(self, Self::Low | Self::Spent | Self::Full)
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
    /// A disk with this space, which was at this level before. `is_spent` says that nothing can be removed any more.
    pub fn new(engine: EngineName, space: Space, marks: DiskMarks, was: Level, is_spent: bool) -> Self {
        let low = marks.low.of(space.total);
        // An amount and a part of the disk are compared only here.
        let marks = (low, marks.full.of(space.total).min(low));
        let disk = Self { engine, space, marks, ..Self::default() };
        let enough = if was.is_low() { disk.enough() } else { low };
        let level = match space.free {
            free if free < marks.1 => Level::Full,
            free if free < enough && is_spent => Level::Spent,
            free if free < enough => Level::Low,
            _ => Level::Ample,
        };
        Self { level, ..disk }
    }

    /// The free space at which a low disk has space again: a little more than where it is low, so that it is not low again
    /// at once.
    fn enough(&self) -> u64 {
        let low = self.marks.0;
        low.saturating_add((low / 20).min(self.space.total.saturating_sub(low) / 4))
    }

    /// Whether it has as much free space at most as its mark asks for, so that it is low whatever is removed.
    pub fn is_too_small(&self) -> bool {
        self.space.total > 0 && self.marks.0 >= self.space.total
    }

    /// A disk that is not measured, for this reason.
    pub fn unknown(engine: EngineName, cause: String) -> Self {
        Self { engine, cause: Some(cause), ..Self::default() }
    }

    /// The refusal of a new build or pull, if there is no space for one.
    pub fn refusal(&self) -> Option<Fault> {
        match self.level {
            Level::Unknown | Level::Ample | Level::Low => None,
            Level::Spent | Level::Full => {
                let text = format!(
                    "the disk of the engine `{}` is low: {} are free, and builds and pulls begin with {} (`disk.low` and \
                     a little more)",
                    self.engine,
                    shown(self.space.free),
                    shown(self.enough())
                );
                Some(limit(text))
            }
        }
    }

    /// The end of a running build or pull, if there is no space for its rest.
    pub fn end(&self) -> Option<Fault> {
        (self.level == Level::Full).then(|| {
            limit(format!(
                "the disk of the engine `{}` is full: {} are free, and builds and pulls end below {} (`disk.full`)",
                self.engine,
                shown(self.space.free),
                shown(self.marks.1)
            ))
        })
    }
}

/// Waits until the disk is full.
pub async fn full(disk: &mut watch::Receiver<Disk>) -> Fault {
    let full = disk.wait_for(|disk| disk.level == Level::Full).await.ok().and_then(|disk| disk.end());
    match full {
        Some(fault) => fault,
        // Nobody measures it any more.
        None => std::future::pending().await,
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
            Disk::new(EngineName::default(), space, marks, Level::Ample, is_spent)
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
            fault.text().contains("99 MiB are free, and builds and pulls end below 100 MiB (`disk.full`)"),
            "{fault}"
        );
        assert_eq!((fault.reason(), fault.retry()), (Reason::LimitReached, Some(RETRY_AFTER)));
        let unknown = Disk::unknown(EngineName::default(), "none".to_owned());
        assert!(unknown.refusal().is_none() && unknown.end().is_none());
    }

    #[test]
    fn what_is_full_is_low_before() {
        let disk = |low, full, total: u64, free: u64| {
            let space = Space { free: free << 30, total: total << 30 };
            Disk::new(EngineName::default(), space, DiskMarks { low, full }, Level::Ample, false)
        };
        // 5 % of this disk are more than its low mark.
        let (low, full) = (Mark::Bytes(40 << 30), Mark::Percent(5));
        for (free, level) in [(99, Level::Ample), (40, Level::Ample), (39, Level::Full), (0, Level::Full)] {
            assert_eq!(disk(low, full, 2000, free).level, level, "{free}");
        }
        assert!(!disk(low, full, 2000, 1).is_too_small() && disk(low, full, 40, 1).is_too_small());
        let off = disk(Mark::Percent(0), Mark::Percent(0), 100, 0);
        assert!(off.level == Level::Ample && !off.is_too_small());
    }

    #[test]
    fn a_low_disk_has_space_again_a_little_later() {
        let disk = |was, free: u64, low| {
            let space = Space { free: free << 20, total: 1000 << 20 };
            Disk::new(EngineName::default(), space, DiskMarks { low, full: Mark::Percent(5) }, was, true)
        };
        let (low, most) = (Mark::Bytes(200 << 20), Mark::Bytes(996 << 20));
        for was in [Level::Low, Level::Spent, Level::Full] {
            assert_eq!(disk(was, 209, low).level, Level::Spent);
            assert_eq!(disk(was, 210, low).level, Level::Ample);
            assert_eq!(disk(was, 997, most).level, Level::Ample, "no disk has more than all of itself");
        }
        assert_eq!(disk(Level::Ample, 200, low).level, Level::Ample);
        assert_eq!(disk(Level::Unknown, 200, low).level, Level::Ample);
        let fault = disk(Level::Spent, 201, low).refusal().unwrap();
        assert!(
            fault.text().contains("201 MiB are free, and builds and pulls begin with 210 MiB"),
            "{fault}"
        );
    }
}
