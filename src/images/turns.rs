//! Turns for fetching an image: one fetch at a time for each hold. A waiting fetch may use another registry,
//! and need not wait for a slow one, nor for all the fetches that another caller has begun before it.
//!
//! A fetch whose registry is slow loses its turn to a fetch that waits with another repository. Nobody knows
//! in advance how fast the other registry is, and both may be hostile:
//!
//! - The longer a turn, the faster its registry has to be. But a caller takes a turn for that reason only once from
//!   another caller's fetches of one repository: otherwise its next fetches could take it again and again.
//! - Besides, a slow registry loses its turn. A repository that has lost a turn takes it back at once from a
//!   registry that is not half as fast as its own was: so two of them do not take turns for ever.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::sleep,
};

use crate::{
    names::CallerId,
    naming::ImageName,
    registry::{FASTER_BYTES, LOOK, Meter, Reading, SLOW_BYTES},
    shares::{Locks, Table},
};

/// How long a registry may be just faster than a slow one while others wait. With each such period it has to
/// send [`FASTER_BYTES`] more in a [`LOOK`].
const GRACE: Duration = Duration::from_secs(60);

/// The turns of all holds.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Each caller's place in the line for a hold. It has one, whatever it fetches: the lines of other callers
    /// are no longer for it.
    lines: Locks<(ImageName, CallerId)>,
    locks: Locks<ImageName>,
    /// The turns that a caller's fetches of a repository have lost, as long as there is one of them.
    lost: Table<(ImageName, CallerId, String), Lost>,
    now: Mutex<HashMap<ImageName, Arc<Now>>>,
}

/// The fetch whose turn it is.
#[derive(Debug)]
struct Now {
    caller: CallerId,
    /// The repository that the fetch reads.
    repository: String,
    meter: Arc<Meter>,
    since: Instant,
    lost: Arc<Lost>,
    displaced: watch::Sender<bool>,
}

/// The turns that a caller's fetches of one repository have lost.
#[derive(Debug, Default)]
pub(super) struct Lost(Mutex<LostTurns>);

#[derive(Debug, Default)]
struct LostTurns {
    /// The callers that have taken them.
    to: HashSet<CallerId>,
    /// How much the registry sent in the last [`LOOK`] before it lost the turn: less than required. Its
    /// average may be higher if it slowed down on purpose at the end.
    bytes: Option<u64>,
}

impl Lost {
    fn turns(&self) -> MutexGuard<'_, LostTurns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, to: &CallerId, bytes: u64) {
        let mut turns = self.turns();
        turns.to.insert(to.clone());
        turns.bytes = Some(bytes);
    }

    /// How much a registry has to send in a [`LOOK`] to keep the turn `now`, which has lasted for `lasted`, while
    /// `caller` waits with a repository that has lost these turns.
    fn demands(&self, caller: &CallerId, now: &Now, lasted: Duration) -> u64 {
        let own = self.turns().bytes;
        let always = own.map_or(SLOW_BYTES, |own| own / 2);
        if now.caller == *caller || now.lost.turns().to.contains(caller) {
            return always;
        }
        always.max(lasted.as_secs() / GRACE.as_secs() * FASTER_BYTES)
    }
}

/// A turn. It ends when this is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    hold: ImageName,
    now: Arc<Now>,
    // Freed before the place in the line, behind which the same caller's next fetch waits.
    _lock: OwnedMutexGuard<()>,
    _place: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the lock of a hold, in order to remove the hold.
    pub(super) async fn lock(&self, hold: &ImageName) -> OwnedMutexGuard<()> {
        self.locks.lock(hold).await
    }

    /// The lock of a hold, if nobody has it.
    pub(super) fn try_lock(&self, hold: &ImageName) -> Option<OwnedMutexGuard<()>> {
        self.locks.try_lock(hold)
    }

    /// The memory of turns that `caller`'s fetches of `repository` lose, to be kept as long as the fetch needs turns.
    pub(super) fn lost(&self, hold: &ImageName, caller: &CallerId, repository: &str) -> Arc<Lost> {
        self.lost.get(&(hold.clone(), caller.clone(), repository.to_owned()), Lost::default)
    }

    /// Waits for `caller`'s turn to fetch the image of `hold` from `repository`, whose memory is `lost`. Takes the
    /// turn from a fetch that reads another repository and is not fast enough.
    pub(super) async fn begin(
        &self,
        hold: &ImageName,
        caller: &CallerId,
        repository: &str,
        meter: &Arc<Meter>,
        lost: &Arc<Lost>,
    ) -> Turn<'_> {
        let line = (hold.clone(), caller.clone());
        let mut locking = std::pin::pin!(async {
            let place = self.lines.lock(&line).await;
            (self.locks.lock(hold).await, place)
        });
        let mut before: Option<(Arc<Now>, Reading)> = None;
        let (lock, place) = loop {
            tokio::select! {
                locks = &mut locking => break locks,
                () = sleep(LOOK) => {}
            }
            let Some(now) = self.map().get(hold).cloned() else { continue };
            let reading = now.meter.read();
            if let Some((seen, then)) = &before
                && Arc::ptr_eq(seen, &now)
                && now.repository != repository
                && reading.is_slower_since(then, lost.demands(caller, &now, now.since.elapsed()))
            {
                now.lost.add(caller, reading.moved_since(then));
                now.displaced.send_replace(true);
            }
            before = Some((now, reading));
        };
        let now = Arc::new(Now {
            caller: caller.clone(),
            repository: repository.to_owned(),
            meter: Arc::clone(meter),
            since: Instant::now(),
            lost: Arc::clone(lost),
            displaced: watch::Sender::new(false),
        });
        self.map().insert(hold.clone(), Arc::clone(&now));
        Turn { turns: self, hold: hold.clone(), now, _lock: lock, _place: place }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<ImageName, Arc<Now>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Returns once another fetch takes the turn.
    pub(super) async fn displaced(&self) {
        // Waiting cannot fail: the sender is in `now`.
        let _ = self.now.displaced.subscribe().wait_for(|displaced| *displaced).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.map().remove(&self.hold);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_longer_a_turn_the_faster_its_registry_has_to_be() {
        let [thief, honest, third] = [1, 2, 3].map(CallerId::Uid);
        let meter = Arc::new(Meter::default());
        let now = |caller: &CallerId, lost: &Arc<Lost>| Now {
            caller: caller.clone(),
            repository: String::new(),
            meter: Arc::clone(&meter),
            since: Instant::now(),
            lost: Arc::clone(lost),
            displaced: watch::Sender::new(false),
        };
        let demands = |lost: &Lost, caller: &CallerId, now: &Now, seconds| {
            lost.demands(caller, now, Duration::from_secs(seconds))
        };
        let (fresh, lost) = (Arc::default(), Arc::<Lost>::default());
        let turn = now(&thief, &fresh);
        assert_eq!(demands(&fresh, &honest, &turn, 59), SLOW_BYTES);
        assert_eq!(demands(&fresh, &honest, &turn, 60), 10 << 20);
        assert_eq!(demands(&fresh, &honest, &turn, 600), 100 << 20);
        assert_eq!(demands(&fresh, &thief, &turn, 600), SLOW_BYTES, "a caller does not hurry its own");
        // The honest fetches lose a turn once to each other caller, however many fetches that has.
        lost.add(&thief, 16 << 20);
        let turn = now(&honest, &lost);
        assert_eq!(demands(&fresh, &thief, &turn, 600), SLOW_BYTES);
        assert_eq!(demands(&fresh, &third, &turn, 600), 100 << 20);
        // And take it back from a slow one at once.
        let turn = now(&thief, &fresh);
        assert_eq!(demands(&lost, &honest, &turn, 1), 8 << 20);
        assert_eq!(demands(&lost, &honest, &turn, 600), 100 << 20);
        fresh.add(&honest, 0);
        assert_eq!(demands(&lost, &honest, &turn, 600), 8 << 20);
    }

    #[test]
    fn all_fetches_of_a_caller_from_one_repository_share_their_losses() {
        let (turns, [one, two]) = (Turns::default(), [1, 2].map(CallerId::Uid));
        let first = turns.lost(&"hold".into(), &one, "reg/app");
        first.add(&two, 0);
        assert!(Arc::ptr_eq(&first, &turns.lost(&"hold".into(), &one, "reg/app")));
        for (hold, caller, repository) in
            [("other", &one, "reg/app"), ("hold", &two, "reg/app"), ("hold", &one, "evil/app")]
        {
            assert!(turns.lost(&hold.into(), caller, repository).turns().to.is_empty());
        }
        drop(first);
        assert_eq!(turns.lost.len(), 0);
    }

    #[tokio::test]
    async fn a_caller_with_many_fetches_delays_another_by_one() {
        let (turns, meter) = (Turns::default(), Arc::new(Meter::default()));
        let (many, one) = (CallerId::Uid(1), CallerId::Uid(2));
        let lost = Arc::default();
        let hold = "hold".into();
        let begin = |caller| Box::pin(turns.begin(&hold, caller, "reg/app", &meter, &lost));
        let first = begin(&many).await;
        let mut waiting: Vec<_> = (0..16).map(|_| begin(&many)).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        let mut others = begin(&one);
        assert!(others.as_mut().now_or_never().is_none());
        drop(first);
        let turn = others.now_or_never().expect("the other caller's turn comes next");
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "one at a time");
        }
        drop(turn);
        for turn in waiting {
            assert!(turn.now_or_never().is_some(), "each has its turn, in order");
        }
        assert!(turns.map().is_empty());
    }
}
