//! The text after a build: its warnings, and the reason for a failure.

use std::fmt::Write as _;

use super::progress::{Excerpt, Model, State, Tail, Vertex, one_line};
use crate::wire::v1;

/// The reason for a failure, in buildx's form: the failed step's output, the Dockerfile's lines around it,
/// and the error. Safe for a console; ends with a newline.
pub fn failure(failure: &v1::BuildFailure, model: &Model) -> String {
    let mut text = String::new();
    let failed = |vertex: &&Vertex| matches!(vertex.state(), State::Failed(_));
    let named = model.by_digest(&failure.vertex);
    if let Some(vertex) = named.or_else(|| model.started().map(|(_, vertex)| vertex).find(failed)) {
        let _ = write_output(&mut text, &vertex.name, &vertex.tail);
    }
    if let Some(source) = &failure.source {
        let _ = write!(text, "{}", Excerpt::new(source));
    }
    let _ = writeln!(text, "ERROR: {}", message(failure));
    text
}

/// The error of a build that failed, on one line, as buildx words it.
pub(crate) fn message(failure: &v1::BuildFailure) -> String {
    let message = one_line(&failure.message);
    let prefix = if message.starts_with("failed to solve: ") { "" } else { "failed to solve: " };
    format!("{prefix}{message}")
}

/// The build's warnings with their details; empty when there are none.
pub fn warnings(model: &Model) -> String {
    let mut text = String::new();
    let _ = write_warnings(&mut text, model);
    text
}

fn write_output(text: &mut String, name: &str, output: &Tail) -> std::fmt::Result {
    writeln!(text, "------\n > {name}:")?;
    if output.forgotten > 0 {
        writeln!(text, "[{} earlier lines are not repeated]", output.forgotten)?;
    }
    for line in &output.lines {
        writeln!(text, "{line}")?;
    }
    writeln!(text, "------")
}

fn write_warnings(text: &mut String, model: &Model) -> std::fmt::Result {
    match model.warnings().len() {
        0 => return Ok(()),
        1 => writeln!(text, "\n 1 warning found:")?,
        count => writeln!(text, "\n {count} warnings found:")?,
    }
    for warning in model.warnings() {
        writeln!(text, " - {}", warning.located())?;
        for line in &warning.details {
            writeln!(text, "   {line}")?;
        }
        if !warning.url.is_empty() {
            writeln!(text, "   More info: {}", warning.url)?;
        }
    }
    writeln!(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::progress::updates::{Update, dockerfile, model_of};

    const ERROR: &str = r#"process "/bin/sh -c false" did not complete successfully: exit code: 1"#;

    fn failed_step() -> v1::BuildFailure {
        v1::BuildFailure {
            kind: v1::BuildFailureKind::Step.into(),
            message: ERROR.to_owned(),
            vertex: "b".to_owned(),
            exit_code: 1,
            source: Some(dockerfile(3, &["FROM busybox", "", "RUN false", "\tRUN true"])),
        }
    }

    #[test]
    fn a_failed_step_looks_as_buildx_shows_it() {
        let model = model_of(&[Update::new()
            .failed("a", "[1/2] RUN sleep", 0, 900, "context canceled")
            .log("b", 512, "one\ntwo")
            .failed("b", "[2/2] RUN false", 0, 900, ERROR)]);
        let expected = r#"------
 > [2/2] RUN false:
0.512 one
0.512 two
------
Dockerfile:3
--------------------
   1 |     FROM busybox
   2 |
   3 | >>> RUN false
   4 |     	RUN true
--------------------
ERROR: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 1
"#;
        assert_eq!(failure(&failed_step(), &model), expected);
        // The failed step is found even if the failure does not name it.
        let unnamed = v1::BuildFailure { vertex: String::new(), ..failed_step() };
        assert_eq!(failure(&unnamed, &model), expected);
    }

    #[test]
    fn only_the_end_of_a_long_output_is_repeated() {
        let output: String = (0..1000).map(|line| format!("line {line}\n")).collect();
        let model =
            model_of(&[Update::new().log("b", 0, output).failed("b", "[2/2] RUN false", 0, 900, ERROR)]);
        let text = failure(&failed_step(), &model);
        assert!(text.contains(":\n[800 earlier lines are not repeated]\n0.000 line 800\n"), "{text}");
        assert!(text.contains("\n0.000 line 999\n------\n"), "{text}");
    }

    #[test]
    fn a_dockerfile_that_does_not_parse_has_no_step() {
        let message = "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)";
        let failed = v1::BuildFailure {
            kind: v1::BuildFailureKind::Dockerfile.into(),
            message: message.to_owned(),
            source: Some(dockerfile(2, &["FROM busybox", "RUNN x"])),
            ..v1::BuildFailure::default()
        };
        assert_eq!(
            failure(&failed, &Model::default()),
            format!(
                "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUNN x\n\
                 --------------------\nERROR: failed to solve: {message}\n"
            )
        );
    }

    #[test]
    fn warnings_say_where_and_what_more() {
        let mut update = Update::new().warning("", "a tag moved", 0).warning("a", "old style", 2);
        update.0.warnings[1].details = vec!["Write it anew.".to_owned()];
        update.0.warnings[1].url = "https://docs.docker.com/go/x/".to_owned();
        let expected = "
 2 warnings found:
 - a tag moved
 - old style (line 2)
   Write it anew.
   More info: https://docs.docker.com/go/x/
";
        assert_eq!(warnings(&model_of(&[update])), format!("{expected}\n"));
        assert_eq!(warnings(&Model::default()), "");
        assert!(
            warnings(&model_of(&[Update::new().warning("", "x", 0)])).starts_with("\n 1 warning found:\n")
        );
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "\u{1b}[2J\u{9b}2Ja\u{202e}b\rc\u{7}\nERROR: forged";
        let name = format!("RUN {hostile}");
        let model = model_of(&[Update::new()
            .failed("b", &name, 0, 1, hostile)
            .log("b", 1, hostile)
            .warning("b", hostile, 0)]);
        let failed = v1::BuildFailure {
            message: hostile.to_owned(),
            source: Some(v1::SourceLines { filename: hostile.to_owned(), ..dockerfile(1, &[hostile]) }),
            ..failed_step()
        };
        let text = failure(&failed, &model) + &warnings(&model);
        assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text:?}");
        // The step's own line follows its time.
        assert!(!text.lines().any(|line| line == "ERROR: forged"), "{text}");
    }
}
