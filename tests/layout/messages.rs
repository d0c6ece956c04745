//! Every message is in `tests/wharf/messages.txt`, as the programs say it, or in `messages_not_shown.txt`, with a reason.

use std::{collections::BTreeSet, path::Path};

/// How many messages are listed as not shown. It may only become smaller: a new message is shown by a scene of
/// `tests/wharf/messages.rs`, or takes the place of one that is shown now.
const NOT_SHOWN_MAX: usize = 393;

/// The calls and names before the text of a message.
const MARKS: [&str; 9] = [
    "Fault::new(",
    "Fault::invalid(",
    ".hint(",
    ".log_in(",
    "Failure::new(",
    "Failure::usage(",
    "#[error(",
    "let text =",
    "let hint =",
];
/// The number of words from which on a text is a sentence.
const WORDS_MIN: usize = 3;

#[test]
fn every_message_is_shown_or_listed() {
    let page = include_str!("../wharf/messages.txt");
    let listed: Vec<&str> = include_str!("../wharf/messages_not_shown.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut messages = BTreeSet::new();
    for (path, text) in super::rust_files("src") {
        if is_code(&path) {
            messages.extend(messages_in(text.split("#[cfg(test)]\nmod ").next().unwrap()));
        }
    }
    assert!(messages.len() > 400, "{} messages were found", messages.len());
    let shown = |message: &str| page.lines().any(|line| shows(line, message));
    let unknown: Vec<_> =
        messages.iter().filter(|text| !shown(text) && !listed.contains(&text.as_str())).collect();
    assert!(
        unknown.is_empty(),
        "messages that messages.txt does not show: add a scene, or list them in messages_not_shown.txt below a reason: \
         {unknown:#?}"
    );
    let gone: Vec<_> = listed.iter().filter(|text| !messages.contains(**text) || shown(text)).collect();
    assert!(
        gone.is_empty(),
        "take these off messages_not_shown.txt: they are gone, or shown by now: {gone:#?}"
    );
    assert_eq!(listed.len(), listed.iter().collect::<BTreeSet<_>>().len(), "a message is listed twice");
    assert!(listed.len() <= NOT_SHOWN_MAX, "{} messages are not shown; show some by scenes", listed.len());
    assert_eq!(listed.len(), NOT_SHOWN_MAX, "fewer messages are not shown: lower NOT_SHOWN_MAX");
}

/// Tests and fuzzers have texts of their own.
fn is_code(path: &Path) -> bool {
    let is_test = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs" || part == "fuzz.rs";
    !path.iter().any(is_test)
}

/// The sentences that stand behind a mark, in the same statement.
fn messages_in(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, text) in literals(code) {
        let before = &code[..at];
        let is_behind = |mark: &&str| {
            before.rfind(*mark).is_some_and(|place| is_within(mark, &code[place + mark.len()..at]))
        };
        if MARKS.iter().any(is_behind) && text.split(' ').count() >= WORDS_MIN {
            found.push(text.replace('\n', "\\n"));
        }
    }
    found
}

/// Whether what follows `between`, which stands behind a mark, still belongs to the call or the statement.
fn is_within(mark: &str, between: &str) -> bool {
    let between = blank(between);
    let mut depth = i32::from(mark.ends_with('('));
    let closes = between.chars().any(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth < i32::from(mark.ends_with('('))
    });
    !closes && !between.contains(';')
}

/// `code` without its literals' texts.
fn blank(code: &str) -> String {
    let (mut left, mut end) = (String::new(), 0);
    for (at, _) in literals(code) {
        left.push_str(&code[end..at]);
        end = at + length(&code[at..]);
    }
    left.push_str(code.get(end..).unwrap_or_default());
    left
}

/// The string literals of `code`, each with its place.
fn literals(code: &str) -> Vec<(usize, String)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(rest) = code.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some(quoted) = character(rest) {
            at += quoted;
        } else if rest.starts_with('"')
            || (rest.starts_with("r\"") || rest.starts_with("r#")) && raw(rest).is_some()
        {
            let length = length(rest);
            found.push((at, text_of(&rest[..length])));
            at += length;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// The length of a character's literal: `'"'`, `'\n'`.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let length = match inside.strip_prefix('\\') {
        Some(escaped) => 2 + escaped.chars().next()?.len_utf8(),
        None => 1 + inside.chars().next()?.len_utf8(),
    };
    rest.get(length..)?.starts_with('\'').then_some(length + 1)
}

/// The marks around a raw literal: `r#"` and `"#`.
fn raw(rest: &str) -> Option<(String, String)> {
    let marks: String = rest.strip_prefix('r')?.chars().take_while(|c| *c == '#').collect();
    rest[1 + marks.len()..].starts_with('"').then(|| (format!("r{marks}\""), format!("\"{marks}")))
}

/// The length of the literal with which `rest` begins.
fn length(rest: &str) -> usize {
    if let Some((begin, end)) = raw(rest) {
        return begin.len() + rest[begin.len()..].find(&end).unwrap() + end.len();
    }
    let mut is_escaped = false;
    let mut ends = |c: char| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    };
    rest.char_indices().skip(1).find(|(_, c)| ends(*c)).unwrap().0 + 1
}

/// A literal's text, where a backslash at the end of a line joins it with the next.
fn text_of(literal: &str) -> String {
    if let Some((begin, end)) = raw(literal) {
        return literal[begin.len()..literal.len() - end.len()].to_owned();
    }
    let mut parts = literal[1..literal.len() - 1].split("\\\n");
    let mut text = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| text.push_str(part.trim_start()));
    text.replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\")
}

/// Whether a line shows a message: its parts between the placeholders, one after the other.
fn shows(line: &str, message: &str) -> bool {
    let (mut rest, mut message) = (line, message.replace("{{", "\u{1}").replace("}}", "\u{2}"));
    loop {
        let (part, after) = match message.split_once('{') {
            Some((part, after)) => {
                (part.to_owned(), after.split_once('}').map(|(_, after)| after.to_owned()))
            }
            None => (message.clone(), None),
        };
        let part = part.replace('\u{1}', "{").replace('\u{2}', "}");
        match rest.split_once(part.as_str()) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
        match after {
            Some(after) => message = after,
            None => return true,
        }
    }
}

#[test]
fn messages_are_found_in_code() {
    let code = r#"
        // Fault::new("no text of mine")
        let text = format!("the `{a}` of {} is \
            not \"it\": {{x}}", '"');
        let fault = Fault::new(Reason::X, text).hint("try it again");
        let other = "this is none of them";
        return Err(Fault::invalid("field", match x { 'a' => r"one of them", _ => "another of them" }));
    "#;
    let expected = ["the `{a}` of {} is not \"it\": {{x}}", "try it again", "one of them", "another of them"];
    assert_eq!(messages_in(code), expected);
    assert!(shows("hint: the `b` of 7 is not \"it\": {x}", expected[0]));
    assert!(!shows("hint: the `b` of 7 is \"it\": {x}", expected[0]));
}
