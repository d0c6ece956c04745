//! Judges Dockerfiles and triggers before BuildKit's frontend reads them: by their text alone, in every way in
//! which a version of BuildKit reads it.

mod estimate;
mod lines;
mod parts;
mod patterns;
mod shell;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use estimate::Estimate;
use lines::{Dockerfile, Version};
use sha2::{Digest as _, Sha256};

use super::{input::Texts, packets::READ_BYTES_MAX, spec::BuildSpec};
use crate::{images::inherited::Inherited, names::reference::Digest};

/// The limit on a Dockerfile that BuildKit checks: each of its warnings carries all of the text, and there may be one
/// for each line.
const CHECKED_BYTES_MAX: u64 = 1 << 20;
/// The build argument, and its value, without which BuildKit checks.
const CHECK: (&str, &str) = ("BUILDKIT_DOCKERFILE_CHECK", "skip=all");
/// The limit on lines. Generated Dockerfiles have some 15,000; 4 MiB of ordinary lines are 70,000.
const LINES_MAX: usize = 100_000;

/// The limit on the bytes that BuildKit copies to join the lines of instructions and here-documents: up to 0.14, and to
/// 0.25, it makes a new text for each line. That many cost 6 s of a processor, measured on Engine 26.1, and a text of
/// 4 MiB could cost minutes, which not even a cancel ends.
const COPIED_BYTES_MAX: u64 = 16 << 30;

/// The limit on the triggers of an image, which are read again with each text and each further image. Real ones have
/// some hundred bytes.
const TRIGGERS_BYTES_MAX: usize = 64 << 10;

/// How a build's Dockerfile is judged.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The length of each build argument.
    arguments: HashMap<String, u64>,
    /// The number of bytes that each step carries for the build's options.
    carried: u64,
    /// Whether BuildKit's own frontend reads it, inside the engine's process.
    is_builtin: bool,
    /// Whether BuildKit checks the Dockerfile, and warns.
    has_checks: bool,
}

impl Rules {
    /// The rules for a build. `is_builtin` says whether BuildKit's own frontend reads the Dockerfile, inside the
    /// engine's process.
    pub fn new(spec: &BuildSpec, is_builtin: bool) -> Self {
        let length = |text: &str| text.len() as u64;
        let mut arguments: HashMap<String, u64> =
            spec.build_args.iter().map(|(name, value)| (name.clone(), length(value))).collect();
        arguments.insert("TARGETSTAGE".to_owned(), length(&spec.target));
        // BuildKit adds these to each step.
        let proxies =
            spec.build_args.iter().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy"));
        let proxies = proxies.map(|(name, value)| length(name) + length(value));
        let hosts =
            spec.add_hosts.iter().map(|(host, address)| length(host) + address.to_string().len() as u64);
        let limits = spec.ulimits.iter().map(|(name, _, _)| length(name) + 16);
        let carried = proxies.chain(hosts).chain(limits).sum();
        let has_checks = spec.build_args.get(CHECK.0).is_none_or(|value| value != CHECK.1);
        Self { arguments, carried, is_builtin, has_checks }
    }
}

/// What is known of a build's Dockerfile. It comes before the images that it names are admitted, and their
/// variables and triggers count as well.
#[derive(Debug, Default)]
pub struct Judge {
    rules: Rules,
    /// The texts that were judged and may pass.
    passed: Arc<Texts>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    bases: Vec<Arc<Inherited>>,
    /// The files of the last sync or of the tar, any of which may be the Dockerfile. Of several with one name only
    /// the last one stays.
    texts: HashMap<String, (Digest, Vec<u8>)>,
    /// The texts that passed with these images: BuildKit requests the Dockerfile in every pass.
    judged: HashSet<Digest>,
}

impl Judge {
    /// A judge that knows nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, passed: Arc::default(), known: Mutex::default() }
    }

    /// A judge for a Dockerfile that the engine's own frontend reads.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn builtin() -> Self {
        Self::new(Rules { is_builtin: true, ..Rules::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The texts that were judged and may pass.
    pub fn texts(&self) -> &Arc<Texts> {
        &self.passed
    }

    /// Forgets the texts: the Dockerfile comes again.
    pub(super) fn begin(&self) {
        self.known().texts.clear();
    }

    /// Judges the text of a file that may be the Dockerfile, and remembers it. The error contains the reason
    /// and the line.
    pub(super) fn read(&self, name: &str, text: Vec<u8>) -> Result<(), String> {
        let digest = Digest::from_sha256(Sha256::digest(&text).into());
        let mut known = self.known();
        let Known { bases, texts, judged } = &mut *known;
        self.once(bases, judged, &digest, &text)?;
        self.passed.add(&digest);
        texts.insert(name.to_owned(), (digest, text));
        Ok(())
    }

    /// Judges the triggers of an image on which the Dockerfile may build, and remembers the image. The error
    /// contains the reason.
    pub(super) fn admit(&self, base: &Arc<Inherited>) -> Result<(), String> {
        self.triggers(base)?;
        let mut known = self.known();
        known.bases.push(Arc::clone(base));
        known.judged.clear();
        Ok(())
    }

    /// Judges the Dockerfile again if more images are known: BuildKit has it and may not ask for it again.
    pub(super) fn again(&self) -> Result<(), String> {
        let mut known = self.known();
        let Known { bases, texts, judged } = &mut *known;
        texts.values().try_for_each(|(digest, text)| self.once(bases, judged, digest, text))
    }

    /// Judges a text, unless it has passed with the same images.
    fn once(
        &self,
        bases: &[Arc<Inherited>],
        judged: &mut HashSet<Digest>,
        digest: &Digest,
        text: &[u8],
    ) -> Result<(), String> {
        if !judged.contains(digest) {
            self.text(text, bases)?;
            judged.insert(digest.clone());
        }
        Ok(())
    }

    fn text(&self, text: &[u8], bases: &[Arc<Inherited>]) -> Result<(), String> {
        if text.len() as u64 > READ_BYTES_MAX {
            return Err(format!("the Dockerfile has more than {} MiB", READ_BYTES_MAX >> 20));
        }
        if self.rules.has_checks && text.len() as u64 > CHECKED_BYTES_MAX {
            let ((name, value), limit) = (CHECK, CHECKED_BYTES_MAX >> 20);
            return Err(format!(
                "the Dockerfile has more than {limit} MiB: the builder reads it only without its checks, with the \
                 build argument `{name}={value}`"
            ));
        }
        if text.iter().filter(|byte| **byte == b'\n').count() > LINES_MAX {
            return Err(format!("the Dockerfile has more than {LINES_MAX} lines"));
        }
        // BuildKit repeats a line in its messages, and the engine escapes each such byte in its log.
        if self.rules.is_builtin && text.contains(&0) {
            return Err("the Dockerfile contains NUL bytes: it must be UTF-8".to_owned());
        }
        for (version, dockerfile) in readings(text)? {
            // BuildKit before 0.15 looks for the stage before the first one, and ends the engine.
            let mut keywords = dockerfile.instructions.iter().map(|instruction| &instruction.keyword);
            if self.rules.is_builtin
                && !dockerfile.instructions.is_empty()
                && keywords.all(|keyword| keyword == b"arg")
            {
                return Err("the Dockerfile has no `FROM`".to_owned());
            }
            self.joins(&dockerfile).map_err(|line| {
                format!(
                    "line {line}: the instruction has too many lines: put its text into a file of the context"
                )
            })?;
            let mut estimate = Estimate::new(&self.rules);
            for base in bases {
                // Each has been judged alone, but the variables of one may be long for the triggers of another.
                estimate
                    .base(base, version)
                    .map_err(|why| format!("with the triggers of its images: {why}"))?;
            }
            estimate.dockerfile(&dockerfile, version)?;
        }
        Ok(())
    }

    /// Judges how long BuildKit's own frontend takes to join lines. The error is the instruction's line.
    fn joins(&self, dockerfile: &Dockerfile) -> Result<(), usize> {
        let mut left = COPIED_BYTES_MAX;
        for instruction in dockerfile.instructions.iter().filter(|_| self.rules.is_builtin) {
            left = left.checked_sub(instruction.copied).ok_or(instruction.line)?;
        }
        Ok(())
    }

    /// Judges triggers, each as the text of its own that it is for BuildKit.
    fn triggers(&self, base: &Inherited) -> Result<(), String> {
        if base.triggers.iter().map(String::len).sum::<usize>() > TRIGGERS_BYTES_MAX {
            return Err(format!("have more than {} KiB", TRIGGERS_BYTES_MAX >> 10));
        }
        Version::ALL.iter().try_for_each(|version| {
            Estimate::new(&self.rules)
                .base(base, *version)
                .map_err(|why| format!("cost the builder too much ({why})"))
        })?;
        for trigger in &base.triggers {
            for (_, dockerfile) in readings(trigger.as_bytes())? {
                self.joins(&dockerfile).map_err(|_| "have too many lines".to_owned())?;
                // From BuildKit 0.27 on a comment `# check=` before a trigger's instruction ends the frontend, and
                // the engine with it; up to 0.33 nothing mends that. No builder writes a comment into a trigger.
                if dockerfile.instructions.iter().any(|instruction| instruction.is_commented) {
                    return Err("begin with a comment".to_owned());
                }
            }
        }
        Ok(())
    }
}

/// The different ways in which the versions of BuildKit read a text, each with its first version.
fn readings(text: &[u8]) -> Result<Vec<(Version, Dockerfile)>, String> {
    let mut readings: Vec<(Version, Dockerfile)> = Vec::new();
    // Most versions differ only in here-documents.
    let may_have_heredocs = text.windows(2).any(|two| two == b"<<");
    let others = [Version::V0_13, Version::V0_14, Version::V0_21, Version::V0_28];
    for version in Version::ALL.into_iter().filter(|version| may_have_heredocs || others.contains(version)) {
        let dockerfile = lines::read(text, version).map_err(|unclear| {
            format!("line {}: the name of a here-document cannot be told from the rest", unclear.line)
        })?;
        if readings.last().is_none_or(|(_, last)| *last != dockerfile) {
            readings.push((version, dockerfile));
        }
    }
    Ok(readings)
}

#[cfg(test)]
mod found;
#[cfg(test)]
#[path = "../../../tests/wharf/shapes/mod.rs"]
mod shapes;
#[cfg(test)]
mod tests;
