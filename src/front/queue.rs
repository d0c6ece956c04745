//! The builds of one engine: how many run at once, and in which order the others wait for their turn.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::{
    config::{BuildLimits, Config},
    fault::{Fault, Reason},
    metrics::{EngineMetrics, Metrics},
    names::{CallerId, EngineName, Job, Namespace},
    policy::Permit,
    shares::{Ticket, TurnLimits, Turns},
    tasks::Cause,
};

/// The limit on waiting builds of an engine. A caller may take half of the places that others leave. Each
/// waiting build holds the calls of one session, so even then a caller stays far below its limit on calls.
const WAITING_MAX: usize = 512;
/// How many of a caller may wait however many of others do, so that ten callers cannot keep the others out.
const WAITING_OF_EACH: usize = 8;
/// The limit on waiting builds of all callers, for the sake of memory: a thousand callers may have as many.
const WAITING_IN_ALL: usize = 8192;
/// A client whose build finds no place in the queue should try again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// How often a build that waits looks at its place.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many builds an engine runs at once if the configuration does not say: twice its processors, since a build waits
/// for networks and disks about as long as it computes. Less than the least of these would make the jobs of a small node
/// wait for one another without need; more than the most of these has not been shown to work.
const DEFAULT_PER_PROCESSOR: usize = 2;
const DEFAULT_MIN: usize = 8;
const DEFAULT_MAX: usize = 150;

/// The queues of all engines.
#[derive(Debug)]
pub struct Queues {
    limits: BuildLimits,
    by_engine: BTreeMap<EngineName, Arc<Queue>>,
}

impl Queues {
    /// The queues of the configuration's engines; `metrics` count what waits in them.
    pub fn new(config: &Config, metrics: &Metrics) -> Self {
        let queue = |name: &EngineName| Arc::new(Queue { metrics: metrics.of(name), ..Queue::default() });
        let by_engine = config.engines.iter().map(|(name, _)| (name.clone(), queue(name))).collect();
        Self { limits: config.builds, by_engine }
    }

    /// Puts a build into the queue of an engine with this number of processors, which callers who do not trust one another
    /// may share; an error if the queue is full.
    pub(super) fn wait(
        &self,
        engine: &EngineName,
        processors: usize,
        is_shared: bool,
        namespace: &Permit<Namespace>,
    ) -> Result<Waiting, Fault> {
        let queue = self.by_engine.get(engine);
        let queue = queue.ok_or_else(|| Fault::internal(format!("no engine `{engine}`")))?;
        let at_once = usize::try_from(namespace.rules().at_once()).unwrap_or(usize::MAX);
        queue.wait(namespace, Places::new(self.limits, processors, at_once, is_shared))
    }

    /// How many builds an engine has.
    pub fn builds(&self, engine: &EngineName) -> Builds {
        self.by_engine.get(engine).map(|queue| queue.builds()).unwrap_or_default()
    }

    /// Ends the wait of all builds: wharfd is shutting down.
    pub(super) fn close(&self) {
        self.by_engine.values().for_each(|queue| queue.close());
    }
}

/// The limits on the builds of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    /// How many run at once.
    all: usize,
    /// How many of one caller, and of one job.
    own: TurnLimits,
}

impl Places {
    fn new(limits: BuildLimits, processors: usize, at_once: usize, is_shared: bool) -> Self {
        let own = (DEFAULT_PER_PROCESSOR * processors).clamp(DEFAULT_MIN, DEFAULT_MAX);
        let all = limits.max.map_or(own, NonZeroUsize::get);
        // A caller's builds may run without end: the last quarter of the places is left to others.
        let left = if is_shared { (all / 4).max(1) } else { 0 };
        let of_caller = at_once.min(all.saturating_sub(left)).max(1);
        let of_job = limits.max_per_job.map_or(all.div_ceil(2), NonZeroUsize::get);
        Self { all, own: TurnLimits { of_caller, of_job } }
    }
}

/// The builds of one engine.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    metrics: EngineMetrics,
}

#[derive(Debug, Default)]
struct State {
    turns: Turns<CallerId, Job, oneshot::Sender<Turn>>,
    /// Since when each of the builds waits that wait.
    since: BTreeMap<Ticket, Instant>,
    /// How many builds run at once, as the newest of them said.
    places: usize,
    /// wharfd ends: no build begins any more.
    is_closed: bool,
}

/// How many builds an engine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Builds {
    /// The running builds.
    pub running: usize,
    /// The builds that wait for their turn.
    pub waiting: usize,
    /// How many may run at once; 0 before the first build.
    pub places: usize,
    /// How long the first of the waiting builds waits.
    pub oldest: Duration,
}

impl Queue {
    /// Puts a build into the queue; an error if the queue is full.
    fn wait(self: &Arc<Self>, namespace: &Permit<Namespace>, places: Places) -> Result<Waiting, Fault> {
        let (caller, job) = (namespace.caller(), namespace.subject().job());
        let ((sender, turn), since) = (oneshot::channel(), Instant::now());
        let (ticket, is_full) = {
            let mut state = self.state();
            if state.is_closed {
                return Err(Cause::ShuttingDown.into());
            }
            state.places = places.all;
            let waiting = state.turns.waiting();
            let room = WAITING_MAX.saturating_sub(waiting).max(WAITING_OF_EACH);
            let is_full = waiting >= WAITING_IN_ALL || state.turns.waiting_of(caller) >= room;
            let ticket = state.turns.wait(caller, job, places.own, sender);
            state.since.insert(ticket, since);
            (ticket, is_full)
        };
        let (caller, job) = (caller.clone(), job.clone());
        let waiting = Waiting { queue: Arc::clone(self), caller, job, ticket, since, turn };
        self.give();
        if is_full && waiting.turn.is_empty() {
            self.metrics.queue_is_full();
            let text = format!("too many builds wait for their turn, {} of them yours", waiting.of_caller());
            let fault = Fault::new(Reason::LimitReached, text);
            return Err(fault.hint("try again when some of them have run").retry_after(RETRY_AFTER));
        }
        Ok(waiting)
    }

    /// Gives turns as long as there are places.
    fn give(self: &Arc<Self>) {
        loop {
            let (sender, turn) = {
                let mut state = self.state();
                if state.turns.running() >= state.places {
                    return;
                }
                let Some((caller, job, sender)) = state.turns.begin_next() else { return };
                (sender, Turn { queue: Arc::clone(self), caller, job })
            };
            // The build may have gone in this moment: then its turn ends here, and the next one has it.
            drop(sender.send(turn));
        }
    }

    /// Ends the wait of all builds: wharfd is shutting down.
    fn close(&self) {
        let left = {
            let mut state = self.state();
            state.is_closed = true;
            state.turns.clear()
        };
        drop(left);
    }

    /// How many builds there are.
    fn builds(&self) -> Builds {
        let state = self.state();
        let (running, waiting) = (state.turns.running(), state.turns.waiting());
        // A build that has its turn may not have noticed yet.
        let oldest = state.since.values().next().filter(|_| waiting > 0);
        let oldest = oldest.map(Instant::elapsed).unwrap_or_default();
        Builds { running, waiting, places: state.places, oldest }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build that waits for its turn; dropping it gives up its place in the queue.
#[derive(Debug)]
pub struct Waiting {
    queue: Arc<Queue>,
    caller: CallerId,
    job: Job,
    ticket: Ticket,
    since: Instant,
    turn: oneshot::Receiver<Turn>,
}

impl Waiting {
    /// Waits for the turn. `show` gets the number of builds ahead, at first and whenever it has changed; not
    /// if the turn has come already.
    pub async fn turn(mut self, mut show: impl FnMut(usize)) -> Result<Turn, Fault> {
        let mut shown = None;
        let mut looks = interval_at(Instant::now(), LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                turn = &mut self.turn => {
                    let turn = turn.map_err(|_| Fault::from(Cause::ShuttingDown))?;
                    self.queue.metrics.waited(self.since.elapsed());
                    return Ok(turn);
                }
                _ = looks.tick() => {
                    let ahead = self.queue.state().turns.ahead(&self.caller, &self.job, self.ticket);
                    if let Some(ahead) = ahead.filter(|ahead| shown != Some(*ahead)) {
                        shown = Some(ahead);
                        show(ahead);
                    }
                }
            }
        }
    }

    fn of_caller(&self) -> usize {
        self.queue.state().turns.waiting_of(&self.caller).saturating_sub(1)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let left = {
            let mut state = self.queue.state();
            state.since.remove(&self.ticket);
            state.turns.leave(&self.caller, &self.job, self.ticket)
        };
        drop(left);
    }
}

/// The turn of a build; dropping it lets the next one begin.
#[derive(Debug)]
pub struct Turn {
    queue: Arc<Queue>,
    caller: CallerId,
    job: Job,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.state().turns.ended(&self.caller, &self.job);
        self.queue.give();
    }
}

#[cfg(test)]
mod tests;
