//! Rate limits for log lines that a job can cause at will: suppressed lines are counted.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::LeftOut;

/// The number of kinds that are remembered. Jobs should not be able to choose kinds; if they can, lines are
/// left out rather than memory used, and counted together.
const KINDS_MAX: usize = 4096;

/// Logs a line like tracing's macro of that level, but at most once a second from this place, with the number
/// of lines that were left out in between: `each_second!(info, %repository, "…")`. For a line that a job can cause
/// as often as it likes.
macro_rules! each_second {
    ($level:ident, $($line:tt)+) => {{
        static LINE: $crate::telemetry::Line = $crate::telemetry::Line::new();
        if let Some(said) = LINE.may_say() {
            tracing::$level!(unlogged = said.own(), $($line)+);
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
    pub(crate) fn may_say(&self) -> Option<LeftOut> {
        let mut kind = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let own = match &mut *kind {
            Some(kind) => kind.again(now, SECOND)?,
            None => {
                *kind = Some(Kind { said: now, unsaid: 0 });
                0
            }
        };
        Some(LeftOut { own, of_others: 0 })
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Lets one line of each kind pass per interval, and counts the others.
#[derive(Debug)]
pub struct Repeats<K> {
    every: Duration,
    /// How often a line of any kind may pass.
    all_every: Duration,
    inner: Mutex<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    kinds: HashMap<K, Kind>,
    /// When a line passed last.
    said: Option<Instant>,
    /// The suppressed lines of kinds that have no place here.
    unsaid_of_others: u64,
}

#[derive(Debug)]
struct Kind {
    said: Instant,
    unsaid: u64,
}

impl Kind {
    /// The number of lines that were suppressed, if the next one may pass.
    fn again(&mut self, now: Instant, every: Duration) -> Option<u64> {
        if now.duration_since(self.said) < every {
            self.unsaid += 1;
            return None;
        }
        self.said = now;
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl<K: Eq + Hash> Repeats<K> {
    /// Allows one line of each kind in `every`.
    pub fn every(every: Duration) -> Self {
        let inner = Inner { kinds: HashMap::new(), said: None, unsaid_of_others: 0 };
        Self { every, all_every: Duration::ZERO, inner: Mutex::new(inner) }
    }

    /// The same, and one of all kinds together in `all_every`: of kinds that one person can have many of.
    #[must_use]
    pub fn and_all_every(self, all_every: Duration) -> Self {
        Self { all_every, ..self }
    }

    /// Asks to log a line of `kind`; `None` means that it is suppressed and counted.
    pub fn may_say(&self, kind: K) -> Option<LeftOut> {
        self.at(kind, Instant::now())
    }

    fn at(&self, kind: K, now: Instant) -> Option<LeftOut> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { kinds, said, unsaid_of_others } = &mut *inner;
        let all_are_over = said.is_some_and(|said| now.duration_since(said) < self.all_every);
        if !kinds.contains_key(&kind) && kinds.len() >= KINDS_MAX {
            kinds.retain(|_, kind| {
                let stays = now.duration_since(kind.said) < self.every;
                *unsaid_of_others += if stays { 0 } else { kind.unsaid };
                stays
            });
        }
        let is_full = kinds.len() >= KINDS_MAX;
        let own = match kinds.get_mut(&kind) {
            Some(known) if all_are_over => {
                known.unsaid += 1;
                return None;
            }
            Some(known) => known.again(now, self.every)?,
            None if all_are_over || is_full => {
                *unsaid_of_others += 1;
                return None;
            }
            None => {
                kinds.insert(kind, Kind { said: now, unsaid: 0 });
                0
            }
        };
        *said = Some(now);
        Some(LeftOut { own, of_others: std::mem::take(unsaid_of_others) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_in_a_while_with_a_count() {
        let repeats = Repeats::every(Duration::from_secs(1));
        let begin = Instant::now();
        let at = |kind, millis| repeats.at(kind, begin + Duration::from_millis(millis)).map(LeftOut::own);
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
        assert_eq!(here.may_say().map(LeftOut::own), Some(None));
        assert_eq!(here.may_say(), None);
        assert_eq!(there.may_say().map(LeftOut::own), Some(None));
        let earlier = Instant::now().checked_sub(SECOND).unwrap();
        here.0.lock().unwrap().as_mut().unwrap().said = earlier;
        assert_eq!(here.may_say().map(LeftOut::own), Some(Some(1)));
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end_and_every_line_is_counted() {
        let repeats = Repeats::every(SECOND);
        let begin = Instant::now();
        let all = 2 * KINDS_MAX + 3;
        let written = (0..2 * KINDS_MAX).filter(|kind| repeats.at(*kind, begin).is_some()).count();
        assert_eq!(written, KINDS_MAX);
        for kind in [0, 0, usize::MAX] {
            assert_eq!(repeats.at(kind, begin), None);
        }
        assert_eq!(repeats.inner.lock().unwrap().kinds.len(), KINDS_MAX);
        // The next line of anybody has them all: those of kinds that never had a place, and of those that lose it.
        let left_out = repeats.at(usize::MAX, begin + SECOND).unwrap();
        assert_eq!(left_out, LeftOut { own: 0, of_others: (all - written) as u64 });
        assert_eq!(repeats.inner.lock().unwrap().kinds.len(), 1);
        assert_eq!(repeats.at(0, begin + SECOND), Some(LeftOut::default()));
    }

    #[test]
    fn all_kinds_together_have_a_limit_and_every_line_is_counted() {
        let repeats = Repeats::every(60 * SECOND).and_all_every(SECOND);
        let begin = Instant::now();
        let at = |kind, seconds| repeats.at(kind, begin + seconds * SECOND);
        assert_eq!(at("a", 0), Some(LeftOut::default()));
        for kind in ["a", "b", "c"] {
            assert_eq!(at(kind, 0), None);
        }
        // A line that was left out for the sake of others does not silence its kind.
        assert_eq!(at("b", 1), Some(LeftOut { own: 0, of_others: 2 }));
        assert_eq!((at("b", 61), at("a", 61)), (Some(LeftOut::default()), None));
        assert_eq!(at("a", 62), Some(LeftOut { own: 2, of_others: 0 }));
    }
}
