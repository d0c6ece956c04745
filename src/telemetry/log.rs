//! The log: events and spans on standard error, as text or JSON.

use std::io::{self, IsTerminal as _, Write, stderr};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, ParseError, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::each_second;
use crate::names::{printable, printable_json};

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for each event, for people.
    #[default]
    Text,
    /// One JSON object for each event, for machines.
    Json,
}

/// Selects the events to log: a level, or tracing's directives (`info,wharf::build=debug`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// The reason for refusing a filter.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FilterError {
    #[error("`{0}` is not a level; write error, warn, info, debug or trace")]
    Level(String),
    #[error(transparent)]
    Directives(#[from] ParseError),
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // tracing reads a bare word that is not a level as a module's name and silences all other modules, so
        // a misspelt level would leave the daemon without a log.
        let bare = |directive: &&str| directive.chars().all(|letter| letter.is_ascii_alphanumeric());
        match text.split(',').map(str::trim).filter(bare).find(|word| word.parse::<LevelFilter>().is_err()) {
            Some(word) => Err(FilterError::Level(word.to_owned())),
            None => Ok(EnvFilter::builder().parse(text).map(|_| Self(text.to_owned()))?),
        }
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Sends events and panics to standard error. Call it once.
pub fn init(format: LogFormat, filter: &Filter) {
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    let colored = stderr().is_terminal() && matches!(format, LogFormat::Text);
    let layer =
        tracing_subscriber::fmt::layer().with_writer(move || Lines { out: stderr(), format, colored });
    let layer = match format {
        LogFormat::Text => layer.with_ansi(colored).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let layer = layer.with_filter(filter_fn(may_be_logged));
    // This fails only if a subscriber is already set; then that subscriber gets the events.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("unknown");
        each_second!(error, location, message, "panic");
    }));
}

/// The writer of events, one line each. Many events contain text from outside, sometimes unexpectedly. Such
/// text must not begin a line of its own or drive the reader's terminal.
struct Lines<W> {
    out: W,
    format: LogFormat,
    colored: bool,
}

impl<W: Write> Write for Lines<W> {
    /// Writes one event; tracing passes each event in a single call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = match self.format {
            LogFormat::Json => printable_json(text),
            LogFormat::Text if self.colored => colored(text),
            LogFormat::Text => printable(text),
        };
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `text` made printable, with colour sequences kept: they are harmless, and the log's own cannot be
/// distinguished from others.
fn colored(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut parts = text.split("\x1b[");
    line.push_str(&printable(parts.next().unwrap_or_default()));
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(part.len());
        let (parameters, rest) = part.split_at(digits);
        match rest.strip_prefix('m') {
            Some(rest) => line.extend(["\x1b[", parameters, "m", &printable(rest)]),
            None => line.push_str(&printable(&format!("\x1b[{part}"))),
        }
    }
    line
}

/// Below `info`, libraries log headers and bodies, which can contain credentials. Whatever the filter says,
/// only wharf's own modules are logged at these levels.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"));
    own || *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let hostile = "denied\n2026-01-01T00:00:00Z  INFO forged\r\x1b[2J\u{9b}6n\u{202e}x";
        let written = |format, colored, event: &str| {
            let mut lines = Lines { out: Vec::new(), format, colored };
            lines.write_all(event.as_bytes()).unwrap();
            String::from_utf8(lines.out).unwrap()
        };
        let text = "denied\\n2026-01-01T00:00:00Z  INFO forged\\r\\u{1b}[2J\\u{9b}6n\\u{202e}x\n";
        assert_eq!(written(LogFormat::Text, false, &format!("{hostile}\n")), text);
        let event = format!("\x1b[2m\x1b[32m INFO\x1b[0m {hostile}\n");
        assert_eq!(written(LogFormat::Text, true, &event), format!("\x1b[2m\x1b[32m INFO\x1b[0m {text}"));
        let event = format!("{{\"message\":{}}}\n", serde_json::json!(hostile));
        let written = written(LogFormat::Json, false, &event);
        assert_eq!(written.matches('\n').count(), 1);
        assert!(!written.contains(['\u{9b}', '\u{202e}']), "{written}");
        let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(read(&written), read(&event));
    }

    #[test]
    fn a_filter_is_a_level_or_directives() {
        for filter in ["info", "DEBUG", "off", "info,wharf::build=debug", "warn, wharf::engine"] {
            assert!(filter.parse::<Filter>().is_ok(), "{filter}");
        }
        for filter in ["wharf=loud", "loud", "info,loud"] {
            assert!(filter.parse::<Filter>().is_err(), "{filter}");
        }
    }
}
