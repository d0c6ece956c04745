//! Progress as permanent lines, for a CI system's console. One step speaks at a time; the output of the other
//! steps waits for their turn.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    model::{Changes, Id, Model},
    step::{Line, State, Status, Vertex},
    text,
};

/// How long a step's news waits before it interrupts the speaking step.
const TURN: Duration = Duration::from_secs(5);
/// A part's progress gets a line when it ends, and before that, after this time and then this often.
const STATUS_FIRST: Duration = Duration::from_secs(1);
const STATUS_AGAIN: Duration = Duration::from_secs(5);
/// An unfinished line is shown after this time: a program may be waiting for an answer.
const PARTIAL_AFTER: Duration = Duration::from_secs(5);
/// How much output may wait for its step's turn.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Draws a [`Model`] as lines.
#[derive(Debug)]
pub(super) struct Plain {
    now: Instant,
    /// The speaking step.
    current: Option<Id>,
    any: bool,
    news: BTreeMap<Id, News>,
    waiting_bytes: usize,
    /// The last shown state of each part, and when it was shown.
    statuses: HashMap<(Id, usize), (Instant, Status)>,
    /// The name under which each step was last introduced.
    names: HashMap<Id, String>,
    /// The last line shown about each step's end.
    ends: HashMap<Id, String>,
    partial: Option<Partial>,
    out: String,
}

/// A step's news for its next turn.
#[derive(Debug)]
struct News {
    since: Instant,
    lines: VecDeque<Line>,
    statuses: BTreeSet<usize>,
    warnings: Vec<usize>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.statuses.is_empty() && self.warnings.is_empty()
    }
}

/// The unfinished line of the speaking step.
#[derive(Debug)]
struct Partial {
    of: Id,
    text: Arc<str>,
    since: Instant,
    shown: bool,
}

impl Plain {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            now,
            current: None,
            any: false,
            news: BTreeMap::new(),
            waiting_bytes: 0,
            statuses: HashMap::new(),
            names: HashMap::new(),
            ends: HashMap::new(),
            partial: None,
            out: String::new(),
        }
    }

    /// Takes in changes; returns the text that cannot wait for the next tick. The rest waits, so that
    /// simultaneous events are shown in order.
    pub(super) fn update(&mut self, model: &Model, changes: Changes) -> String {
        for id in &changes.vertexes {
            if model.vertex(*id).is_some_and(|vertex| vertex.number > 0) {
                self.hear(*id);
            }
        }
        for (id, place) in changes.statuses {
            self.hear(id).statuses.insert(place);
        }
        for (id, line) in changes.lines {
            self.waiting_bytes += line.bytes();
            self.hear(id).lines.push_back(line);
        }
        let known = model.warnings().len();
        for place in known.saturating_sub(changes.warnings)..known {
            let Some(warning) = model.warnings().get(place) else { continue };
            match warning.vertex {
                Some(id) => self.hear(id).warnings.push(place),
                None => self.say(format_args!("WARN: {}", warning.located())),
            }
        }
        while self.waiting_bytes > WAITING_BYTES_MAX {
            let longest = self.news.iter().max_by_key(|(_, news)| news.lines.len()).map(|(id, _)| *id);
            let Some(id) = longest else { break };
            self.speak(model, id);
        }
        std::mem::take(&mut self.out)
    }

    /// Advances the clock; returns the text to print now.
    pub(super) fn tick(&mut self, model: &Model, now: Instant) -> String {
        self.now = now;
        self.flush(model);
        self.show_partial(model);
        std::mem::take(&mut self.out)
    }

    /// Returns all that is still waiting; nothing more will come.
    pub(super) fn finish(&mut self, model: &Model) -> String {
        self.flush(model);
        let waiting: Vec<Id> = self.news.keys().copied().collect();
        for id in waiting {
            self.speak(model, id);
        }
        std::mem::take(&mut self.out)
    }

    fn hear(&mut self, id: Id) -> &mut News {
        let since = self.now;
        let new = || News { since, lines: VecDeque::new(), statuses: BTreeSet::new(), warnings: Vec::new() };
        self.news.entry(id).or_insert_with(new)
    }

    fn flush(&mut self, model: &Model) {
        if let Some(id) = self.current.filter(|id| self.news.contains_key(id)) {
            self.speak(model, id);
        }
        // Steps that have ended report at once, whichever step speaks: the report is short and important.
        let ended = self.news.keys().filter_map(|id| Some((*id, model.vertex(*id)?)));
        let mut ended: Vec<(usize, Id)> =
            ended.filter(|(_, vertex)| vertex.is_ended()).map(|(id, vertex)| (vertex.number, id)).collect();
        ended.sort_unstable();
        for (_, id) in ended {
            self.speak(model, id);
        }
        let next = match self.current {
            None => self.longest_waiting(Duration::ZERO),
            // The previous speaker waits for its turn like the others.
            Some(_) => self.longest_waiting(TURN),
        };
        if let Some(id) = next {
            self.speak(model, id);
        }
    }

    fn longest_waiting(&self, at_least: Duration) -> Option<Id> {
        let others = self.news.iter().filter(|(id, _)| Some(**id) != self.current);
        let (id, news) = others.min_by_key(|(_, news)| news.since)?;
        (self.since(news.since) >= at_least).then_some(*id)
    }

    fn since(&self, then: Instant) -> Duration {
        self.now.saturating_duration_since(then)
    }

    /// Lets the step speak, and prints its news.
    fn speak(&mut self, model: &Model, id: Id) {
        let (Some(news), Some(vertex)) = (self.news.remove(&id), model.vertex(id)) else { return };
        let end = self.end(model, vertex);
        if self.current != Some(id) && news.is_empty() && end.is_some() && end.as_ref() == self.ends.get(&id)
        {
            // BuildKit repeats some steps in each pass, taking no time.
            return;
        }
        let News { lines, statuses, warnings, .. } = news;
        let number = vertex.number;
        self.introduce(model, id, vertex);
        for place in statuses {
            self.show_status(model, id, vertex, place);
        }
        for warning in warnings.iter().filter_map(|place| model.warnings().get(*place)) {
            self.say(format_args!("#{number} WARN: {}", warning.located()));
        }
        for line in lines {
            self.waiting_bytes -= line.bytes();
            // The line was already shown while it was unfinished, and has not changed.
            let shown = self.partial.take_if(|partial| partial.of == id && partial.shown);
            if shown.is_none_or(|shown| shown.text != line.text) {
                self.say(format_args!("#{number} {line}"));
            }
            self.partial = None;
        }
        if let Some(end) = end {
            self.say(format_args!("#{number} {end}"));
            self.ends.insert(id, end);
            self.current = None;
        }
    }

    fn end(&self, model: &Model, vertex: &Vertex) -> Option<String> {
        match vertex.state() {
            State::Waiting | State::Running => None,
            State::Done => Some(format!("DONE {:.1}s", model.elapsed(vertex, self.now).as_secs_f64())),
            State::Cached => Some("CACHED".to_owned()),
            State::Canceled => Some("CANCELED".to_owned()),
            State::Failed(error) => Some(format!("ERROR: {error}")),
        }
    }

    fn introduce(&mut self, model: &Model, id: Id, vertex: &Vertex) {
        if self.current != Some(id) {
            if let Some(last) = self.current.and_then(|last| model.vertex(last)) {
                self.say(format_args!("#{} ...", last.number));
            }
            if self.any {
                self.out.push('\n');
            }
            self.partial = None;
        } else if self.names.get(&id) == Some(&vertex.name) {
            return;
        }
        self.current = Some(id);
        self.names.insert(id, vertex.name.clone());
        self.say(format_args!("#{} {}", vertex.number, vertex.name));
    }

    fn show_status(&mut self, model: &Model, id: Id, vertex: &Vertex, place: usize) {
        let Some(status) = vertex.statuses.get(place) else { return };
        let moved = model.moved(status, self.now);
        let due = status.is_ended()
            || vertex.is_ended()
            || match self.statuses.get(&(id, place)) {
                Some((shown, _)) => self.since(*shown) >= STATUS_AGAIN,
                None => moved >= STATUS_FIRST,
            };
        if !due {
            // Too early; the part stays in the news until it is due.
            self.hear(id).statuses.insert(place);
            return;
        }
        let before = self.statuses.insert((id, place), (self.now, status.clone()));
        if before.is_some_and(|(_, shown)| shown == *status) {
            return;
        }
        let size = text::amount(status.current, status.total);
        let time = if moved > Duration::from_millis(10) {
            format!(" {:.1}s", moved.as_secs_f64())
        } else {
            String::new()
        };
        let done = if status.is_ended() { " done" } else { "" };
        self.say(format_args!("#{} {}{size}{time}{done}", vertex.number, status.name));
    }

    /// Shows the speaking step's unfinished line if it has been unfinished for a while.
    fn show_partial(&mut self, model: &Model) {
        let now = self.now;
        let Some((id, vertex)) = self.current.and_then(|id| Some((id, model.vertex(id)?))) else { return };
        let Some(line) = vertex.partial_line() else {
            self.partial = None;
            return;
        };
        let partial = self.partial.get_or_insert_with(|| Partial {
            of: id,
            text: line.text.clone(),
            since: now,
            shown: false,
        });
        let changed = partial.text != line.text;
        let due = now.saturating_duration_since(partial.since) >= PARTIAL_AFTER;
        if due && (changed || !partial.shown) {
            *partial = Partial { of: id, text: line.text.clone(), since: now, shown: true };
            self.say(format_args!("#{} {line}", vertex.number));
        }
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        self.any = true;
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::progress::facts::{Clock, Facts};

    /// A plain console with a model and a clock.
    struct Console {
        clock: Clock,
        model: Model,
        plain: Plain,
        text: String,
    }

    impl Console {
        fn new() -> Self {
            let clock = Clock::start();
            let plain = Plain::new(clock.at(0));
            Self { clock, model: Model::default(), plain, text: String::new() }
        }

        /// Applies these facts at this time.
        fn see(&mut self, millis: u64, facts: Facts) {
            let changes = self.model.apply(&facts.0);
            self.text += &self.plain.update(&self.model, changes);
            self.tick(millis);
        }

        fn tick(&mut self, millis: u64) {
            self.model.tick(self.clock.at(millis));
            self.text += &self.plain.tick(&self.model, self.clock.at(millis));
        }

        fn finish(&mut self) -> String {
            self.text += &self.plain.finish(&self.model);
            std::mem::take(&mut self.text)
        }
    }

    #[test]
    fn a_build_looks_as_buildx_shows_it() {
        let mut console = Console::new();
        let load = "[internal] load build definition from Dockerfile";
        console.see(0, Facts::new().announced("a", load).started("a", load, 0));
        console.see(
            40,
            Facts::new()
                .status("a", "transferring dockerfile:", (154, 0), (0, Some(30)))
                .done("a", load, 0, 40),
        );
        let pull = "pull docker.io/library/busybox:1@sha256:77";
        console.see(50, Facts::new().started("wharf:1", "pull docker.io/library/busybox:1", 50));
        console.see(60, Facts::new().started("wharf:1", pull, 50));
        console.see(2000, Facts::new().status("wharf:1", "sha256:aa", (12_345_678, 50_000_000), (60, None)));
        console.see(2100, Facts::new().status("wharf:1", "sha256:aa", (13_000_000, 50_000_000), (60, None)));
        console.see(
            4000,
            Facts::new()
                .status("wharf:1", "sha256:aa", (50_000_000, 50_000_000), (60, Some(3900)))
                .done("wharf:1", pull, 50, 3950),
        );
        console.see(
            4050,
            Facts::new().announced("c", "[2/3] RUN make").cached("b", "[1/3] FROM busybox:1", 4010).started(
                "c",
                "[2/3] RUN make",
                4050,
            ),
        );
        console.see(4400, Facts::new().log("c", 4362, "cc -c a.c\ncc -").log("c", 4399, "o a a.o\n"));
        console
            .see(17_250, Facts::new().log("c", 17_200, "linked").done("c", "[2/3] RUN make", 4050, 17_250));
        assert_eq!(
            console.finish(),
            "\
#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 154B 0.0s done
#1 DONE 0.0s

#2 pull docker.io/library/busybox:1
#2 pull docker.io/library/busybox:1@sha256:77
#2 sha256:aa 12.35MB / 50.00MB 1.9s
#2 sha256:aa 50.00MB / 50.00MB 3.8s done
#2 DONE 3.9s

#3 [1/3] FROM busybox:1
#3 CACHED

#4 [2/3] RUN make
#4 0.312 cc -c a.c
#4 0.312 cc -o a a.o
#4 13.15 linked
#4 DONE 13.2s
"
        );
    }

    #[test]
    fn one_step_speaks_until_another_has_waited() {
        let mut console = Console::new();
        console.see(0, Facts::new().started("a", "A", 0).started("b", "B", 0));
        console.see(1000, Facts::new().log("a", 1000, "a1\n").log("b", 1000, "b1\n"));
        console.see(2000, Facts::new().log("b", 2000, "b2\n").log("a", 2000, "a2\n"));
        console.tick(5100);
        console.see(6000, Facts::new().log("a", 6000, "a3\n").log("b", 6000, "b3\n"));
        // A step that ends interrupts the speaking step.
        console.see(7000, Facts::new().cached("c", "C", 7000));
        console.see(7100, Facts::new().failed("a", "A", 0, 7100, "exit code: 1"));
        console.see(7200, Facts::new().failed("b", "B", 0, 7100, "process: context canceled"));
        assert_eq!(
            console.finish(),
            "\
#1 A
#1 1.000 a1
#1 2.000 a2
#1 ...

#2 B
#2 1.000 b1
#2 2.000 b2
#2 6.000 b3
#2 ...

#3 C
#3 CACHED

#1 A
#1 6.000 a3
#1 ERROR: exit code: 1

#2 B
#2 CANCELED
"
        );
    }

    #[test]
    fn what_happens_at_once_is_told_in_order() {
        let mut console = Console::new();
        let (model, plain) = (&mut console.model, &mut console.plain);
        for facts in [Facts::new().started("a", "A", 0), Facts::new().cached("b", "B", 3).cached("c", "C", 2)]
        {
            let changes = model.apply(&facts.0);
            assert_eq!(plain.update(model, changes), "");
        }
        console.see(50, Facts::new().done("a", "A", 0, 50));
        assert_eq!(console.finish(), "#1 A\n#1 DONE 0.1s\n\n#2 B\n#2 CACHED\n\n#3 C\n#3 CACHED\n");
    }

    #[test]
    fn a_step_that_runs_again_at_once_is_not_repeated() {
        let mut console = Console::new();
        console.see(0, Facts::new().done("a", "A", 0, 100));
        console.see(500, Facts::new().done("a", "A", 400, 410));
        console.see(900, Facts::new().done("a", "A", 500, 900));
        assert_eq!(console.finish(), "#1 A\n#1 DONE 0.1s\n\n#1 A\n#1 DONE 0.5s\n");
    }

    #[test]
    fn much_output_does_not_wait_and_none_is_lost() {
        let mut console = Console::new();
        console.see(0, Facts::new().started("a", "A", 0).started("b", "B", 0));
        let lines: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
        for piece in lines.as_bytes().chunks(1000) {
            console.see(0, Facts::new().log("b", 0, piece));
            assert!(console.plain.waiting_bytes <= WAITING_BYTES_MAX);
        }
        console.see(1, Facts::new().done("b", "B", 0, 1));
        let text = console.finish();
        let shown: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#2 0.000 ")).collect();
        assert_eq!(shown, lines.lines().collect::<Vec<_>>());
        assert_eq!(console.plain.waiting_bytes, 0);
    }

    #[test]
    fn a_line_without_end_is_shown_after_a_while() {
        let mut console = Console::new();
        console.see(0, Facts::new().started("a", "A", 0).log("a", 0, "Continue? [y/n] "));
        console.tick(4000);
        assert_eq!(console.text, "#1 A\n");
        console.tick(5000);
        console.tick(20_000);
        console.see(21_000, Facts::new().log("a", 21_000, "\nnext: 10%"));
        console.tick(30_000);
        console.see(31_000, Facts::new().log("a", 31_000, "\rnext: 100%\n").done("a", "A", 0, 31_000));
        assert_eq!(
            console.finish(),
            "#1 A\n#1 0.000 Continue? [y/n] \n#1 21.00 next: 10%\n#1 21.00 next: 100%\n#1 DONE 31.0s\n"
        );
    }

    #[test]
    fn warnings_come_with_their_step_or_alone() {
        let mut console = Console::new();
        console.see(0, Facts::new().warning("", "# syntax= is ignored", 1).started("a", "A", 0));
        console.see(0, Facts::new().warning("a", "stage name is upper case (line 3)", 3));
        // A second pass of the frontend repeats the warning.
        console.see(0, Facts::new().warning("a", "stage name is upper case (line 3)", 3));
        assert_eq!(
            console.finish(),
            "WARN: # syntax= is ignored (line 1)\n\n#1 A\n#1 WARN: stage name is upper case (line 3)\n"
        );
    }
}
