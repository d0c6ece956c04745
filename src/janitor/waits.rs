//! When work that has failed is tried again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::naming::MountsKey;

/// The first wait after a failure; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(30);
/// The longest wait.
const MAX: Duration = Duration::from_secs(3600);

/// The jobs whose cache mounts could not be removed, and when each is due again. One that nobody tries for [`MAX`] after
/// that is forgotten when the next one is tried.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<HashMap<MountsKey, Wait>>);

#[derive(Clone, Copy, Debug)]
struct Wait {
    last: Duration,
    until: Instant,
}

impl Waits {
    /// Whether it may be tried at the time `now`.
    pub(super) fn is_due(&self, name: &MountsKey, now: Instant) -> bool {
        self.lock().get(name).is_none_or(|wait| wait.until <= now)
    }

    /// Notes how it went.
    pub(super) fn tried(&self, name: &MountsKey, is_done: bool, now: Instant) {
        let mut waits = self.lock();
        waits.retain(|_, wait| wait.until + MAX > now);
        if is_done {
            waits.remove(name);
            return;
        }
        let next = waits.get(name).map_or(FIRST, |wait| (wait.last * 2).min(MAX));
        waits.insert(name.clone(), Wait { last: next, until: now + next });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MountsKey, Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_ever_more_rarely_and_on_its_own() {
        let waits = Waits::default();
        let begun = Instant::now();
        let mut tries = Vec::new();
        // As the janitor does, for ten hours.
        for seconds in (0..36_000).step_by(10) {
            let now = begun + Duration::from_secs(seconds);
            assert!(waits.is_due(&"fine".into(), now));
            waits.tried(&"fine".into(), true, now);
            if waits.is_due(&"broken".into(), now) {
                tries.push(seconds);
                waits.tried(&"broken".into(), false, now);
            }
        }
        assert_eq!(tries[..9], [0, 30, 90, 210, 450, 930, 1890, 3810, 7410]);
        assert!(tries.windows(2).all(|two| two[1] - two[0] <= MAX.as_secs()), "{tries:?}");
        assert_eq!(tries.len(), 16, "{tries:?}");
    }

    #[test]
    fn what_is_done_or_forgotten_begins_anew() {
        let waits = Waits::default();
        let now = Instant::now();
        for _ in 0..3 {
            waits.tried(&"a".into(), false, now);
            waits.tried(&"b".into(), false, now);
        }
        waits.tried(&"a".into(), true, now);
        assert!(waits.is_due(&"a".into(), now) && !waits.is_due(&"b".into(), now));
        waits.tried(&"a".into(), false, now);
        assert!(!waits.is_due(&"a".into(), now));
        let later = now + FIRST;
        assert!(waits.is_due(&"a".into(), later) && !waits.is_due(&"b".into(), later), "each for itself");
        waits.tried(&"c".into(), true, later + FIRST * 3 + MAX);
        assert!(waits.lock().is_empty());
    }
}
