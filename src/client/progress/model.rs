//! The state of a build: progress messages folded into steps, in bounded memory. Has no clock and does
//! no IO; all text in it is safe for a console.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use super::{
    step::{CANCELED, Line, Moment, State, Status, Tail, Vertex, Warning},
    text::one_line,
};
use crate::wire::v1;

/// No hand-written graph has more steps than this.
const VERTEXES_MAX: usize = 10_000;
const STATUSES_MAX: usize = 20_000;
const WARNINGS_MAX: usize = 1_000;
const DETAILS_MAX: usize = 50;
/// How much of all steps' output is kept.
const TAILS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much of all steps' unfinished lines is kept.
const UNFINISHED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Names a step in its [`Model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(usize);

/// All steps of a build.
#[derive(Debug, Default)]
pub struct Model {
    vertexes: Vec<Vertex>,
    ids: HashMap<String, Id>,
    /// Steps in starting order: a step's number is its position here, from 1.
    started: Vec<Id>,
    warnings: Vec<Warning>,
    status_count: usize,
    tails_bytes: usize,
    unfinished_bytes: usize,
    /// The latest time seen in a message.
    latest: Moment,
    /// Our clock's and the engine's time at one moment.
    clock: Option<(Instant, Moment)>,
}

/// The changes that a message of progress made.
#[derive(Debug, Default)]
pub struct Changes {
    /// Steps with any change, including new lines.
    pub vertexes: BTreeSet<Id>,
    /// Parts that progressed, by their position in their step's `statuses`.
    pub statuses: BTreeSet<(Id, usize)>,
    /// Lines that were written.
    pub lines: Vec<(Id, Line)>,
    /// How many of the last warnings are new.
    pub warnings: usize,
}

impl Model {
    /// Takes in an update; the order of what it holds does not matter.
    pub fn apply(&mut self, update: &v1::Progress) -> Changes {
        let mut changes = Changes::default();
        for vertex in &update.vertexes {
            self.apply_vertex(vertex, &mut changes);
        }
        if let Some(place) = &update.queue {
            self.apply_queue(place, &mut changes);
        }
        for status in &update.statuses {
            self.apply_status(status, &mut changes);
        }
        for log in &update.logs {
            self.apply_log(log, &mut changes);
        }
        for warning in &update.warnings {
            self.apply_warning(warning, &mut changes);
        }
        // A step's output and its end may come in one message or in two: only now are both known.
        for id in changes.vertexes.clone() {
            self.settle(id, &mut changes);
        }
        changes
    }

    /// Advances the clock, to keep track of the engine's.
    pub fn tick(&mut self, now: Instant) {
        if self.clock.is_none() || self.engine_time(now) < self.latest {
            self.clock = Some((now, self.latest));
        }
    }

    /// Marks running steps as cancelled: no more messages will come.
    pub fn cancel(&mut self) -> Changes {
        let mut changes = Changes::default();
        let latest = self.latest;
        for id in self.started.clone() {
            if let Some(vertex) = self.vertex_mut(id).filter(|vertex| vertex.state() == State::Running) {
                vertex.error = CANCELED.to_owned();
                vertex.end = vertex.begin.max(Some(latest));
                changes.vertexes.insert(id);
                self.settle(id, &mut changes);
            }
        }
        changes
    }

    /// The started steps, in starting order.
    pub fn started(&self) -> impl DoubleEndedIterator<Item = (Id, &Vertex)> {
        self.started.iter().filter_map(|id| Some((*id, self.vertex(*id)?)))
    }

    /// How many steps there are.
    pub fn total(&self) -> usize {
        self.vertexes.len()
    }

    /// A step.
    pub fn vertex(&self, id: Id) -> Option<&Vertex> {
        self.vertexes.get(id.0)
    }

    /// The step with this digest, the API's name for a step.
    pub fn by_digest(&self, digest: &str) -> Option<&Vertex> {
        self.vertex(*self.ids.get(digest)?)
    }

    /// The warnings so far.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// How long a step has run, in all its runs together.
    pub fn elapsed(&self, vertex: &Vertex, now: Instant) -> Duration {
        vertex.before.saturating_add(self.length(vertex.begin, vertex.end, now))
    }

    /// How long a step's part has been in progress.
    pub fn moved(&self, status: &Status, now: Instant) -> Duration {
        self.length(status.begin, status.end, now)
    }

    fn length(&self, begin: Option<Moment>, end: Option<Moment>, now: Instant) -> Duration {
        let Some(begin) = begin else { return Duration::ZERO };
        end.unwrap_or_else(|| self.engine_time(now)).saturating_sub(begin)
    }

    fn engine_time(&self, now: Instant) -> Moment {
        match self.clock {
            Some((seen, moment)) => moment.saturating_add(now.saturating_duration_since(seen)),
            None => self.latest,
        }
    }

    fn vertex_mut(&mut self, id: Id) -> Option<&mut Vertex> {
        self.vertexes.get_mut(id.0)
    }

    /// The step with this digest, added at its first mention; `None` if there are too many steps.
    fn enter(&mut self, digest: &str) -> Option<Id> {
        if let Some(id) = self.ids.get(digest) {
            return Some(*id);
        }
        if self.vertexes.len() >= VERTEXES_MAX {
            return None;
        }
        let id = Id(self.vertexes.len());
        self.vertexes.push(Vertex { name: one_line(digest), ..Vertex::default() });
        self.ids.insert(digest.to_owned(), id);
        Some(id)
    }

    /// Marks a step as started: a step with progress or output has started, even if the message that says so
    /// is still to come.
    fn start(&mut self, id: Id) {
        let number = self.started.len() + 1;
        if let Some(vertex) = self.vertexes.get_mut(id.0)
            && vertex.number == 0
        {
            vertex.number = number;
            self.started.push(id);
        }
    }

    fn at(&mut self, time: Option<&prost_types::Timestamp>) -> Option<Moment> {
        let time = time?;
        let seconds = u64::try_from(time.seconds).unwrap_or(0);
        let moment = Duration::new(seconds, u32::try_from(time.nanos).unwrap_or(0).min(999_999_999));
        self.latest = self.latest.max(moment);
        Some(moment)
    }

    fn apply_vertex(&mut self, update: &v1::Vertex, changes: &mut Changes) {
        let (begin, end) = (self.at(update.started.as_ref()), self.at(update.completed.as_ref()));
        let Some(id) = self.enter(&update.digest) else { return };
        let Some(vertex) = self.vertex_mut(id) else { return };
        let begin = begin.or(end);
        // BuildKit announces a step again in each pass, which does not undo its start.
        if begin < vertex.begin {
            return;
        }
        let mut changed = false;
        if !update.name.is_empty() {
            changed |= replace(&mut vertex.name, one_line(&update.name));
        }
        if let Some(begin) = begin {
            if let Some(known) = vertex.begin.filter(|known| *known != begin) {
                let until = vertex.end.unwrap_or(begin).min(begin);
                vertex.before = vertex.before.saturating_add(until.saturating_sub(known));
            }
            changed |= replace(&mut vertex.begin, Some(begin));
            changed |= replace(&mut vertex.end, end);
            changed |= replace(&mut vertex.cached, update.cached);
            changed |= replace(&mut vertex.error, one_line(&update.error));
            self.start(id);
        }
        if changed {
            changes.vertexes.insert(id);
        }
    }

    fn apply_queue(&mut self, update: &v1::QueuePosition, changes: &mut Changes) {
        let Some(id) = self.enter(&update.vertex) else { return };
        self.start(id);
        if let Some(vertex) = self.vertex_mut(id)
            && replace(&mut vertex.ahead, Some(update.ahead))
        {
            changes.vertexes.insert(id);
        }
    }

    fn apply_status(&mut self, update: &v1::VertexStatus, changes: &mut Changes) {
        let (begin, end) = (self.at(update.started.as_ref()), self.at(update.completed.as_ref()));
        let full = self.status_count >= STATUSES_MAX;
        let Some(id) = self.enter(&update.vertex) else { return };
        self.start(id);
        let Some(vertex) = self.vertexes.get_mut(id.0) else { return };
        let status = Status {
            name: one_line(if update.name.is_empty() { &update.id } else { &update.name }),
            current: u64::try_from(update.current).unwrap_or(0),
            total: u64::try_from(update.total).unwrap_or(0),
            begin: begin.or(end),
            end,
        };
        let place = match vertex.status_ids.entry(update.id.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if full => return,
            Entry::Vacant(new) => {
                self.status_count += 1;
                vertex.statuses.push(Status::default());
                *new.insert(vertex.statuses.len() - 1)
            }
        };
        if let Some(known) = vertex.statuses.get_mut(place)
            && replace(known, status)
        {
            changes.vertexes.insert(id);
            changes.statuses.insert((id, place));
        }
    }

    fn apply_log(&mut self, update: &v1::VertexLog, changes: &mut Changes) {
        let at = self.at(update.timestamp.as_ref());
        let Some(id) = self.enter(&update.vertex) else { return };
        self.start(id);
        let Some(vertex) = self.vertexes.get_mut(id.0) else { return };
        let at = at.or(vertex.begin);
        self.unfinished_bytes -= vertex.unfinished_bytes();
        let lines = vertex.write(update.stream(), at, &update.data);
        self.unfinished_bytes += vertex.unfinished_bytes();
        for (since, text) in lines {
            self.write(id, since, text, changes);
        }
        changes.vertexes.insert(id);
        while self.unfinished_bytes > UNFINISHED_BYTES_MAX {
            let ids = (0..self.vertexes.len()).map(Id);
            let longest = ids.max_by_key(|id| self.vertex(*id).map_or(0, Vertex::unfinished_bytes));
            let Some(longest) = longest else { break };
            self.end_lines(longest, changes);
            changes.vertexes.insert(longest);
        }
    }

    /// Ends a step's lines that have no newline yet.
    fn end_lines(&mut self, id: Id, changes: &mut Changes) {
        let Some(vertex) = self.vertexes.get_mut(id.0) else { return };
        self.unfinished_bytes -= vertex.unfinished_bytes();
        for (since, text) in vertex.end_lines() {
            self.write(id, since, text, changes);
        }
    }

    fn write(&mut self, id: Id, at: Option<Moment>, text: String, changes: &mut Changes) {
        let Some(vertex) = self.vertexes.get_mut(id.0) else { return };
        let after = at.unwrap_or_default().saturating_sub(vertex.begin.unwrap_or_default());
        let line = Line { after, text: text.into() };
        self.tails_bytes -= vertex.tail.bytes;
        vertex.tail.push(line.clone());
        self.tails_bytes += vertex.tail.bytes;
        changes.lines.push((id, line));
        while self.tails_bytes > TAILS_BYTES_MAX {
            let Some(longest) = self.vertexes.iter_mut().max_by_key(|vertex| vertex.tail.bytes) else {
                break;
            };
            self.tails_bytes -= longest.tail.bytes;
            longest.tail.shorten(longest.tail.lines.len() / 2, usize::MAX);
            self.tails_bytes += longest.tail.bytes;
        }
    }

    fn apply_warning(&mut self, update: &v1::VertexWarning, changes: &mut Changes) {
        let vertex = if update.vertex.is_empty() { None } else { self.ids.get(&update.vertex).copied() };
        let warning = Warning {
            vertex: vertex.filter(|id| self.vertex(*id).is_some_and(|vertex| vertex.number > 0)),
            short: one_line(&update.short),
            details: update.details.iter().take(DETAILS_MAX).map(|line| one_line(line)).collect(),
            url: one_line(&update.url),
            line: update.source.as_ref().map_or(0, |source| source.start),
        };
        // Each pass of the frontend repeats its warnings.
        let known =
            self.warnings.iter().any(|known| known.short == warning.short && known.line == warning.line);
        if !known && self.warnings.len() < WARNINGS_MAX {
            changes.vertexes.extend(warning.vertex);
            changes.warnings += 1;
            self.warnings.push(warning);
        }
    }

    /// Ends the last line of a step that has ended, and drops its output unless it failed.
    fn settle(&mut self, id: Id, changes: &mut Changes) {
        if self.vertex(id).is_none_or(|vertex| vertex.end.is_none()) {
            return;
        }
        self.end_lines(id, changes);
        let Some(vertex) = self.vertexes.get_mut(id.0) else { return };
        if !matches!(vertex.state(), State::Failed(_)) {
            self.tails_bytes -= vertex.tail.bytes;
            vertex.tail = Tail::default();
        }
    }
}

/// Stores `new`; returns whether it differs.
fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

#[cfg(test)]
mod tests;
