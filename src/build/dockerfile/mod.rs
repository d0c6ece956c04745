//! Judges Dockerfiles and triggers before BuildKit's frontend reads them: by their text alone, in every way in
//! which a version of BuildKit reads it.

mod estimate;
mod frontend;
pub mod judging;
mod lines;
mod parts;
mod patterns;
mod shell;
mod stages;
mod variables;
mod warnings;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use estimate::Estimate;
pub use frontend::Frontend;
use lines::Version;
use sha2::{Digest as _, Sha256};
use stages::Stages;

use super::{input::Texts, packets::READ_BYTES_MAX, spec::BuildSpec};
use crate::{
    images::inherited::{Inherited, Size},
    names::reference::Digest,
};

/// The build argument, and its value, without which BuildKit checks.
const CHECK: (&str, &str) = ("BUILDKIT_DOCKERFILE_CHECK", "skip=all");
/// The limit on instructions, each of which takes about a kilobyte of the engine's memory: 690,000 `CMD`s of 4 MiB took
/// 900 MiB and 5 s of a processor, measured on both engines. Of comments and here-documents a million short lines take
/// less than a second. Generated Dockerfiles of 4 MiB have some 70,000 instructions.
const INSTRUCTIONS_MAX: usize = 200_000;

/// The limit on the triggers of an image, which are read again with each text and each further image. Real ones have
/// some hundred bytes.
const TRIGGERS_BYTES_MAX: usize = 64 << 10;

/// How a build's Dockerfile is judged.
#[derive(Clone, Debug, Default)]
pub struct ReadingRules {
    /// The size of each build argument.
    arguments: HashMap<String, Size>,
    /// The number of bytes that each step carries for the build's options.
    carried: u64,
    frontend: Frontend,
    /// Whether BuildKit checks the Dockerfile, and warns.
    has_checks: bool,
}

impl ReadingRules {
    /// The rules for a build whose Dockerfile this frontend reads.
    pub fn new(spec: &BuildSpec, frontend: Frontend) -> Self {
        let length = |text: &str| text.len() as u64;
        let mut arguments: HashMap<String, Size> =
            spec.build_args.iter().map(|(name, value)| (name.clone(), Size::of(value))).collect();
        arguments.insert("TARGETSTAGE".to_owned(), Size::of(&spec.target));
        // BuildKit adds these to each step.
        let proxies =
            spec.build_args.iter().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy"));
        let proxies = proxies.map(|(name, value)| length(name) + length(value));
        let hosts =
            spec.add_hosts.iter().map(|(host, address)| length(host) + address.to_string().len() as u64);
        let limits = spec.ulimits.iter().map(|(name, _, _)| length(name) + 16);
        let carried = proxies.chain(hosts).chain(limits).sum();
        let has_checks = spec.build_args.get(CHECK.0).is_none_or(|value| value != CHECK.1);
        Self { arguments, carried, frontend, has_checks }
    }
}

/// Judges a build's Dockerfile. The text comes before the images that it names are admitted, and their variables and
/// triggers count as well.
#[derive(Debug, Default)]
pub struct Judge {
    rules: Arc<ReadingRules>,
    /// The texts that were judged and may pass.
    passed: Arc<Texts>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    bases: Bases,
    /// The files of the last sync or of the tar, any of which may be the Dockerfile. A later file replaces one of the same
    /// name.
    texts: HashMap<String, Text>,
    /// The texts that passed with these images: BuildKit requests the Dockerfile in every pass.
    judged: HashSet<Digest>,
}

/// The estimate for the images alone, in each way of reading. Shared, and another one with each image.
type Bases = Arc<Vec<(Version, Estimate)>>;

/// The text of a file.
#[derive(Debug)]
struct Text {
    bytes: Arc<Vec<u8>>,
    state: State,
}

/// How far a text has been judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not at all.
    New,
    /// It passed when fewer images were known. BuildKit may have it and need not ask for it again.
    Earlier,
    /// It has passed with the images that are known.
    Passed,
}

/// All texts that have yet to pass.
const ALL: &[State] = &[State::New, State::Earlier];
/// The texts among them that have passed once.
const AGAIN: &[State] = &[State::Earlier];

impl Judge {
    /// A judge that knows nothing yet.
    pub fn new(rules: ReadingRules) -> Self {
        Self { rules: rules.into(), passed: Arc::default(), known: Mutex::default() }
    }

    /// A judge for a Dockerfile that the frontend of an unknown engine reads.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn builtin() -> Self {
        Self::new(ReadingRules { frontend: Frontend::Builtin(None), ..ReadingRules::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The texts that were judged and may pass.
    pub fn texts(&self) -> &Arc<Texts> {
        &self.passed
    }

    /// Forgets the texts: the Dockerfile arrives again.
    pub(super) fn begin(&self) {
        self.known().texts.clear();
    }

    /// Takes the text of a file that may be the Dockerfile, to be judged before BuildKit gets the text's end.
    pub(super) fn take(&self, name: &str, text: Vec<u8>) {
        let text = Text { bytes: Arc::new(text), state: State::New };
        self.known().texts.insert(name.to_owned(), text);
    }

    /// Judges the triggers of an image on which the Dockerfile may build, and remembers the image. The error
    /// contains the reason.
    pub(super) fn admit(&self, base: &Inherited) -> Result<(), String> {
        let bases = self.with(base)?;
        let mut known = self.known();
        known.bases = Arc::new(bases);
        known.judged.clear();
        let passed = known.texts.values_mut().filter(|text| text.state == State::Passed);
        passed.for_each(|text| text.state = State::Earlier);
        Ok(())
    }

    /// Whether the histories of images count: BuildKit copies an image's for each stage, in the engine's own memory if
    /// the engine's frontend reads the Dockerfile.
    pub(super) fn counts_histories(&self) -> bool {
        self.rules.frontend.is_builtin()
    }

    /// Whether a text is in one of these states.
    fn has(&self, states: &[State]) -> bool {
        self.known().texts.values().any(|text| states.contains(&text.state))
    }

    /// Judges the texts in these states with the images that are known. The error contains the reason and the line.
    fn judge(&self, states: &[State]) -> Result<(), String> {
        while let Some((text, bases)) = self.next(states) {
            let digest = Digest::from_sha256(Sha256::digest(&*text).into());
            let has_passed = self.known().judged.contains(&digest);
            if !has_passed {
                self.text(&text, &bases)?;
            }
            self.passed.add(&digest);
            let mut known = self.known();
            // Otherwise an image was admitted meanwhile.
            if Arc::ptr_eq(&known.bases, &bases) {
                let same = known.texts.values_mut().filter(|known| Arc::ptr_eq(&known.bytes, &text));
                same.for_each(|text| text.state = State::Passed);
                known.judged.insert(digest);
            }
        }
        Ok(())
    }

    /// A text to judge, and the images that are known.
    fn next(&self, states: &[State]) -> Option<(Arc<Vec<u8>>, Bases)> {
        let known = self.known();
        let text = known.texts.values().find(|text| states.contains(&text.state))?;
        Some((Arc::clone(&text.bytes), Arc::clone(&known.bases)))
    }

    /// Judges all texts.
    #[cfg(test)]
    pub(super) fn judge_all(&self) -> Result<(), String> {
        self.judge(ALL)
    }

    /// Takes a text and judges it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn read(&self, name: &str, text: Vec<u8>) -> Result<(), String> {
        self.take(name, text);
        self.judge(ALL)
    }

    fn text(&self, text: &[u8], bases: &Bases) -> Result<(), String> {
        if text.len() as u64 > READ_BYTES_MAX {
            return Err(format!("the Dockerfile has more than {} MiB", READ_BYTES_MAX >> 20));
        }
        let frontend = self.rules.frontend;
        // BuildKit repeats a line in its messages, and the engine escapes each such byte in its log.
        if frontend.is_builtin() && text.contains(&0) {
            return Err("the Dockerfile contains NUL bytes: it must be UTF-8".to_owned());
        }
        for version in frontend.readings(text) {
            let mut estimate = self.of_bases(bases, version);
            let (mut keywords, mut stages) = (Keywords::default(), Stages::default());
            for (instruction, count) in lines::read(text, version).zip(1_usize..) {
                if frontend.is_builtin() && count > INSTRUCTIONS_MAX {
                    return Err(format!("the Dockerfile has more than {INSTRUCTIONS_MAX} instructions"));
                }
                let instruction =
                    instruction.map_err(|unclear| format!("line {}: {unclear}", unclear.line))?;
                keywords.add(&instruction.keyword);
                stages.add(&instruction);
                estimate
                    .instruction(&instruction, version)
                    .map_err(|why| format!("line {}: {why}", instruction.line))?;
            }
            warnings::judge(estimate.warnings(), text.len(), version)?;
            // BuildKit before 0.15 looks for the stage before the first one, and ends the engine.
            if frontend.is_builtin_before(15) && keywords.are_arguments() {
                return Err("the Dockerfile has no `FROM`".to_owned());
            }
            if frontend.is_builtin_before(14) {
                stages.judge()?;
            }
        }
        Ok(())
    }

    fn of_bases(&self, bases: &Bases, version: Version) -> Estimate {
        let known = bases.iter().find(|(of, _)| *of == version);
        known.map_or_else(|| Estimate::new(&self.rules), |(_, estimate)| estimate.clone())
    }

    /// Judges an image's triggers, each as the text of its own that it is for BuildKit. Returns the estimate for all
    /// images that are known and this one: the variables of one may be long for the triggers of another.
    fn with(&self, base: &Inherited) -> Result<Vec<(Version, Estimate)>, String> {
        if base.triggers.iter().map(String::len).sum::<usize>() > TRIGGERS_BYTES_MAX {
            return Err(format!("its ONBUILD triggers have more than {} KiB", TRIGGERS_BYTES_MAX >> 10));
        }
        let bases = Arc::clone(&self.known().bases);
        let each = self.rules.frontend.versions().map(|version| {
            let mut estimate = self.of_bases(&bases, version);
            estimate.base(base, version)?;
            // From BuildKit 0.27 on a comment `# check=` before a trigger's instruction ends the frontend,
            // and the engine with it; up to 0.34 nothing fixes that. No builder writes a comment into a
            // trigger.
            let mut instructions =
                base.triggers.iter().flat_map(|trigger| lines::read(trigger.as_bytes(), version));
            if instructions.any(|instruction| instruction.is_ok_and(|one| one.is_commented)) {
                return Err("its ONBUILD triggers begin with a comment".to_owned());
            }
            Ok((version, estimate))
        });
        each.collect()
    }
}

/// Whether a Dockerfile has instructions, but only `ARG`.
#[derive(Default)]
struct Keywords {
    has_argument: bool,
    has_others: bool,
}

impl Keywords {
    fn add(&mut self, keyword: &[u8]) {
        let is_argument = keyword == b"arg";
        self.has_argument |= is_argument;
        self.has_others |= !is_argument;
    }

    fn are_arguments(&self) -> bool {
        self.has_argument && !self.has_others
    }
}

#[cfg(test)]
mod found;
#[cfg(test)]
#[path = "../../../tests/wharf/shapes/mod.rs"]
mod shapes;
#[cfg(test)]
mod tests;
