use std::pin::pin;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::*;
use crate::{config::Flags, names::Pattern, policy::Rules};

const ONE: Places = Places { all: 1, own: TurnLimits { of_caller: 1, of_job: 1 } };

fn permit(uid: u32, job: &str) -> Permit<Namespace> {
    let rules = Arc::new(Rules::built_in("test", Pattern::any()));
    rules.namespace(&CallerId::Uid(uid), Namespace::new(job, "1").unwrap()).unwrap()
}

/// The numbers of builds.
fn counts(queue: &Queue) -> Builds {
    Builds { oldest: Duration::ZERO, ..queue.builds() }
}

/// The turn, if it has come.
fn turn(waiting: Waiting) -> Option<Turn> {
    waiting.turn(|_| {}).now_or_never().map(Result::unwrap)
}

#[tokio::test]
async fn a_turn_ends_when_it_is_dropped_in_whatever_state() {
    let queue = Arc::<Queue>::default();
    let first = queue.wait(&permit(1, "a"), ONE).unwrap();
    let [gone, unread, last] = ["b", "c", "d"].map(|job| queue.wait(&permit(1, job), ONE).unwrap());
    assert_eq!(counts(&queue), Builds { running: 1, waiting: 3, places: 1, oldest: Duration::ZERO });
    let first = turn(first).unwrap();
    // One leaves before its turn, and one that has its turn before it has noticed.
    drop(gone);
    drop(first);
    assert_eq!(counts(&queue), Builds { running: 1, waiting: 1, places: 1, oldest: Duration::ZERO });
    drop(unread);
    assert_eq!(counts(&queue), Builds { running: 1, waiting: 0, places: 1, oldest: Duration::ZERO });
    drop(turn(last).unwrap());
    assert_eq!(counts(&queue), Builds { running: 0, waiting: 0, places: 1, oldest: Duration::ZERO });
}

#[tokio::test]
async fn who_waits_is_told_its_place_when_that_changes() {
    let queue = Arc::<Queue>::default();
    let running = turn(queue.wait(&permit(1, "a"), ONE).unwrap()).unwrap();
    let ahead = queue.wait(&permit(1, "b"), ONE).unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let waiting = queue.wait(&permit(1, "c"), ONE).unwrap();
    let mut waiting = pin!(waiting.turn(move |ahead| tell.send(ahead).unwrap()));
    let mut leaves = Some(ahead);
    for expected in [1, 0] {
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("the place is taken"),
            place = told.recv() => assert_eq!(place, Some(expected)),
        }
        leaves.take();
    }
    drop(running);
    assert!(waiting.now_or_never().is_some());
    // A build that has its turn at once is not shown to wait.
    assert!(queue.wait(&permit(1, "d"), ONE).unwrap().turn(|_| panic!("it waits")).now_or_never().is_some());
}

#[tokio::test]
async fn a_full_queue_has_room_for_others() {
    let queue = Arc::<Queue>::default();
    let running = turn(queue.wait(&permit(0, "a"), ONE).unwrap()).unwrap();
    let mut waiting = Vec::new();
    // Each takes all that it gets, under many names, and has half of what is left.
    for (uid, room) in [(1, WAITING_MAX / 2), (2, WAITING_MAX / 4), (3, WAITING_MAX / 8)] {
        let mut own: Vec<_> = Vec::new();
        let refused = loop {
            match queue.wait(&permit(uid, &own.len().to_string()), ONE) {
                Ok(place) => own.push(place),
                Err(fault) => break fault,
            }
        };
        assert_eq!(own.len(), room);
        assert_eq!((refused.reason(), refused.retry()), (Reason::LimitReached, Some(RETRY_AFTER)));
        assert!(refused.text().contains(&format!("{room} of them yours")), "{refused}");
        waiting.push(own);
    }
    let builds = queue.builds();
    assert_eq!(builds.waiting, WAITING_MAX / 8 * 7, "a refused build does not wait");
    for uid in 4..40 {
        let own: Vec<_> =
            (0..).map_while(|job: u32| queue.wait(&permit(uid, &job.to_string()), ONE).ok()).collect();
        assert!(own.len() >= WAITING_OF_EACH, "{uid} has {}", own.len());
        waiting.push(own);
    }
    drop((running, waiting));
    assert_eq!(counts(&queue), Builds { running: 0, waiting: 0, places: 1, oldest: Duration::ZERO });
    assert!(turn(queue.wait(&permit(1, "a"), ONE).unwrap()).is_some());
}

#[tokio::test]
async fn a_closed_queue_ends_the_wait_and_not_the_builds() {
    let queue = Arc::<Queue>::default();
    let running = turn(queue.wait(&permit(1, "a"), ONE).unwrap()).unwrap();
    let waiting = queue.wait(&permit(2, "b"), ONE).unwrap();
    queue.close();
    assert_eq!(waiting.turn(|_| {}).await.unwrap_err().reason(), Reason::ShuttingDown);
    assert_eq!(queue.wait(&permit(3, "c"), ONE).unwrap_err().reason(), Reason::ShuttingDown);
    assert_eq!(queue.builds().running, 1);
    drop(running);
    assert_eq!(queue.builds().running, 0);
}

#[test]
fn a_shared_engine_keeps_places_for_others() {
    let none = BuildLimits::default();
    let places = |limits, processors, at_once, is_shared| {
        let Places { all, own } = Places::new(limits, processors, at_once, is_shared);
        (all, own.of_caller, own.of_job)
    };
    assert_eq!(places(none, 1, 160, false), (8, 8, 4));
    assert_eq!(places(none, 16, 160, true), (32, 24, 16));
    assert_eq!(places(none, 512, 160, true), (150, 113, 75));
    assert_eq!(places(none, 16, 2, true), (32, 2, 16));
    let said =
        |max, of_job| BuildLimits { max: NonZeroUsize::new(max), max_per_job: NonZeroUsize::new(of_job) };
    assert_eq!(places(said(3, 0), 16, 160, true), (3, 2, 2));
    assert_eq!(places(said(2, 9), 16, 160, false), (2, 2, 9));
    assert_eq!(places(said(1, 0), 16, 160, true), (1, 1, 1));
}

#[test]
fn an_engine_is_shared_by_several_entries_or_by_an_issuer() {
    let shared = |file: &str| {
        let config = Config::with_file(Flags::default(), file);
        config.is_shared(config.engines.default_name())
    };
    let serve = |uid: u32| format!("[[serve]]\nuid = {uid}\nnamespaces = \"*\"\n");
    assert!(!shared(""));
    assert!(!shared(&serve(1)));
    assert!(shared(&(serve(1) + &serve(2))));
}
