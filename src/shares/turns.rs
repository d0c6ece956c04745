//! The order in which waiting work gets its turn: fair between callers, then between the jobs of a caller, then by
//! arrival. A caller is proven, and may have as many jobs as it likes.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// A queue of the work of callers `C` and their jobs `J`; each waiting piece carries a `T`. The caller with
/// the least running work is next; among equals, the one that has waited longest since its last turn. So a
/// caller without running work waits for at most one turn of each other, however much of theirs waits.
#[derive(Debug)]
pub struct Turns<C, J, T> {
    callers: HashMap<C, Caller<J, T>>,
    /// The callers that may have a turn.
    next: BTreeMap<Rank, C>,
    /// Orders arrivals and turns; never the same twice.
    clock: u64,
    running: usize,
    waiting: usize,
}

/// A caller with work.
#[derive(Debug)]
struct Caller<J, T> {
    rank: Rank,
    limit: usize,
    waiting: usize,
    jobs: HashMap<J, Line<T>>,
    /// The jobs that may have a turn.
    next: BTreeMap<Rank, J>,
}

/// The work of a job.
#[derive(Debug)]
struct Line<T> {
    rank: Rank,
    limit: usize,
    waiting: BTreeMap<u64, T>,
}

/// The place of an owner among its like: the lowest is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    running: usize,
    /// When it had its last turn, or began to wait after that. Nobody else has the same.
    since: u64,
}

/// The most that may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnLimits {
    /// The limit for one caller.
    pub of_caller: usize,
    /// The limit for one job of a caller.
    pub of_job: usize,
}

/// A piece of work that waits, in its job; an earlier one is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl<C, J, T> Default for Turns<C, J, T> {
    fn default() -> Self {
        Self { callers: HashMap::new(), next: BTreeMap::new(), clock: 0, running: 0, waiting: 0 }
    }
}

impl<C: Clone + Eq + Hash, J: Clone + Eq + Hash, T> Turns<C, J, T> {
    /// Adds work of a job. The newest limits count for all work of the caller and of the job.
    pub fn wait(&mut self, caller: &C, job: &J, limits: TurnLimits, work: T) -> Ticket {
        self.clock += 1;
        let now = self.clock;
        self.waiting += 1;
        self.change(caller, job, |caller, line| {
            if caller.waiting == 0 {
                caller.rank.since = now;
            }
            caller.waiting += 1;
            caller.limit = limits.of_caller;
            if line.waiting.is_empty() {
                line.rank.since = now;
            }
            line.limit = limits.of_job;
            line.waiting.insert(now, work);
        });
        Ticket(now)
    }

    /// Gives the next turn: the work counts as running until [`ended`](Self::ended). `None` if nothing may run.
    pub fn begin_next(&mut self) -> Option<(C, J, T)> {
        let (_, caller) = self.next.first_key_value()?;
        let caller = caller.clone();
        let (_, job) = self.callers.get(&caller)?.next.first_key_value()?;
        let job = job.clone();
        self.clock += 1;
        let now = self.clock;
        let work = self.change(&caller, &job, |caller, line| {
            let (_, work) = line.waiting.pop_first()?;
            caller.waiting -= 1;
            caller.rank = Rank { running: caller.rank.running + 1, since: now };
            line.rank = Rank { running: line.rank.running + 1, since: now };
            Some(work)
        })?;
        self.waiting -= 1;
        self.running += 1;
        Some((caller, job, work))
    }

    /// Takes back work that waits; `None` if it has had its turn.
    pub fn leave(&mut self, caller: &C, job: &J, ticket: Ticket) -> Option<T> {
        let left = self.change(caller, job, |caller, line| {
            let left = line.waiting.remove(&ticket.0)?;
            caller.waiting -= 1;
            Some(left)
        })?;
        self.waiting -= 1;
        Some(left)
    }

    /// Ends work of a job that ran.
    pub fn ended(&mut self, caller: &C, job: &J) {
        self.change(caller, job, |caller, line| {
            caller.rank.running -= 1;
            line.rank.running -= 1;
        });
        self.running -= 1;
    }

    /// Takes back all work that waits.
    pub fn clear(&mut self) -> Vec<T> {
        let lines = self.callers.values_mut().flat_map(|caller| {
            caller.waiting = 0;
            caller.next.clear();
            caller.jobs.values_mut()
        });
        let left = lines.flat_map(|line| std::mem::take(&mut line.waiting).into_values()).collect();
        self.next.clear();
        self.waiting = 0;
        self.callers.retain(|_, caller| {
            caller.jobs.retain(|_, line| line.rank.running > 0);
            caller.rank.running > 0
        });
        left
    }

    /// How many turns come before that of a piece of work if nothing else comes or ends; limits count for nothing.
    /// `None` if it has had its turn.
    pub fn ahead(&self, caller: &C, job: &J, ticket: Ticket) -> Option<usize> {
        let caller = self.callers.get(caller)?;
        let line = caller.jobs.get(job)?;
        line.waiting.get(&ticket.0)?;
        let in_line = line.waiting.range(..ticket.0).count();
        let jobs = caller.jobs.values().map(|other| (other.rank, other.waiting.len()));
        let in_caller = in_line + before(line.rank, in_line, jobs);
        let callers = self.callers.values().map(|other| (other.rank, other.waiting));
        Some(in_caller + before(caller.rank, in_caller, callers))
    }

    /// How many pieces run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many pieces wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many pieces of a caller wait.
    pub fn waiting_of(&self, caller: &C) -> usize {
        self.callers.get(caller).map_or(0, |caller| caller.waiting)
    }

    /// Changes a job and its caller, and keeps the order right. An owner without work leaves nothing behind.
    fn change<R>(
        &mut self,
        caller: &C,
        job: &J,
        change: impl FnOnce(&mut Caller<J, T>, &mut Line<T>) -> R,
    ) -> R {
        let own = self.callers.entry(caller.clone()).or_default();
        self.next.remove(&own.rank);
        let mut line = own.jobs.remove(job).unwrap_or_default();
        own.next.remove(&line.rank);
        let changed = change(own, &mut line);
        if !line.waiting.is_empty() && line.rank.running < line.limit {
            own.next.insert(line.rank, job.clone());
        }
        if !line.waiting.is_empty() || line.rank.running > 0 {
            own.jobs.insert(job.clone(), line);
        }
        if !own.next.is_empty() && own.rank.running < own.limit {
            self.next.insert(own.rank, caller.clone());
        }
        if own.jobs.is_empty() {
            self.callers.remove(caller);
        }
        changed
    }
}

/// How many turns of the others, each with its rank and the number of its waiting pieces, come before an owner's turn
/// number `turn`, from 0. Each turn adds one to what its owner runs.
fn before(own: Rank, turn: usize, others: impl Iterator<Item = (Rank, usize)>) -> usize {
    let level = own.running + turn;
    let turns = others.filter(|(other, _)| other.since != own.since).map(|(other, waiting)| {
        // Among equals, the one whose turn is longer ago is first: the one that ran more at first.
        let is_first =
            other.running > own.running || (other.running == own.running && other.since < own.since);
        (level + usize::from(is_first)).saturating_sub(other.running).min(waiting)
    });
    turns.sum()
}

impl<J, T> Default for Caller<J, T> {
    fn default() -> Self {
        Self { rank: Rank::default(), limit: 0, waiting: 0, jobs: HashMap::new(), next: BTreeMap::new() }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { rank: Rank::default(), limit: 0, waiting: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests;
