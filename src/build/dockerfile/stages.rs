//! The stages of a Dockerfile, and how often BuildKit before 0.14 visits them.
//!
//! To find the stages that a build needs, BuildKit follows each stage to the one that it builds on and to
//! those that it copies from, and does not remember the stages that it has visited (`isReachable` and
//! `findReachable` in `dockerfile2llb`). A stage that comes back to itself overflows the stack, which ends
//! the engine. BuildKit looks for such circles only among copies. And if each stage builds on the last one
//! and copies from it, the visits double with each stage.

use std::collections::HashMap;

use super::{lines::Instruction, parts};

/// The limit on visits, which BuildKit starts again for each stage: some seconds of a processor.
const VISITS_MAX: u64 = 50_000_000;

/// The stages of a text.
#[derive(Debug, Default)]
pub(super) struct Stages {
    stages: Vec<Stage>,
    /// The last stage of each name, in lower case.
    names: HashMap<Vec<u8>, usize>,
    /// The images of all stages.
    images: u64,
}

#[derive(Debug)]
struct Stage {
    line: usize,
    base: Base,
    /// At least as many as the images that it copies from or mounts: BuildKit makes a stage of each.
    images: u64,
    /// The names and numbers that may be those of stages that it copies from, in lower case.
    sources: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Base {
    Image,
    Stage(usize),
    /// The name depends on variables or quotes: an image, or any earlier stage.
    Any,
}

/// A place that BuildKit visits, or, for [`Base::Any`], those of some stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Stage(usize),
    /// The one of the stages before this that costs most.
    Before(usize),
}

/// How far a place has been looked at.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Begun,
    /// The number of visits that begin there, its own among them.
    Done(u64),
}

impl Stages {
    pub(super) fn add(&mut self, instruction: &Instruction) {
        match instruction.keyword.as_slice() {
            b"from" => self.begin(instruction),
            b"run" | b"copy" => {
                let flags = flags(instruction);
                let mounts = flags.windows(MOUNT.len()).filter(|window| *window == MOUNT).count();
                let sources = sources(&flags);
                let images = mounts.max(sources.len());
                self.images = self.images.saturating_add(images as u64);
                if let Some(stage) = self.stages.last_mut() {
                    stage.images = stage.images.saturating_add(images as u64);
                    stage.sources.extend(sources);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, instruction: &Instruction) {
        let (base, name) = parts::from(&instruction.arguments);
        let base = match self.names.get(&base) {
            Some(stage) => Base::Stage(*stage),
            None if parts::is_plain(&base) => Base::Image,
            None => Base::Any,
        };
        if !name.is_empty() {
            self.names.insert(name, self.stages.len());
        }
        self.stages.push(Stage { line: instruction.line, base, images: 0, sources: Vec::new() });
    }

    /// Refuses stages that BuildKit would visit without end, or too often.
    pub(super) fn judge(&self) -> Result<(), String> {
        let mut seen = HashMap::new();
        let mut most = 0;
        for stage in 0..self.stages.len() {
            most = self.visits(Place::Stage(stage), &mut seen)?.max(most);
        }
        if most.saturating_mul(self.images.saturating_add(self.stages.len() as u64)) > VISITS_MAX {
            return Err("the stages build on one another and copy from one another in more ways than the builder can \
                        follow"
                .to_owned());
        }
        Ok(())
    }

    /// The visits that begin at a place. Without recursion, since a text may have 100,000 stages.
    fn visits(&self, begin: Place, seen: &mut HashMap<Place, Seen>) -> Result<u64, String> {
        if let Some(Seen::Done(visits)) = seen.get(&begin) {
            return Ok(*visits);
        }
        let mut way = vec![(begin, self.next(begin), 0_usize)];
        loop {
            let Some((place, next, at)) = way.last_mut() else { return Ok(done(seen, begin)) };
            let place = *place;
            let Some(towards) = next.get(*at).copied() else {
                let visits = next.iter().map(|towards| done(seen, *towards));
                let visits = match place {
                    Place::Stage(stage) => {
                        let images = self.stages.get(stage).map_or(0, |stage| stage.images);
                        visits.fold(images.saturating_add(1), u64::saturating_add)
                    }
                    Place::Before(_) => visits.max().unwrap_or(0),
                };
                seen.insert(place, Seen::Done(visits));
                way.pop();
                continue;
            };
            seen.insert(place, Seen::Begun);
            *at += 1;
            match seen.get(&towards) {
                Some(Seen::Done(_)) => {}
                None => way.push((towards, self.next(towards), 0)),
                Some(Seen::Begun) => {
                    let stage = way.iter().rev().find_map(|(place, ..)| match place {
                        Place::Stage(stage) => self.stages.get(*stage),
                        Place::Before(_) => None,
                    });
                    let line = stage.map_or(0, |stage| stage.line);
                    return Err(format!(
                        "line {line}: circular dependency: the stage that begins here needs itself"
                    ));
                }
            }
        }
    }

    /// The places that BuildKit visits next.
    fn next(&self, place: Place) -> Vec<Place> {
        match place {
            Place::Before(0) => Vec::new(),
            Place::Before(stage) => vec![Place::Before(stage - 1), Place::Stage(stage - 1)],
            Place::Stage(number) => {
                let Some(stage) = self.stages.get(number) else { return Vec::new() };
                // However often it copies from a stage, that is visited once.
                let mut sources: Vec<usize> =
                    stage.sources.iter().filter_map(|source| self.find(source)).collect();
                sources.sort_unstable();
                sources.dedup();
                let base = match stage.base {
                    Base::Image => None,
                    Base::Stage(base) => Some(Place::Stage(base)),
                    Base::Any => Some(Place::Before(number)),
                };
                base.into_iter().chain(sources.into_iter().map(Place::Stage)).collect()
            }
        }
    }

    /// The stage that a name or a number means. A name means the last stage of that name, even a later one.
    fn find(&self, source: &[u8]) -> Option<usize> {
        let number = || std::str::from_utf8(source).ok()?.parse().ok();
        self.names.get(source).copied().or_else(number).filter(|number| *number < self.stages.len())
    }
}

const MOUNT: &[u8] = b"--mount";
const FROM: &[u8] = b"from=";

/// An instruction's flags, in lower case and without quotes.
fn flags(instruction: &Instruction) -> Vec<u8> {
    let text = parts::trim(&instruction.text);
    let mut flags = parts::lower(text.strip_suffix(instruction.arguments.as_slice()).unwrap_or(text));
    flags.retain(|byte| !matches!(byte, b'\\' | b'`' | b'"' | b'\''));
    flags
}

/// The words behind each `from=` in flags: at least those by which BuildKit finds stages.
fn sources(flags: &[u8]) -> Vec<Vec<u8>> {
    let words = flags.windows(FROM.len()).enumerate().filter(|(_, window)| *window == FROM);
    let words = words.filter_map(|(at, _)| {
        let rest = flags.get(at + FROM.len()..)?;
        // No name of a stage has other characters.
        let is_named = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
        Some(rest.iter().copied().take_while(is_named).collect())
    });
    words.collect()
}

fn done(seen: &HashMap<Place, Seen>, place: Place) -> u64 {
    match seen.get(&place) {
        Some(Seen::Done(visits)) => *visits,
        Some(Seen::Begun) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ReadingRules, tests::judge};
    use crate::build::dockerfile::Frontend;

    fn judged(text: &str, version: Option<(u32, u32)>) -> Result<(), String> {
        judge(
            text.as_bytes(),
            ReadingRules { frontend: Frontend::Builtin(version), ..ReadingRules::default() },
        )
    }

    #[test]
    fn stages_in_a_circle_are_refused_where_they_end_the_engine() {
        for (text, line) in [
            ("FROM scratch AS b\nCOPY --from=c / /\nFROM b AS c\nRUN x\n", 3),
            ("FROM scratch AS b\nCOPY --chown=0 --FROM=C / /\nFROM B AS c\n", 3),
            ("FROM scratch AS b\nCOPY --from=1 / /\nFROM b\n", 3),
            ("FROM scratch AS b\nCOPY --from=+1 / /\nFROM b\n", 3),
            ("FROM scratch AS b\nRUN --mount=type=bind,from=\"c\",target=/x true\nFROM b AS c\n", 3),
            ("FROM scratch AS b\nRUN --mount=\"target=/x, from=c\" true\nFROM b AS c\n", 3),
            ("FROM scratch AS b\nCOPY --fr\\\nom=c / /\nFROM b AS c\n", 4),
            ("ARG x=b\nFROM scratch AS b\nCOPY --from=c / /\nFROM $x AS c\n", 4),
            ("FROM scratch AS b\nCOPY --from=c / /\nFROM \"b\" AS c\n", 3),
            ("FROM scratch AS a\nFROM a AS b\nCOPY --from=d / /\nFROM b AS c\nFROM c AS d\n", 4),
            ("FROM scratch AS b\nCOPY --from=c / /\nFROM b\x0bAS\x0bc\n", 3),
            ("FROM scratch AS b\nCOPY --from=k / /\nFROM b AS \u{212a}\n", 3),
            ("FROM scratch AS b\nRUN --mount=from=\u{130} true\nFROM b AS i\n", 3),
            // The last stage of a name counts.
            ("FROM scratch AS c\nFROM scratch AS b\nCOPY --from=c / /\nFROM b AS c\n", 4),
        ] {
            for version in [None, Some((0, 13))] {
                let refused = judged(text, version).unwrap_err();
                assert!(
                    refused.starts_with(&format!("line {line}: circular dependency")),
                    "{text}: {refused}"
                );
            }
            assert_eq!(judged(text, Some((0, 14))), Ok(()), "{text}: it remembers where it has been");
        }
    }

    #[test]
    fn stages_that_need_later_ones_pass_without_a_circle() {
        for text in [
            "FROM scratch AS b\nCOPY --from=c / /\nFROM scratch AS c\n",
            "FROM scratch AS b\nRUN curl x?from=c\nFROM b AS c\n",
            "FROM scratch AS b\nRUN curl \"x?from=c\" \nFROM b AS c\n",
            "FROM scratch AS b\nRUN --mount=from=image x --from=c\nFROM b AS c\n",
            "FROM scratch AS b\nFROM b AS b\nCOPY --from=0 / /\nFROM b AS b\nCOPY --from=1 / /\n",
            "ARG x\nFROM $x AS b\nFROM $x AS c\nCOPY --from=b / /\nFROM $x\nCOPY --from=c / /\n",
            "FROM scratch AS b\nONBUILD COPY --from=c / /\nFROM b AS c\n",
            "FROM scratch AS b\nCOPY --from=9 / /\nCOPY --from=-1 / /\n",
        ] {
            assert_eq!(judged(text, None), Ok(()), "{text}");
        }
    }

    /// A chain in which each stage builds on the last one and copies from it.
    fn chain(stages: usize, base: &str) -> String {
        (1..stages).fold("FROM scratch AS s0\n".to_owned(), |text, number| {
            let last = number - 1;
            let base = base.replace("LAST", &format!("s{last}"));
            format!("{text}FROM {base} AS s{number}\nCOPY --from={last} / /\n")
        })
    }

    #[test]
    fn visits_that_double_with_each_stage_are_refused() {
        assert_eq!(judged(&chain(18, "LAST"), Some((0, 13))), Ok(()));
        for text in [chain(40, "LAST"), chain(40, "$LAST"), chain(200, "LAST")] {
            let refused = judged(&text, Some((0, 13))).unwrap_err();
            assert!(refused.contains("more ways"), "{}: {refused}", text.len());
            assert_eq!(judged(&text, Some((0, 14))), Ok(()));
        }
        let plain = chain(200, "LAST").replace("COPY", "LABEL a=");
        assert_eq!(judged(&plain, Some((0, 13))), Ok(()), "there is one way alone");
    }
    /// BuildKit makes a stage of each image, and looks for each from each.
    #[test]
    fn mounts_beyond_number_are_refused() {
        let step = |mounts: usize| format!("FROM scratch\nRUN {}true\n", "--mount=a ".repeat(mounts));
        assert_eq!(judged(&step(1000), Some((0, 13))), Ok(()));
        assert!(judged(&step(20_000), Some((0, 13))).unwrap_err().contains("more ways"));
        assert_eq!(judged(&step(20_000), Some((0, 14))), Ok(()));
    }
}
