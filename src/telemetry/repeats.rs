//! Rate limits for log lines that a job can cause at will: suppressed lines are counted.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The number of kinds that are remembered. Jobs should not be able to choose kinds; if they can, lines are
/// lost rather than memory.
const KINDS_MAX: usize = 4096;

/// Logs a line like tracing's macro of that level, but at most once a second from this place, with the number
/// of lines that were left out in between: `each_second!(info, %repository, "…")`. For a line that a job can cause
/// as often as it likes.
macro_rules! each_second {
    ($level:ident, $($line:tt)+) => {{
        static LINE: $crate::telemetry::Line = $crate::telemetry::Line::new();
        if let Some(said) = LINE.may_say() {
            tracing::$level!(unlogged = said.unsaid(), $($line)+);
        }
    }};
}
pub(crate) use each_second;

/// One line of [`each_second`].
#[derive(Debug)]
pub(crate) struct Line(Mutex<Option<Kind>>);

impl Line {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Asks to log the line; `None` means that it is suppressed and counted.
    pub(crate) fn may_say(&self) -> Option<Said> {
        let mut kind = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut *kind {
            Some(kind) => kind.again(now, SECOND),
            None => {
                *kind = Some(Kind { said: now, unsaid: 0 });
                Some(Said { unsaid: 0 })
            }
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Lets one line of each kind pass per interval.
#[derive(Debug)]
pub struct Repeats<K> {
    every: Duration,
    kinds: Mutex<HashMap<K, Kind>>,
}

#[derive(Debug)]
struct Kind {
    said: Instant,
    unsaid: u64,
}

impl Kind {
    fn again(&mut self, now: Instant, every: Duration) -> Option<Said> {
        if now.duration_since(self.said) < every {
            self.unsaid += 1;
            return None;
        }
        self.said = now;
        Some(Said { unsaid: std::mem::take(&mut self.unsaid) })
    }
}

/// Permission to log a line, with the number of lines of its kind that were suppressed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    unsaid: u64,
}

impl Said {
    /// The number of lines of the kind that were suppressed since the last one; `None` if none were.
    pub fn unsaid(self) -> Option<u64> {
        (self.unsaid > 0).then_some(self.unsaid)
    }
}

impl<K: Eq + Hash> Repeats<K> {
    /// Allows one line of each kind in `every`.
    pub fn every(every: Duration) -> Self {
        Self { every, kinds: Mutex::default() }
    }

    /// Asks to log a line of `kind`; `None` means that it is suppressed and counted.
    pub fn may_say(&self, kind: K) -> Option<Said> {
        self.at(kind, Instant::now())
    }

    fn at(&self, kind: K, now: Instant) -> Option<Said> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kinds.get_mut(&kind) {
            return known.again(now, self.every);
        }
        if kinds.len() >= KINDS_MAX {
            kinds.retain(|_, kind| now.duration_since(kind.said) < self.every);
        }
        if kinds.len() >= KINDS_MAX {
            return None;
        }
        kinds.insert(kind, Kind { said: now, unsaid: 0 });
        Some(Said { unsaid: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_in_a_while_with_a_count() {
        let repeats = Repeats::every(Duration::from_secs(1));
        let begin = Instant::now();
        let at = |kind, millis| repeats.at(kind, begin + Duration::from_millis(millis)).map(Said::unsaid);
        assert_eq!(at("a", 0), Some(None));
        assert_eq!(at("a", 1), None);
        assert_eq!(at("b", 2), Some(None), "another kind has a line of its own");
        assert_eq!(at("a", 999), None);
        assert_eq!(at("a", 1000), Some(Some(2)));
        assert_eq!(at("a", 2000), Some(None));
    }

    #[test]
    fn a_line_is_said_once_a_second_from_each_place() {
        let (here, there) = (Line::new(), Line::new());
        assert_eq!(here.may_say().map(Said::unsaid), Some(None));
        assert_eq!(here.may_say(), None);
        assert_eq!(there.may_say().map(Said::unsaid), Some(None));
        let earlier = Instant::now().checked_sub(SECOND).unwrap();
        here.0.lock().unwrap().as_mut().unwrap().said = earlier;
        assert_eq!(here.may_say().map(Said::unsaid), Some(Some(1)));
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end() {
        let repeats = Repeats::every(Duration::from_secs(1));
        let begin = Instant::now();
        for kind in 0..2 * KINDS_MAX {
            repeats.at(kind, begin);
        }
        assert_eq!(repeats.kinds.lock().unwrap().len(), KINDS_MAX);
        assert!(repeats.at(usize::MAX, begin + Duration::from_secs(1)).is_some());
        assert_eq!(repeats.kinds.lock().unwrap().len(), 1);
    }
}
