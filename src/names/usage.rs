//! A mistake on a command line, made fit for a terminal and a log: the parser shows arguments as they are.

use std::io::{self, Write as _};

use clap::error::ContextValue;

use super::printable;

/// Prints `error`, or the help that was asked for; returns the exit status.
pub fn print_usage(error: clap::Error) -> u8 {
    let status = u8::try_from(error.exit_code()).unwrap_or(2);
    let error = with_printable_words(error);
    let text = error.render().to_string();
    let lines: String = text.lines().map(|line| printable(line) + "\n").collect();
    // If the output is closed, nobody is reading.
    let _ = if lines.trim_end() == text.trim_end() {
        error.print()
    } else {
        io::stderr().lock().write_all(lines.as_bytes())
    };
    status
}

/// A line break in an argument would begin a line of its own.
fn with_printable_words(mut error: clap::Error) -> clap::Error {
    let told: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in told {
        let value = match value {
            ContextValue::String(word) => ContextValue::String(printable(&word)),
            ContextValue::Strings(words) => {
                ContextValue::Strings(words.iter().map(|word| printable(word)).collect())
            }
            other => other,
        };
        error.insert(kind, value);
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn an_argument_forges_no_line() {
        let command = || Command::new("wharf").arg(Arg::new("n").long("n").value_parser(["1", "2"]));
        for word in ["--x\rERROR\n#1 done", "--n=3\n#1 done", "x\n#1 done\u{1b}[2J", "--n=1\n--n"] {
            let error = command().try_get_matches_from(["wharf", word]).unwrap_err();
            assert!(error.to_string().contains('\n'), "{word:?}");
            let shown = with_printable_words(error).to_string();
            assert!(!shown.contains("\n#1 done") && !shown.contains(['\r', '\u{1b}']), "{shown}");
        }
    }
}
