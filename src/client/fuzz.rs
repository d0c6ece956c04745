//! Entry points for `fuzz/`: the files that `wharf` reads.

use super::{
    context::{Matched, Patterns},
    credentials, output,
};

/// A `.dockerignore` and a path.
pub fn ignore_file(text: &str) {
    let (path, lines) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(patterns) = Patterns::new(lines.lines()) {
        let _ = patterns.matches(path, &Matched::default());
    }
}

/// A tree that an output brings; and the text of an `--output`.
pub fn tree(data: &[u8]) {
    output::fuzz(data);
}

/// Docker's `config.json`.
pub fn docker_config(data: &[u8]) {
    credentials::fuzz(data);
}
