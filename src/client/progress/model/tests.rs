//! Update in any order, and the state that the model keeps of them.

use super::*;
use crate::client::progress::{
    step::TAIL_BYTES_MAX,
    updates::{Clock, Update, model_of},
};

fn of(model: &Model, digest: &str) -> (usize, String, String) {
    let vertex = model.by_digest(digest).unwrap();
    (vertex.number, vertex.name.clone(), format!("{:?}", vertex.state()))
}

fn millis(model: &Model, digest: &str) -> u128 {
    // An ended step needs no clock.
    model.elapsed(model.by_digest(digest).unwrap(), Instant::now()).as_millis()
}

#[test]
fn steps_are_numbered_as_they_start() {
    let model = model_of(&[
        Update::new().announced("a", "A").announced("b", "B").announced("c", "C"),
        Update::new().started("b", "B", 10),
        Update::new().cached("c", "C", 20).started("a", "A", 20),
    ]);
    assert_eq!(model.started().map(|(_, vertex)| vertex.name.as_str()).collect::<Vec<_>>(), ["B", "C", "A"]);
    assert_eq!(of(&model, "c"), (2, "C".into(), "Cached".into()));
    assert_eq!(of(&model, "a"), (3, "A".into(), "Running".into()));
}

#[test]
fn later_changes_replace_earlier_ones_and_stale_ones_do_not() {
    let mut model = model_of(&[
        Update::new().started("a", "pull x", 0),
        Update::new().failed("a", "pull x@sha256:1", 0, 50, "denied"),
        // A second pass announces the step again.
        Update::new().announced("a", "stale"),
    ]);
    assert_eq!(of(&model, "a"), (1, "pull x@sha256:1".into(), r#"Failed("denied")"#.into()));
    assert!(
        model.apply(&Update::new().failed("a", "pull x@sha256:1", 0, 50, "denied").0).vertexes.is_empty()
    );
    // The step runs again, and both runs count.
    assert_eq!(model.apply(&Update::new().started("a", "", 100).0).vertexes.len(), 1);
    assert_eq!(of(&model, "a"), (1, "pull x@sha256:1".into(), "Running".into()));
    model.apply(&Update::new().done("a", "", 100, 130).0);
    assert_eq!((of(&model, "a").2.as_str(), millis(&model, "a")), ("Done", 80));
}

#[test]
fn runs_that_overlap_count_once() {
    let model =
        model_of(&[Update::new().done("a", "A", 0, 100).done("a", "A", 60, 150).started("a", "A", 10)]);
    assert_eq!(millis(&model, "a"), 150);
}

#[test]
fn what_speaks_has_started_also_before_it_is_announced() {
    let mut model = model_of(&[Update::new().log("a", 5, "hello\n").status("b", "part", (1, 2), (5, None))]);
    assert_eq!(of(&model, "a"), (2, "a".into(), "Running".into()));
    assert_eq!(of(&model, "b"), (1, "b".into(), "Running".into()));
    model.apply(&Update::new().failed("a", "A", 2, 9, "no").0);
    assert_eq!(model.by_digest("a").unwrap().tail.lines.len(), 1);
    assert_eq!(of(&model, "a").1, "A");
}

#[test]
fn a_steps_end_ends_its_last_line() {
    let mut model = Model::default();
    let changes = model.apply(&Update::new().log("a", 5, "one\ntwo").failed("a", "A", 0, 9, "no").0);
    assert_eq!(changes.lines.iter().map(|(_, line)| &*line.text).collect::<Vec<_>>(), ["one", "two"]);
    let late = model.apply(&Update::new().log("a", 8, "late").0);
    assert_eq!(late.lines.len(), 1);
    assert_eq!(late.lines[0].1.to_string(), "0.008 late");
}

#[test]
fn only_the_output_that_may_be_repeated_is_kept() {
    let mut model = Model::default();
    let long = format!("{}\n", "x".repeat(1000)).repeat(70);
    for step in 0..100 {
        let digest = format!("d{step}");
        model.apply(&Update::new().started(&digest, "", 0).log(&digest, 0, &long).log(&digest, 0, "end\n").0);
        assert!(model.by_digest(&digest).unwrap().tail.bytes <= TAIL_BYTES_MAX);
        assert!(model.tails_bytes <= TAILS_BYTES_MAX);
    }
    let kept: usize = model.vertexes.iter().map(|vertex| vertex.tail.bytes).sum();
    assert_eq!(kept, model.tails_bytes);
    assert!(
        model.vertexes.iter().all(|vertex| vertex.tail.lines.back().is_some_and(|line| &*line.text == "end"))
    );
    for step in 0..100 {
        model.apply(&Update::new().done(&format!("d{step}"), "", 0, 1).0);
    }
    assert_eq!(model.tails_bytes, 0);
}

#[test]
fn a_line_of_one_stream_does_not_end_the_others() {
    let mut model = Model::default();
    let mut update = Update::new()
        .started("a", "A", 0)
        .log("a", 1, "half ")
        .log("a", 2, "warning: x\nand")
        .log("a", 3, "a line\n");
    update.0.logs[1].stream = v1::LogStream::Stderr.into();
    let written =
        |changes: Changes| changes.lines.into_iter().map(|(_, line)| line.to_string()).collect::<Vec<_>>();
    assert_eq!(written(model.apply(&update.0)), ["0.002 warning: x", "0.001 half a line"]);
    assert_eq!(model.by_digest("a").unwrap().partial_line().unwrap().to_string(), "0.002 and");
    assert_eq!(written(model.apply(&Update::new().done("a", "A", 0, 9).0)), ["0.002 and"]);
    assert_eq!(model.unfinished_bytes, 0);
}

#[test]
fn lines_without_end_are_bounded_together() {
    let mut model = Model::default();
    let half = "x".repeat(1000 * 1000);
    let mut lines = 0;
    for step in 0..20 {
        lines += model.apply(&Update::new().log(&step.to_string(), 0, &half).0).lines.len();
        let unfinished: usize = model.vertexes.iter().map(Vertex::unfinished_bytes).sum();
        assert_eq!(unfinished, model.unfinished_bytes);
        assert!(unfinished <= UNFINISHED_BYTES_MAX);
    }
    assert_eq!(lines, 12);
    // The end of such a line is repeated when the step fails.
    let failed = model.vertexes.iter().find(|vertex| !vertex.tail.lines.is_empty()).unwrap();
    assert!(failed.tail.lines[0].text.starts_with("...x"));
}

#[test]
fn counts_are_bounded() {
    let mut model = Model::default();
    for count in 0..VERTEXES_MAX + 10 {
        model.apply(
            &Update::new()
                .status(&count.to_string(), "", (0, 0), (0, None))
                .warning("", &count.to_string(), 0)
                .0,
        );
    }
    for count in 0..STATUSES_MAX {
        model.apply(&Update::new().status("1", &count.to_string(), (0, 0), (0, None)).0);
    }
    assert_eq!((model.total(), model.warnings().len()), (VERTEXES_MAX, WARNINGS_MAX));
    assert_eq!(model.vertexes.iter().map(|vertex| vertex.statuses.len()).sum::<usize>(), STATUSES_MAX);
}

#[test]
fn running_time_follows_the_engines_clock() {
    let clock = Clock::start();
    let mut model = model_of(&[Update::new().started("a", "A", 0)]);
    // The first message was delayed by a second, the next was not.
    model.tick(clock.at(1000));
    model.apply(&Update::new().log("a", 1500, "x").0);
    model.tick(clock.at(1500));
    model.tick(clock.at(1700));
    let vertex = model.by_digest("a").unwrap();
    assert_eq!(model.elapsed(vertex, clock.at(2000)).as_millis(), 2000);
}

#[test]
fn a_stop_cancels_what_runs() {
    let mut model = model_of(&[Update::new()
        .done("a", "A", 0, 5)
        .started("b", "B", 0)
        .announced("c", "C")
        .log("d", 7, "x")]);
    let changes = model.cancel();
    assert_eq!((changes.vertexes.len(), changes.lines.len()), (2, 1));
    let states = ["a", "b", "c", "d"].map(|digest| of(&model, digest).2);
    assert_eq!(states, ["Done", "Canceled", "Waiting", "Canceled"]);
    assert_eq!(millis(&model, "b"), 7);
}
