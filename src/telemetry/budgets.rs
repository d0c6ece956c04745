//! Limits the lines of each caller's work in a log: a job that tags an image, or fails a build, again and again must not
//! fill the disk. Unlike a limit of one line a second, it leaves out nothing of a caller that works as usual.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::LeftOut;

/// The number of callers and kinds that are remembered.
const CALLERS_MAX: usize = 4096;

/// The budgets of all callers, one for each `K`: a caller and a kind of its work. Those of one kind must not hide the
/// others.
#[derive(Debug)]
pub struct Budgets<K> {
    limit: Limit,
    inner: Mutex<Inner<K>>,
}

/// The limit of one budget.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// How many lines it has after a pause.
    at_once: u32,
    /// How often one more may follow.
    every: Duration,
}

#[derive(Debug)]
struct Inner<K> {
    callers: HashMap<K, Budget>,
    /// Left out of callers that are forgotten since.
    forgotten: u64,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    /// When `left` was right.
    at: Instant,
    unrecorded: u64,
}

impl<K: Clone + Eq + Hash> Budgets<K> {
    /// Budgets of `at_once` lines after a pause, with one more in `every`, for as long as a caller likes.
    pub fn new(at_once: u32, every: Duration) -> Self {
        let inner = Mutex::new(Inner { callers: HashMap::new(), forgotten: 0 });
        Self { limit: Limit { at_once, every }, inner }
    }

    /// Takes a line from `caller`'s budget. Returns how many were left out before it; `None` if this one has to be left
    /// out, too.
    pub fn take(&self, caller: &K) -> Option<LeftOut> {
        self.take_at(caller, Instant::now())
    }

    fn take_at(&self, caller: &K, now: Instant) -> Option<LeftOut> {
        let limit = self.limit;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { callers, forgotten } = &mut *inner;
        if !callers.contains_key(caller) && callers.len() >= CALLERS_MAX {
            make_room(callers, forgotten, limit, now);
        }
        let new = || Budget { left: limit.at_once, at: now, unrecorded: 0 };
        let budget = callers.entry(caller.clone()).or_insert_with(new);
        match budget.renewed(limit, now).checked_sub(1) {
            Some(left) => {
                // Parts of an interval count for the next line.
                let parts = now.duration_since(budget.at).as_nanos() % limit.every.as_nanos();
                let parts = Duration::from_nanos(u64::try_from(parts).unwrap_or_default());
                (budget.left, budget.at) = (left, now.checked_sub(parts).unwrap_or(now));
                let own = std::mem::take(&mut budget.unrecorded);
                Some(LeftOut { own, of_others: std::mem::take(forgotten) })
            }
            None => {
                budget.unrecorded += 1;
                None
            }
        }
    }
}

/// Forgets the callers whose budgets are full again, or else the fullest one, so that a new caller's lines are written.
/// The lines that were left out of them stay in the count.
fn make_room<K>(callers: &mut HashMap<K, Budget>, forgotten: &mut u64, limit: Limit, now: Instant) {
    let fullest = callers.values().map(|budget| budget.renewed(limit, now)).max().unwrap_or(limit.at_once);
    let mut may_forget = true;
    callers.retain(|_, budget| {
        let forget = may_forget && budget.renewed(limit, now) == fullest;
        if forget {
            *forgotten += budget.unrecorded;
            may_forget = fullest == limit.at_once;
        }
        !forget
    });
}

impl Budget {
    fn renewed(&self, limit: Limit, now: Instant) -> u32 {
        let since = now.duration_since(self.at).as_nanos() / limit.every.as_nanos();
        self.left.saturating_add(u32::try_from(since).unwrap_or(u32::MAX)).min(limit.at_once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::CallerId;

    const AT_ONCE: u32 = 1000;
    const EVERY: Duration = Duration::from_millis(200);

    #[test]
    fn a_caller_has_so_many_lines_and_the_rest_is_counted() {
        let (budgets, begin) = (Budgets::new(AT_ONCE, EVERY), Instant::now());
        let [one, other] = [1, 2].map(CallerId::Uid);
        let take =
            |caller, after: Duration| budgets.take_at(caller, begin + after).map(|left_out| left_out.own);
        for _ in 0..AT_ONCE {
            assert_eq!(take(&one, Duration::ZERO), Some(0));
        }
        assert_eq!(take(&one, Duration::ZERO), None);
        assert_eq!(take(&other, Duration::ZERO), Some(0), "another caller has a budget of its own");
        assert_eq!(take(&one, EVERY / 2), None);
        assert_eq!(take(&one, EVERY), Some(2));
        assert_eq!(take(&one, EVERY), None);
        // Three half intervals are one event, and a half is left.
        assert_eq!(take(&one, EVERY * 5 / 2), Some(1));
        assert_eq!(take(&one, EVERY * 3), Some(0));
        for _ in 0..AT_ONCE {
            assert_eq!(take(&one, EVERY * 10 * AT_ONCE), Some(0), "a pause renews all of it, and no more");
        }
        assert_eq!(take(&one, EVERY * 10 * AT_ONCE), None);
    }

    #[test]
    fn callers_without_end_take_no_memory_without_end_and_hide_nobody() {
        let (budgets, begin) = (Budgets::new(AT_ONCE, EVERY), Instant::now());
        let many = u32::try_from(CALLERS_MAX).unwrap();
        for uid in 0..many {
            for _ in 0..AT_ONCE {
                assert!(budgets.take_at(&CallerId::Uid(uid), begin).is_some());
            }
            assert_eq!(budgets.take_at(&CallerId::Uid(uid), begin), None);
        }
        // No budget is full: one caller is forgotten for the new one, and its event counted.
        let left_out = budgets.take_at(&CallerId::Uid(many), begin);
        assert_eq!(left_out, Some(LeftOut { own: 0, of_others: 1 }));
        assert_eq!(budgets.inner.lock().unwrap().callers.len(), CALLERS_MAX);
        // All are full again.
        let later = begin + EVERY * AT_ONCE;
        let left_out = budgets.take_at(&CallerId::Uid(many + 1), later);
        assert_eq!(left_out, Some(LeftOut { own: 0, of_others: u64::from(many) - 1 }));
        assert_eq!(budgets.take_at(&CallerId::Uid(many + 1), later), Some(LeftOut::default()));
        assert_eq!(budgets.inner.lock().unwrap().callers.len(), 1);
    }
}
