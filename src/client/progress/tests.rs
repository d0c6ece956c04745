//! For any input in any order, the output is plain text, and nothing but the picture drives the terminal.

use proptest::prelude::*;

use super::*;
use crate::client::progress::{
    tty::Size,
    updates::{Clock, Update, dockerfile},
};

/// Sequences that drive a terminal, text that hides other text, and bytes that are not text.
const HOSTILE: &str = "a\x1b[2J\x1b[1;1H\x1b]0;title\x07\x1b]52;c;eA==\x1b\\\x1bP+q\x1b\\\x1bc\x1b#8\u{9b}6n\u{9d}0;t\u{9c}\
    \u{202e}b\u{2066}\u{200b}\u{feff}\u{61c}\x08\x08\x7f\x00\x0b\x0c\x0e\u{85}\r\r\nERROR: forged\n\x1b[?25l\x1b[?1049h\x1b";

const CONSOLE: Console = Console { is_dumb: false, colors: true };

/// A message with one entry of each kind, all of them hostile.
fn hostile() -> Update {
    let mut update = Update::new()
        .started("a", HOSTILE, 0)
        .status("a", HOSTILE, (i64::MIN, i64::MAX), (1, None))
        .status(HOSTILE, "", (i64::MAX, i64::MIN), (9, Some(1)))
        .log("a", 1, HOSTILE)
        .log("a", 1, b"\x9b2J\xff\xfe\xc3")
        .log("a", 1, "x".repeat(100_000))
        .warning("a", HOSTILE, 1)
        .warning("", HOSTILE, 0)
        .waits("a", u32::MAX)
        .failed("b", HOSTILE, 0, 1, HOSTILE);
    for warning in &mut update.0.warnings {
        warning.details = vec![HOSTILE.to_owned()];
        warning.url = HOSTILE.to_owned();
    }
    update
}

fn hostile_failure() -> v1::BuildFailure {
    let source = v1::SourceLines { filename: HOSTILE.to_owned(), ..dockerfile(1, &[HOSTILE]) };
    v1::BuildFailure {
        message: HOSTILE.to_owned(),
        vertex: "b".to_owned(),
        source: Some(source),
        ..v1::BuildFailure::default()
    }
}

/// The output of `mode` if these messages come 100 ms apart.
fn written(mode: Mode, messages: &[v1::Progress]) -> String {
    let clock = Clock::start();
    let mut out = Vec::new();
    let mut progress = Progress::new(mode, &mut out, CONSOLE);
    for (place, update) in (1..).zip(messages) {
        progress.update(update);
        progress.tick(clock.at(place * 100));
    }
    progress.finish(Outcome::Failed(&hostile_failure()));
    String::from_utf8(out).unwrap()
}

/// Removes the terminal sequences that the picture itself uses.
fn without_ours(text: &str) -> String {
    let mut text = text.to_owned();
    let ours = ["?25l", "?7l", "K", "J", "?7h", "?25h", "34m", "33m", "31m", "2m", "0m"];
    for sequence in ours {
        text = text.replace(&format!("\x1b[{sequence}"), "");
    }
    let up = |part: &str| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && part[digits..].starts_with('A') {
            part[digits + 1..].to_owned()
        } else {
            format!("\x1b[{part}")
        }
    };
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let text = parts.fold(first, |text, part| text + &up(part));
    // Each picture has one carriage return.
    text.replace('\r', "")
}

fn assert_is_text(text: &str) {
    let control = text.char_indices().find(|(_, c)| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    });
    assert_eq!(control, None, "in {text:?}");
}

#[test]
fn hostile_text_cannot_drive_a_console() {
    for mode in [Mode::Plain, Mode::Quiet] {
        let text = written(mode, &[hostile().0]);
        assert_is_text(&text);
        // Only the step's own output may have a line of its own, which begins with its number and time.
        assert!(!text.lines().any(|line| line.starts_with("ERROR: forged")), "{text}");
    }
    assert_is_text(&without_ours(&written(Mode::Tty, &[hostile().0, hostile().0])));
}

#[test]
fn quiet_says_only_why_it_failed() {
    let clock = Clock::start();
    let mut out = Vec::new();
    let mut progress = Progress::new(Mode::Quiet, &mut out, CONSOLE);
    progress
        .update(&Update::new().log("b", 0, "why\n").warning("", "w", 0).failed("b", "RUN x", 0, 1, "e").0);
    progress.tick(clock.at(100));
    progress.finish(Outcome::Done);
    progress.finish(Outcome::Failed(&v1::BuildFailure {
        message: "e".to_owned(),
        ..v1::BuildFailure::default()
    }));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "------\n > RUN x:\n0.000 why\n------\nERROR: failed to solve: e\n"
    );
}

#[test]
fn what_was_stopped_says_so() {
    let shown = |mode| {
        let mut out = Vec::new();
        let mut progress = Progress::new(mode, &mut out, CONSOLE);
        progress.update(&Update::new().started("a", "A", 0).log("a", 0, "half a line").0);
        progress.finish(Outcome::Stopped);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(shown(Mode::Plain), "#1 A\n#1 0.000 half a line\n#1 CANCELED\n");
    let picture = shown(Mode::Tty);
    assert!(picture.contains(" => CANCELED A ") && !picture.contains("FINISHED"), "{picture:?}");
    assert_eq!(shown(Mode::Quiet), "");
}

#[test]
fn a_closed_console_stops_nothing() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut progress = Progress::new(Mode::Plain, Closed, CONSOLE);
    progress.update(&hostile().0);
    progress.finish(Outcome::Stopped);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,8}",
        Just(HOSTILE.to_owned()),
        Just("a long name of a step, 日本語 and all that: ".repeat(30)),
        any::<String>(),
    ]
}

fn time() -> impl Strategy<Value = Option<prost_types::Timestamp>> {
    let time = prop_oneof![(0..20_i64, 0..1_000_000_000_i32), (any::<i64>(), any::<i32>()),];
    proptest::option::of(time.prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }))
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![0..100_i64, any::<i64>()]
}

fn any_update() -> impl Strategy<Value = v1::Progress> {
    let digest = || prop_oneof![4 => "[a-f]", 1 => text()];
    let vertex =
        (digest(), text(), any::<bool>(), time(), time(), prop_oneof![3 => Just(String::new()), 1 => text()])
            .prop_map(|(digest, name, cached, started, completed, error)| v1::Vertex {
                digest,
                name,
                inputs: Vec::new(),
                cached,
                started,
                completed,
                error,
            });
    let status = (digest(), digest(), text(), number(), number(), time(), time()).prop_map(
        |(id, vertex, name, current, total, started, completed)| v1::VertexStatus {
            id,
            vertex,
            name,
            current,
            total,
            started,
            completed,
        },
    );
    let data =
        prop_oneof![text().prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..100)];
    let log = (digest(), any::<i32>(), data, time()).prop_map(|(vertex, stream, data, timestamp)| {
        v1::VertexLog { vertex, stream, data: data.into(), timestamp }
    });
    let source = (text(), any::<i32>(), any::<i32>(), proptest::collection::vec(text(), 0..4), any::<i32>())
        .prop_map(|(filename, start, end, text, first_text_line)| v1::SourceLines {
            filename,
            start,
            end,
            text,
            first_text_line,
        });
    let warning =
        (digest(), text(), proptest::collection::vec(text(), 0..3), text(), proptest::option::of(source))
            .prop_map(|(vertex, short, details, url, source)| v1::VertexWarning {
                vertex,
                short,
                details,
                url,
                source,
            });
    let few = 0..4;
    (
        proptest::collection::vec(vertex, few.clone()),
        proptest::collection::vec(status, few.clone()),
        proptest::collection::vec(log, few.clone()),
        proptest::collection::vec(warning, few),
    )
        .prop_map(|(vertexes, statuses, logs, warnings)| {
            let queue =
                vertexes.first().map(|vertex| v1::QueuePosition { vertex: vertex.digest.clone(), ahead: 7 });
            v1::Progress { vertexes, statuses, logs, warnings, queue }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_update_becomes_text(messages in proptest::collection::vec(any_update(), 1..12)) {
        assert_is_text(&written(Mode::Plain, &messages));
        assert_is_text(&written(Mode::Quiet, &messages));
        assert_is_text(&without_ours(&written(Mode::Tty, &messages)));
    }

    #[test]
    fn a_picture_fits_any_terminal(
        messages in proptest::collection::vec(any_update(), 1..6),
        columns in 1..120_usize,
        rows in 1..40_usize,
    ) {
        let clock = Clock::start();
        let mut model = Model::default();
        let mut tty = Tty::new(clock.at(0), true);
        for update in &messages {
            model.apply(update);
            model.tick(clock.at(100));
            let picture = without_ours(&tty.draw(&model, Size { columns, rows }));
            prop_assert!(picture.lines().count() <= rows.saturating_sub(1).max(1));
            prop_assert!(picture.lines().all(|line| text::width(line) < columns.max(2)), "{picture:?}");
        }
    }
}
