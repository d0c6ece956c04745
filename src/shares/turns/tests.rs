use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const FREE: TurnLimits = TurnLimits { of_caller: usize::MAX, of_job: usize::MAX };

type Named = Turns<&'static str, &'static str, u32>;

/// The work of the next turns, as long as there are any.
fn all(turns: &mut Named) -> Vec<u32> {
    std::iter::from_fn(|| turns.begin_next().map(|(_, _, work)| work)).collect()
}

#[test]
fn one_piece_does_not_wait_for_a_hundred() {
    let mut turns = Named::default();
    for work in 0..100 {
        // Many jobs do not make a caller more.
        let job = ["a", "b", "c", "d"][work as usize % 4];
        turns.wait(&"flood", &job, FREE, work);
    }
    let ran = [turns.begin_next().unwrap(), turns.begin_next().unwrap()];
    assert_eq!(ran.map(|(_, _, work)| work), [0, 1]);
    let ticket = turns.wait(&"other", &"a", FREE, 1000);
    assert_eq!(turns.ahead(&"other", &"a", ticket), Some(0));
    assert_eq!(turns.begin_next(), Some(("other", "a", 1000)));
    assert_eq!(turns.begin_next().map(|(caller, ..)| caller), Some("flood"));
}

#[test]
fn callers_then_jobs_then_arrivals() {
    let mut turns = Named::default();
    for (caller, job, work) in [
        ("one", "a", 0),
        ("one", "a", 1),
        ("one", "a", 2),
        ("one", "b", 3),
        ("two", "a", 4),
        ("two", "a", 5),
        ("three", "a", 6),
    ] {
        turns.wait(&caller, &job, FREE, work);
    }
    assert_eq!(all(&mut turns), [0, 4, 6, 3, 5, 1, 2]);
}

#[test]
fn who_runs_least_is_next() {
    let mut turns = Named::default();
    for work in 0..3 {
        turns.wait(&"long", &"a", FREE, work);
        assert!(turns.begin_next().is_some());
    }
    turns.wait(&"long", &"a", FREE, 3);
    // The other's work is short: its next piece begins each time.
    for work in 10..13 {
        turns.wait(&"short", &"a", FREE, work);
        assert_eq!(turns.begin_next(), Some(("short", "a", work)));
        turns.ended(&"short", &"a");
    }
    assert_eq!(turns.begin_next(), Some(("long", "a", 3)));
}

#[test]
fn a_limit_stops_nobody_behind_it() {
    let mut turns = Named::default();
    let limits = TurnLimits { of_caller: 2, of_job: 1 };
    for (caller, job, work) in
        [("one", "a", 0), ("one", "a", 1), ("one", "b", 2), ("one", "c", 3), ("two", "a", 4)]
    {
        turns.wait(&caller, &job, limits, work);
    }
    // The job `a` is at its limit after its first turn, and the caller `one` after its second.
    assert_eq!(all(&mut turns), [0, 4, 2]);
    assert_eq!((turns.running(), turns.waiting()), (3, 2));
    turns.ended(&"one", &"b");
    assert_eq!(all(&mut turns), [3]);
    turns.ended(&"one", &"a");
    assert_eq!(all(&mut turns), [1]);
    // A new limit counts for those who wait already.
    turns.wait(&"one", &"a", limits, 5);
    turns.wait(&"one", &"a", FREE, 6);
    assert_eq!(all(&mut turns), [5, 6]);
}

#[test]
fn who_leaves_leaves_nothing_behind() {
    let mut turns = Named::default();
    let first = turns.wait(&"one", &"a", FREE, 0);
    let second = turns.wait(&"one", &"a", FREE, 1);
    assert_eq!(turns.ahead(&"one", &"a", second), Some(1));
    assert_eq!(turns.leave(&"one", &"a", first), Some(0));
    assert_eq!((turns.leave(&"one", &"a", first), turns.leave(&"nobody", &"a", first)), (None, None));
    assert_eq!(turns.ahead(&"one", &"a", second), Some(0));
    assert_eq!(all(&mut turns), [1]);
    assert_eq!((turns.leave(&"one", &"a", second), turns.ahead(&"one", &"a", second)), (None, None));
    turns.wait(&"two", &"a", FREE, 2);
    assert_eq!(turns.clear(), [2]);
    assert_eq!((turns.waiting(), turns.running()), (0, 1));
    turns.ended(&"one", &"a");
    assert!(turns.callers.is_empty() && turns.next.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { caller: u8, job: u8 },
    End(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..5_u8, 0..3_u8).prop_map(|(caller, job)| Step::Arrive { caller, job }),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

/// An engine with places, and all that is known of it from outside.
struct Model {
    turns: Turns<u8, u8, u32>,
    places: usize,
    limits: TurnLimits,
    waiting: Vec<(u8, u8, Ticket, u32)>,
    running: Vec<(u8, u8)>,
    work: u32,
    /// Who has had a turn while this caller, or this job of a caller, waited and ran nothing.
    passed: HashMap<(u8, Option<u8>), HashSet<u8>>,
}

impl Model {
    fn runs(&self, caller: u8, job: Option<u8>) -> usize {
        let own = |(c, j): &&(u8, u8)| *c == caller && job.is_none_or(|job| *j == job);
        self.running.iter().filter(own).count()
    }

    fn may_run(&self, caller: u8, job: u8) -> bool {
        self.runs(caller, None) < self.limits.of_caller && self.runs(caller, Some(job)) < self.limits.of_job
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Arrive { caller, job } => {
                let ticket = self.turns.wait(&caller, &job, self.limits, self.work);
                self.waiting.push((caller, job, ticket, self.work));
                self.work += 1;
            }
            Step::End(index) if !self.running.is_empty() => {
                let (caller, job) = self.running.swap_remove(index % self.running.len());
                self.turns.ended(&caller, &job);
            }
            Step::Leave(index) if !self.waiting.is_empty() => {
                let (caller, job, ticket, work) = self.waiting.remove(index % self.waiting.len());
                assert_eq!(self.turns.leave(&caller, &job, ticket), Some(work));
            }
            Step::End(_) | Step::Leave(_) => {}
        }
        while self.turns.running() < self.places {
            let Some((caller, job, work)) = self.turns.begin_next() else { break };
            self.check_turn(caller, job, work);
        }
        self.check();
    }

    fn check_turn(&mut self, caller: u8, job: u8, work: u32) {
        assert!(self.may_run(caller, job));
        let own = |(c, j, ..): &&(u8, u8, Ticket, u32)| (*c, *j) == (caller, job);
        assert_eq!(self.waiting.iter().find(own).unwrap().3, work, "a job's work runs in order of arrival");
        let waiting = self.waiting.iter().map(|(caller, job, ..)| (*caller, *job)).collect::<HashSet<_>>();
        for (c, j) in waiting {
            assert!(!self.may_run(c, j) || self.runs(c, None) >= self.runs(caller, None));
            if c == caller {
                assert!(!self.may_run(c, j) || self.runs(c, Some(j)) >= self.runs(c, Some(job)));
                if j != job && self.runs(c, Some(j)) == 0 {
                    let passed = self.passed.entry((c, Some(j))).or_default();
                    assert!(passed.insert(job), "job {job} has a second turn before {j}");
                }
            } else if self.runs(c, None) == 0 {
                // A caller's jobs do not give it more turns, and it may have several jobs here.
                self.passed.entry((c, None)).or_default();
            }
        }
        for ((c, j), passed) in &mut self.passed {
            if j.is_none() && *c != caller {
                assert!(passed.insert(caller), "{caller} has a second turn before {c}");
            }
        }
        self.passed.remove(&(caller, None));
        self.passed.remove(&(caller, Some(job)));
        self.waiting.retain(|(.., other)| *other != work);
        self.running.push((caller, job));
    }

    fn check(&mut self) {
        assert_eq!((self.turns.waiting(), self.turns.running()), (self.waiting.len(), self.running.len()));
        assert!(self.running.len() <= self.places);
        if self.running.len() < self.places {
            assert!(self.waiting.iter().all(|(caller, job, ..)| !self.may_run(*caller, *job)));
        }
        for caller in 0..5 {
            let waiting = self.waiting.iter().filter(|(c, ..)| *c == caller).count();
            assert_eq!(self.turns.waiting_of(&caller), waiting);
        }
        // Those who do not wait any more, and begin anew.
        let waits = |c: u8, j: Option<u8>| {
            self.waiting.iter().any(|(caller, job, ..)| *caller == c && j.is_none_or(|j| *job == j))
        };
        let gone: Vec<_> = self.passed.keys().filter(|(c, j)| !waits(*c, *j)).copied().collect();
        gone.iter().for_each(|key| drop(self.passed.remove(key)));
        if self.waiting.is_empty() && self.running.is_empty() {
            assert!(self.turns.callers.is_empty() && self.turns.next.is_empty());
        }
    }
}

fn model(places: usize, limits: TurnLimits) -> Model {
    Model {
        turns: Turns::default(),
        places,
        limits,
        waiting: Vec::new(),
        running: Vec::new(),
        work: 0,
        passed: HashMap::new(),
    }
}

proptest! {
    #[test]
    fn nobody_who_runs_nothing_waits_for_two_turns_of_another(
        steps in prop::collection::vec(step(), 1..200),
        places in 1..6_usize,
        of_caller in 1..6_usize,
        of_job in 1..4_usize,
    ) {
        let mut model = model(places, TurnLimits { of_caller, of_job });
        for step in &steps {
            model.take(step);
        }
        // All of it ends.
        while !model.running.is_empty() {
            model.take(&Step::End(0));
        }
        prop_assert!(model.waiting.is_empty());
    }

    #[test]
    fn the_place_of_each_piece_is_known(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = model(3, FREE);
        for step in &steps {
            model.take(step);
        }
        let places: HashMap<u32, usize> = model
            .waiting
            .iter()
            .map(|(caller, job, ticket, work)| (*work, model.turns.ahead(caller, job, *ticket).unwrap()))
            .collect();
        let mut turn = 0;
        while let Some((.., work)) = model.turns.begin_next() {
            prop_assert_eq!(places[&work], turn);
            turn += 1;
        }
        prop_assert_eq!(turn, places.len());
    }
}
