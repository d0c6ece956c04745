//! How many events of its work each caller may have recorded: a job that tags an image again and again must not fill
//! the disk.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::names::CallerId;

/// How many events a caller may have at once. No node begins so much work in a minute.
const AT_ONCE: u32 = 1000;
/// How often one more may follow: this is five a second, for as long as the caller likes.
const EVERY: Duration = Duration::from_millis(200);
/// The number of callers that are remembered. More have no events, rather than wharfd no memory.
const CALLERS_MAX: usize = 4096;

/// The budgets of all callers.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<CallerId, Budget>>);

#[derive(Debug)]
struct Budget {
    left: u32,
    /// When `left` was right.
    at: Instant,
    unrecorded: u64,
}

impl Budgets {
    /// Takes an event from `caller`'s budget. Returns how many were left out since its last one; `None` if this one
    /// has to be left out, too.
    pub fn take(&self, caller: &CallerId) -> Option<u64> {
        self.take_at(caller, Instant::now())
    }

    fn take_at(&self, caller: &CallerId, now: Instant) -> Option<u64> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !budgets.contains_key(caller) && budgets.len() >= CALLERS_MAX {
            budgets.retain(|_, budget| budget.renewed(now) < AT_ONCE || budget.unrecorded > 0);
            if budgets.len() >= CALLERS_MAX {
                return None;
            }
        }
        let new = || Budget { left: AT_ONCE, at: now, unrecorded: 0 };
        let budget = budgets.entry(caller.clone()).or_insert_with(new);
        match budget.renewed(now).checked_sub(1) {
            Some(left) => {
                // Parts of an interval count for the next event.
                let parts = now.duration_since(budget.at).as_nanos() % EVERY.as_nanos();
                let parts = Duration::from_nanos(u64::try_from(parts).unwrap_or_default());
                (budget.left, budget.at) = (left, now.checked_sub(parts).unwrap_or(now));
                Some(std::mem::take(&mut budget.unrecorded))
            }
            None => {
                budget.unrecorded += 1;
                None
            }
        }
    }
}

impl Budget {
    fn renewed(&self, now: Instant) -> u32 {
        let since = now.duration_since(self.at).as_nanos() / EVERY.as_nanos();
        self.left.saturating_add(u32::try_from(since).unwrap_or(u32::MAX)).min(AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_so_many_events_and_the_rest_is_counted() {
        let (budgets, begin) = (Budgets::default(), Instant::now());
        let [one, other] = [1, 2].map(CallerId::Uid);
        let take = |caller, after: Duration| budgets.take_at(caller, begin + after);
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
    fn callers_without_end_take_no_memory_without_end() {
        let (budgets, begin) = (Budgets::default(), Instant::now());
        for uid in 0..2 * CALLERS_MAX {
            budgets.take_at(&CallerId::Uid(u32::try_from(uid).unwrap()), begin);
        }
        assert_eq!(budgets.0.lock().unwrap().len(), CALLERS_MAX);
        assert_eq!(budgets.take_at(&CallerId::Uid(u32::MAX), begin), None);
        assert_eq!(budgets.take_at(&CallerId::Uid(u32::MAX), begin + EVERY), Some(0));
        assert_eq!(budgets.0.lock().unwrap().len(), 1);
    }
}
