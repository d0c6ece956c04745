//! The log: events and spans to standard error, as text or JSON.

use std::io::{IsTerminal as _, stderr};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, ParseError, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line an event, for people.
    #[default]
    Text,
    /// An object an event, for machines.
    Json,
}

/// What is logged: a level, or tracing's directives (`info,wharf::build=debug`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// Why a text is no filter.
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
        // A bare word that is no level is the name of a module to tracing, and switches off all
        // others: a level that is misspelt would be a daemon without a log.
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

/// Sends events and panics to standard error from now on. To be called once.
pub fn init(format: Format, filter: &Filter) {
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    let layer = match format {
        Format::Text => layer.with_ansi(stderr().is_terminal()).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    let layer = layer.with_filter(filter_fn(may_be_logged));
    // It fails when somebody has called before, who then gets the events.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("not said");
        tracing::error!(location, message, "panic");
    }));
}

/// Below `info`, libraries log headers and bodies, which can hold credentials: whatever the filter
/// says, only wharf's own modules are heard there.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"));
    own || *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

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
