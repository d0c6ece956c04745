//! Estimates how much memory a Dockerfile takes when BuildKit's frontend expands it.
//!
//! The estimate is rather high: only the longest value of each variable is known here, wherever it is set. No real
//! Dockerfile comes near the limits.

use std::{collections::HashMap, sync::Arc};

use super::{
    ReadingRules,
    lines::{self, Heredoc, Instruction, Version},
    parts, patterns,
    variables::{UNKNOWN, Variables},
    warnings,
};
use crate::{
    images::inherited::{Inherited, Size},
    names::printable,
};

/// The limit on `${a:-…` in one instruction: BuildKit recurses for each that is inside another.
const OPERATORS_MAX: usize = 1024;
/// The limit on the value of a variable. Linux gives no program a variable of more than 128 KiB.
const VALUE_BYTES_MAX: u64 = 1 << 20;
/// The limit on all lines together, once their variables are replaced.
const EXPANDED_BYTES_MAX: u64 = 64 << 20;
/// The bytes that BuildKit keeps of each `ARG` for each stage, apart from its text.
const ARGUMENT_BYTES: u64 = 128;
/// The limit on the variables that all lines see together: for each line BuildKit may go through all that the stage
/// has, so that its time grows with the square of their number (10,000 `ENV`s cost 7 s of a processor, measured on
/// the newest engine). Real Dockerfiles have a few dozen.
const VARIABLES_SEEN_MAX: usize = 50_000_000;
/// The limit on the steps that follow one another, and on the steps of all stages, for the frontend in the
/// engine: its time grows with the square of their number (1000 `COPY`s cost 14 s of a processor, 1000 `RUN`s
/// 7 s, 500 `COPY`s 4 s; measured on the oldest engine). No engine can use an image of more than 500 layers
/// (the kernel's overlays).
const CHAIN_MAX: u64 = 600;
const STEPS_MAX: u64 = 6000;
/// The limit on the bytes that the frontend in an old engine copies to join the lines of instructions (before BuildKit
/// 0.15) and here-documents (before 0.26), since it makes a new text for each line. That many cost 6 s of a processor,
/// measured on Engine 26.1, and a text of 4 MiB could cost minutes, which not even a cancel ends.
const COPIED_BYTES_MAX: u64 = 16 << 30;
/// The limit on the variables of all images of a build. An image has some dozens.
const VARIABLES_OF_IMAGES_MAX: usize = 20_000;
/// The bytes that BuildKit writes for a port.
const PORT_BYTES: u64 = 16;

/// The estimate for a text, as far as it has been read.
#[derive(Clone, Debug)]
pub(super) struct Estimate {
    rules: Arc<ReadingRules>,
    escape: u8,
    variables: Variables,
    expanded: u64,
    /// The number of bytes that are copied to join lines.
    copied: u64,
    /// The variables that each line has seen, all together.
    seen: usize,
    /// The number of `ARG`s.
    arguments: u64,
    /// The number of steps and stages.
    steps: u64,
    /// How many warnings there may be.
    warnings: u64,
    /// The bytes that a stage gets from an image.
    image: Stage,
    stage: Stage,
    name: Vec<u8>,
    stages: HashMap<Vec<u8>, Stage>,
}

/// The bytes that a stage has gathered: BuildKit copies the one or the other for each step, or for each stage
/// that begins where this one ends.
#[derive(Clone, Copy, Debug, Default)]
struct Stage {
    /// Its instructions.
    history: u64,
    /// Its triggers, which run in each stage that is built on it.
    triggers: u64,
    /// Its variables.
    environment: u64,
    /// The arguments among them, each time that they are declared.
    arguments: u64,
    directory: u64,
    /// The user and the shell.
    settings: u64,
    /// The number of its steps and of those below it.
    steps: u64,
    /// How many warnings there may be about its triggers, in each stage that is built on it.
    warnings: u64,
}

impl Stage {
    /// The worst of two.
    fn or(self, other: Self) -> Self {
        Self {
            history: self.history.max(other.history),
            triggers: self.triggers.max(other.triggers),
            environment: self.environment.max(other.environment),
            arguments: self.arguments.max(other.arguments),
            directory: self.directory.max(other.directory),
            settings: self.settings.max(other.settings),
            steps: self.steps.max(other.steps),
            warnings: self.warnings.max(other.warnings),
        }
    }
}

impl Estimate {
    pub(super) fn new(rules: &Arc<ReadingRules>) -> Self {
        Self {
            rules: Arc::clone(rules),
            escape: b'\\',
            variables: Variables::default(),
            expanded: 0,
            copied: 0,
            seen: 0,
            arguments: 0,
            steps: 0,
            warnings: 0,
            image: Stage::default(),
            stage: Stage::default(),
            name: Vec::new(),
            stages: HashMap::new(),
        }
    }

    /// Adds an image on which the Dockerfile may be built, and runs its triggers.
    pub(super) fn base(&mut self, base: &Inherited, version: Version) -> Result<(), String> {
        let mut image = Stage {
            history: base.history,
            settings: base.settings,
            directory: base.settings,
            ..Stage::default()
        };
        for (name, size) in &base.environment {
            image.environment += name.len() as u64 + size.bytes;
            self.variables.set(Some(name.as_bytes()), *size);
        }
        if self.variables.count() > VARIABLES_OF_IMAGES_MAX {
            return Err(format!(
                "the images of the build have more than {VARIABLES_OF_IMAGES_MAX} variables"
            ));
        }
        self.stage = image;
        let triggers: Result<(), String> = base.triggers.iter().try_for_each(|trigger| {
            lines::read(trigger.as_bytes(), version).try_for_each(|instruction| {
                self.instruction(&instruction.map_err(|unclear| unclear.to_string())?, version)
            })
        });
        image.triggers = std::mem::take(&mut self.expanded);
        image.warnings = std::mem::take(&mut self.warnings);
        self.image = self.image.or(image).or(Stage { triggers: 0, warnings: 0, ..self.stage });
        (self.stage, self.arguments) = (Stage::default(), 0);
        triggers.map_err(|why| format!("its ONBUILD triggers cost the builder too much ({why})"))
    }

    /// Adds an instruction of the Dockerfile or of a trigger.
    pub(super) fn instruction(&mut self, instruction: &Instruction, version: Version) -> Result<(), String> {
        let Instruction { text, keyword, arguments, heredocs, .. } = instruction;
        self.escape = instruction.escape;
        self.join(instruction)?;
        let (mut keyword, mut arguments) = (keyword.clone(), arguments.as_slice());
        let is_trigger = keyword == b"onbuild";
        while keyword == b"onbuild" {
            (keyword, arguments) = parts::command(arguments, self.escape);
        }
        let warned = warnings::about(instruction, (&keyword, arguments), (&self.rules, version));
        self.warnings = self.warnings.saturating_add(warned);
        self.judge_operators(text)?;
        self.see()?;
        let mut cost = self.variables.length(text);
        let is_run = keyword == b"run";
        let may_end = self.rules.frontend.is_builtin()
            && version == Version::V0_13
            && !patterns::NOT_EXPANDED.contains(&keyword.as_slice());
        if may_end {
            self.judge_patterns(text, is_run)?;
        }
        for Heredoc { content, is_expanded, .. } in heredocs {
            cost = cost.saturating_add(content.len() as u64);
            // The shell expands the text of a step.
            if *is_expanded && !is_run {
                self.judge_operators(content)?;
                cost = cost.saturating_add(self.variables.length(content));
                if may_end {
                    self.judge_patterns(content, false)?;
                }
            }
        }
        let (stage, own) = (self.stage, cost);
        cost = cost.saturating_add(match keyword.as_slice() {
            b"env" | b"arg" => {
                let is_argument = keyword == b"arg";
                // The escape of a trigger is not the Dockerfile's.
                if is_trigger && self.escape != b'\\' {
                    self.assign(arguments, is_argument, b'\\')?;
                }
                self.assign(arguments, is_argument, self.escape)?
            }
            b"from" => self.from(arguments),
            b"run" => {
                let parts =
                    [stage.environment, stage.arguments, stage.directory, stage.settings, self.rules.carried];
                parts.into_iter().fold(0, u64::saturating_add)
            }
            b"cmd" | b"entrypoint" | b"healthcheck" => stage.settings,
            b"shell" | b"user" => {
                self.stage.settings = stage.settings.saturating_add(self.variables.length(arguments));
                0
            }
            b"workdir" => {
                let length = self.variables.length(arguments).saturating_add(1);
                let before = if arguments.starts_with(b"/") { 0 } else { stage.directory };
                self.stage.directory = stage.directory.max(length.saturating_add(before));
                self.stage.directory
            }
            b"copy" | b"add" => self.copies(text, arguments),
            b"expose" => {
                let words = arguments.split(|byte| parts::is_blank(*byte));
                let ports = words.map(|word| self.variables.ports(word)).fold(0, u64::saturating_add);
                ports.saturating_mul(PORT_BYTES)
            }
            _ => 0,
        });
        if matches!(keyword.as_slice(), b"run" | b"copy" | b"add" | b"workdir" | b"from") {
            self.step()?;
        }
        // A copy of the history below is not part of the history: with each stage on another it would double.
        let grown = if keyword == b"from" { own } else { cost };
        self.stage.history = self.stage.history.saturating_add(grown);
        if is_trigger {
            self.stage.triggers = self.stage.triggers.saturating_add(cost);
            self.stage.warnings = self.stage.warnings.saturating_add(warned);
        }
        self.expanded = self.expanded.saturating_add(cost);
        if self.expanded > EXPANDED_BYTES_MAX {
            let limit = EXPANDED_BYTES_MAX >> 20;
            return Err(format!("with its variables replaced, the Dockerfile has more than {limit} MiB"));
        }
        Ok(())
    }

    /// How many warnings there may be about the text.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings
    }

    /// Counts what joining the lines costs.
    fn join(&mut self, instruction: &Instruction) -> Result<(), String> {
        let frontend = self.rules.frontend;
        if frontend.is_builtin_before(15) {
            self.copied += instruction.copied;
        }
        if frontend.is_builtin_before(26) {
            self.copied += instruction.heredocs.iter().map(|heredoc| heredoc.copied).sum::<u64>();
        }
        if self.copied > COPIED_BYTES_MAX {
            return Err(
                "the instruction has too many lines: put its text into a file of the context".to_owned()
            );
        }
        Ok(())
    }

    /// Counts a step, or a stage, which begins where another ends.
    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        self.stage.steps += 1;
        if self.rules.frontend.is_builtin() && self.stage.steps > CHAIN_MAX {
            return Err(format!("more than {CHAIN_MAX} steps follow one another"));
        }
        if self.rules.frontend.is_builtin() && self.steps > STEPS_MAX {
            return Err(format!("the Dockerfile has more than {STEPS_MAX} steps"));
        }
        Ok(())
    }

    /// Counts what one line, or one of its assignments, sees.
    fn see(&mut self) -> Result<(), String> {
        self.seen = self.seen.saturating_add(self.variables.count());
        if self.seen > VARIABLES_SEEN_MAX {
            return Err("the Dockerfile has too many variables for its number of lines".to_owned());
        }
        Ok(())
    }

    fn judge_operators(&self, text: &[u8]) -> Result<(), String> {
        let is_operator = |(at, two): &(usize, &[u8])| {
            let rest = text.get(at + 2..).unwrap_or_default();
            *two == b"${" && rest.get(patterns::name(rest)) != Some(&b'}')
        };
        if text.windows(2).enumerate().filter(is_operator).count() > OPERATORS_MAX {
            return Err(format!("more than {OPERATORS_MAX} `${{…}}` with an operator in one instruction"));
        }
        Ok(())
    }

    fn judge_patterns(&self, text: &[u8], keeps_unset: bool) -> Result<(), String> {
        let may_be_empty = |name: &[u8]| !keeps_unset || self.variables.may_have(name);
        let Some(begin) = patterns::empty(text, may_be_empty) else { return Ok(()) };
        let begin = printable(&String::from_utf8_lossy(begin));
        Err(format!("the pattern in `{begin}` may be empty, which crashes the builder of some engines"))
    }

    /// Judges `NAME=VALUE …`, or `ENV NAME VALUE`. All values are expanded with the variables from before the
    /// line. Returns what BuildKit writes.
    fn assign(&mut self, rest: &[u8], is_argument: bool, escape: u8) -> Result<u64, String> {
        let words = parts::words(rest, escape);
        let mut now = Vec::new();
        let mut pair = |name: &[u8], value: &[u8]| {
            let size = self.variables.size(value);
            let known = is_known(name).then(|| String::from_utf8_lossy(name));
            let given = match &known {
                _ if !is_argument => Size::default(),
                Some(name) => {
                    self.rules.arguments.get(name.as_ref()).copied().unwrap_or_default().or(UNKNOWN)
                }
                None => self.rules.arguments.values().copied().fold(UNKNOWN, Size::or),
            };
            if size.bytes > VALUE_BYTES_MAX.max(given.bytes) {
                let limit = VALUE_BYTES_MAX >> 20;
                return Err(format!("the value of a variable would have more than {limit} MiB"));
            }
            now.push((known.is_some().then(|| name.to_vec()), self.variables.length(name), size.or(given)));
            Ok(())
        };
        match words.first() {
            None => {}
            Some(first) if !is_argument && !first.contains(&b'=') => {
                let (name, value) = parts::split(rest);
                pair(name, value.unwrap_or_default())?;
            }
            Some(_) => {
                for word in &words {
                    let at = word.iter().position(|byte| *byte == b'=').unwrap_or(word.len());
                    pair(word.get(..at).unwrap_or_default(), word.get(at + 1..).unwrap_or_default())?;
                }
            }
        }
        let mut sum = 0_u64;
        for (name, name_length, size) in now {
            let both = name_length.saturating_add(size.bytes);
            sum = sum.saturating_add(both);
            self.stage.environment = self.stage.environment.saturating_add(both);
            if is_argument {
                self.arguments += 1;
                self.stage.arguments = self.stage.arguments.saturating_add(both);
            }
            self.see()?;
            self.variables.set(name.as_deref(), size);
        }
        Ok(sum)
    }

    /// Begins a stage. Returns the number of bytes that BuildKit copies.
    fn from(&mut self, arguments: &[u8]) -> u64 {
        let (base, name) = parts::from(arguments);
        let ended = std::mem::replace(&mut self.name, name);
        let all = self.stages.entry(ended).or_default();
        *all = all.or(self.stage);
        let is_plain = parts::is_plain(&base);
        self.stage = match self.stages.get(&base) {
            Some(stage) if is_plain => stage.or(self.image),
            None if is_plain => self.image,
            _ => self.stages.values().fold(self.image, |worst, stage| worst.or(*stage)),
        };
        let Stage { history, triggers, environment, warnings, .. } = self.stage;
        (self.stage.triggers, self.stage.warnings) = (0, 0);
        self.warnings = self.warnings.saturating_add(warnings);
        let copied = self.arguments.saturating_mul(ARGUMENT_BYTES);
        history.saturating_add(triggers).saturating_add(environment).saturating_add(copied)
    }

    /// The number of bytes that BuildKit keeps for the sources of a copy: the target and the flags for each.
    fn copies(&self, text: &[u8], arguments: &[u8]) -> u64 {
        let words = arguments.split(|byte| parts::is_blank(*byte) || *byte == b',');
        let target = match arguments.first() {
            Some(b'[') => arguments,
            _ => arguments.rsplit(|byte| parts::is_blank(*byte)).next().unwrap_or_default(),
        };
        let flags = self.variables.length(text).saturating_sub(self.variables.length(arguments));
        let each = self.variables.length(target).saturating_add(self.stage.directory).saturating_add(flags);
        each.saturating_mul(words.count() as u64)
    }
}

/// Whether a name stands for itself, and is not quoted or replaced.
fn is_known(name: &[u8]) -> bool {
    // BuildKit ignores a byte order mark before the name.
    name.is_ascii() && !name.is_empty() && parts::is_plain(name)
}
