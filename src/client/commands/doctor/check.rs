//! A check, and how it is shown.

use serde_json::json;

use crate::{
    client::exit::Failure,
    names::{printable, printable_json},
};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// Something may go wrong.
    Warning,
    /// Builds, pulls or pushes cannot work like this.
    Failed,
    /// An earlier check has failed without which this one says nothing.
    Skipped,
}

/// A check of one subject.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) subject: &'static str,
    pub(super) state: State,
    /// May contain hostile text.
    text: String,
    /// What to do.
    hint: Option<String>,
}

impl Check {
    pub(super) fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, state: State::Ok, text: text.into(), hint: None }
    }

    pub(super) fn warning(
        subject: &'static str,
        text: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) -> Self {
        Self { subject, state: State::Warning, text: text.into(), hint: hint.into() }
    }

    pub(super) fn failed(subject: &'static str, failure: Failure) -> Self {
        Self { subject, state: State::Failed, text: failure.text, hint: failure.hint }
    }

    /// A hint, if there is none yet.
    pub(super) fn otherwise(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    pub(super) fn skipped(subject: &'static str, why: impl Into<String>) -> Self {
        Self { subject, state: State::Skipped, text: why.into(), hint: None }
    }

    /// One line, and another with the hint.
    pub(super) fn line(&self) -> String {
        let Self { subject, text, hint, .. } = self;
        let mut line = format!("{:8} {subject:14} {}\n", self.state.name(), printable(text));
        if let Some(hint) = hint {
            line.push_str(&format!("{:8} hint: {}\n", "", printable(hint)));
        }
        line
    }

    pub(super) fn json(&self) -> String {
        let Self { subject, text, hint, .. } = self;
        let row = json!({"Check": subject, "State": self.state.name(), "Text": text, "Hint": hint});
        printable_json(&row.to_string())
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}
