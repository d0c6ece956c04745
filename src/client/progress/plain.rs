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
    step::{Line, State, Status, Vertex, place},
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
    /// The last shown place of a build that waits for its turn.
    ahead: Option<u32>,
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
            ahead: None,
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
        self.show_place(vertex);
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

    /// Shows how many builds are ahead when the number has halved or doubled: each of a hundred builds that wait for one
    /// another has a few lines, not a hundred.
    fn show_place(&mut self, vertex: &Vertex) {
        let Some(ahead) = vertex.ahead() else { return };
        let is_news = |shown: u32| ahead <= shown / 2 || ahead / 2 >= shown;
        if self.ahead.is_none_or(|shown| shown != ahead && is_news(shown)) {
            self.ahead = Some(ahead);
            self.say(format_args!("#{} {}", vertex.number, place(ahead)));
        }
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
mod tests;
