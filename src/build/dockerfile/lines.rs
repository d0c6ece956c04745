//! The instructions of a Dockerfile, exactly as BuildKit's parser (`frontend/dockerfile/parser`) finds them in
//! its lines. A job that makes wharfd and BuildKit read a text in two ways hides an instruction from the judge.
//!
//! `tests/instructions` tests this against the parsers of all versions.

use super::{
    parts::{command, is_json, trim_start},
    shell::{self, Lexing, NoWords},
};

/// The versions of BuildKit from which on a text is read in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// Docker Engine 26.1.
    V0_13 = 13,
    /// `# check=` is a directive.
    V0_14 = 14,
    /// Nothing may follow a JSON array; a nested text in a here-document's word empties the word.
    V0_15 = 15,
    /// `${a:#b}` is an error.
    V0_16 = 16,
    /// A flag's escape is the Dockerfile's.
    V0_21 = 21,
    /// There may be blanks in `<< EOF`.
    V0_22 = 22,
    /// There may be any white space before a directive's name.
    V0_28 = 28,
    /// Quoted escapes of a here-document's word are kept once.
    V0_34 = 34,
}

impl Version {
    pub(super) const ALL: [Self; 8] = [
        Self::V0_13,
        Self::V0_14,
        Self::V0_15,
        Self::V0_16,
        Self::V0_21,
        Self::V0_22,
        Self::V0_28,
        Self::V0_34,
    ];

    /// The one from which on a BuildKit of this version, major and minor, reads.
    pub(super) fn of(version: (u32, u32)) -> Self {
        Self::ALL.into_iter().rev().find(|first| (0, *first as u32) <= version).unwrap_or(Self::V0_13)
    }
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// The number of its first line, from 1.
    pub line: usize,
    /// The joined lines.
    pub text: Vec<u8>,
    /// The first word, in lower case.
    pub keyword: Vec<u8>,
    /// The text behind the keyword and the flags.
    pub arguments: Vec<u8>,
    /// Its here-documents.
    pub heredocs: Vec<Heredoc>,
    /// Whether there are comments before it.
    pub is_commented: bool,
    /// The character that joins lines and quotes others, in all of the text: `\` or a backtick.
    pub escape: u8,
    /// How many bytes a parser copies that makes a new text of each line that it joins to the ones before.
    pub copied: u64,
    /// Whether there are empty lines among those that are joined.
    pub has_empty_lines: bool,
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heredoc {
    /// Its lines.
    pub content: Vec<u8>,
    /// Whether variables in it are replaced.
    pub is_expanded: bool,
    /// How many bytes a parser copies that makes a new text for each of its lines.
    pub copied: u64,
}

/// A line that some version of BuildKit may read in a way that is unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a here-document cannot be told from the rest")]
pub(super) struct Unclear {
    pub line: usize,
}

fn trim_newline(mut line: &[u8]) -> &[u8] {
    while let Some(before) = line.strip_suffix(b"\n").or_else(|| line.strip_suffix(b"\r")) {
        line = before;
    }
    line
}

fn is_comment(line: &[u8]) -> bool {
    trim_start(line).starts_with(b"#")
}

/// White space in a directive: `\s` in Go's regular expressions.
fn is_directive_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0xc | b'\r' | b' ')
}

/// The directives at the top.
struct Directives {
    version: Version,
    escape: u8,
    are_over: bool,
}

impl Directives {
    /// Judges whether a line is one, and heeds it.
    fn line(&mut self, line: &[u8]) {
        if self.are_over {
            return;
        }
        self.are_over = self.heed(line).is_none();
    }

    fn heed(&mut self, line: &[u8]) -> Option<()> {
        let rest = line.strip_prefix(b"#")?;
        let after = |text: &'_ [u8]| text.iter().take_while(|byte| is_directive_blank(**byte)).count();
        let rest = if self.version >= Version::V0_28 { trim_start(rest) } else { rest.get(after(rest)..)? };
        let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let (name, rest) = rest.split_at_checked(length)?;
        let value = rest.get(after(rest)..)?.strip_prefix(b"=")?;
        if !name.first()?.is_ascii_alphabetic() || value.is_empty() {
            return None;
        }
        match name.to_ascii_lowercase().as_slice() {
            b"escape" => {
                let end = value.iter().rposition(|byte| !is_directive_blank(*byte))?;
                match value.get(after(value)..=end)? {
                    [escape @ (b'\\' | b'`')] => self.escape = *escape,
                    // BuildKit refuses the text.
                    _ => return None,
                }
                Some(())
            }
            b"syntax" => Some(()),
            b"check" if self.version >= Version::V0_14 => Some(()),
            _ => None,
        }
    }
}

/// The line without the escape that joins it to the next one, if it ends in one: another escape before it takes
/// its meaning away.
fn joined(line: &[u8], escape: u8) -> Option<&[u8]> {
    let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'))?;
    let before = line.get(..=end)?.strip_suffix(&[escape])?;
    (before.last() != Some(&escape)).then_some(before)
}

/// The end of a here-document, and how it is read.
struct Opened {
    name: Vec<u8>,
    loses_tabs: bool,
    is_expanded: bool,
}

/// The here-documents that an instruction opens.
fn opened(line: &[u8], version: Version) -> Result<Vec<Opened>, NoWords> {
    if !line.windows(2).any(|two| two == b"<<") {
        return Ok(Vec::new());
    }
    let words = match shell::words(line, Lexing { version, raw_quotes: true, raw_escapes: true }) {
        Err(NoWords::Malformed) => Vec::new(),
        words => words?,
    };
    let mut found = Vec::new();
    for word in words {
        found.extend(heredoc(&word, version)?);
    }
    Ok(found)
}

/// The here-document that a word opens (`ParseHeredoc`).
fn heredoc(word: &[u8], version: Version) -> Result<Option<Opened>, NoWords> {
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let Some(rest) = word.get(digits..).and_then(|rest| rest.strip_prefix(b"<<")) else { return Ok(None) };
    let (loses_tabs, mut rest) = rest.strip_prefix(b"-").map_or((false, rest), |rest| (true, rest));
    if version >= Version::V0_22 {
        let blanks = rest.iter().take_while(|byte| is_directive_blank(**byte)).count();
        rest = rest.get(blanks..).unwrap_or_default();
    }
    if rest.is_empty() || rest.contains(&b'<') {
        return Ok(None);
    }
    let words = |raw_quotes| {
        match shell::words(rest, Lexing { version, raw_quotes, raw_escapes: false }) {
            // BuildKit refuses the text.
            Err(NoWords::Malformed) => Ok(Vec::new()),
            words => words,
        }
    };
    let quotes = |word: &[u8]| word.iter().filter(|byte| matches!(byte, b'\'' | b'"')).count();
    let (name, raw) = (words(false)?, words(true)?);
    let ([name], Some(raw)) = (name.as_slice(), raw.first()) else { return Ok(None) };
    Ok(Some(Opened { name: name.clone(), loses_tabs, is_expanded: quotes(name) == quotes(raw) }))
}

/// Reads a text as a version of BuildKit does, one instruction after the other: a text of a few MiB can have
/// half a million. If BuildKit refuses the text, the instructions here are only a part of those in the text.
pub(super) fn read(text: &[u8], version: Version) -> impl Iterator<Item = Result<Instruction, Unclear>> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let lines = text.split_inclusive(|byte| *byte == b'\n').zip(1_usize..);
    let mut reader = Reader { lines, directives: Directives { version, escape: b'\\', are_over: false } };
    std::iter::from_fn(move || reader.next())
}

struct Reader<L> {
    /// The lines that have not been read, each with its number.
    lines: L,
    directives: Directives,
}

impl<'t, L: Iterator<Item = (&'t [u8], usize)>> Reader<L> {
    fn next(&mut self) -> Option<Result<Instruction, Unclear>> {
        let mut is_commented = false;
        loop {
            let (line, number) = self.lines.next()?;
            let line = trim_start(trim_newline(line));
            self.directives.line(line);
            if !line.is_empty() && !line.starts_with(b"#") {
                return Some(self.instruction(line, number, is_commented));
            }
            is_commented |= !line.is_empty();
        }
    }

    /// Reads the instruction that begins with `line`.
    fn instruction(
        &mut self,
        line: &[u8],
        number: usize,
        is_commented: bool,
    ) -> Result<Instruction, Unclear> {
        let Directives { version, escape, .. } = self.directives;
        let mut continues = joined(line, escape);
        let mut text = continues.unwrap_or(line).to_vec();
        let (mut copied, mut has_empty_lines) = (0, false);
        while continues.is_some()
            && let Some((line, _)) = self.lines.next()
        {
            let line = trim_newline(line);
            // Comments and empty lines do not end an instruction.
            if trim_start(line).is_empty() {
                has_empty_lines = true;
            } else if !is_comment(line) {
                continues = joined(line, escape);
                text.extend_from_slice(continues.unwrap_or(line));
                copied += text.len() as u64;
            }
        }
        let flags_escape = if version >= Version::V0_21 { escape } else { b'\\' };
        let (keyword, arguments) = command(&text, flags_escape);
        let inner =
            (keyword == b"onbuild" && !arguments.is_empty()).then(|| command(arguments, flags_escape));
        let (opening, opening_arguments) =
            inner.as_ref().map_or((&keyword, arguments), |(keyword, arguments)| (keyword, *arguments));
        let may_open =
            matches!(opening.as_slice(), b"add" | b"copy" | b"run") && !is_json(opening_arguments, version);
        let opened = if may_open { opened(&text, version) } else { Ok(Vec::new()) };
        let mut heredocs = Vec::new();
        for Opened { name, loses_tabs, is_expanded } in opened.map_err(|_| Unclear { line: number })? {
            let (mut content, mut copied) = (Vec::new(), 0);
            for (line, _) in self.lines.by_ref() {
                let mut end = trim_newline(line);
                while loses_tabs && let Some(rest) = end.strip_prefix(b"\t") {
                    end = rest;
                }
                if end == name {
                    break;
                }
                content.extend_from_slice(line);
                copied += content.len() as u64;
            }
            heredocs.push(Heredoc { content, is_expanded, copied });
        }
        let arguments = arguments.to_vec();
        Ok(Instruction {
            line: number,
            text,
            keyword,
            arguments,
            heredocs,
            is_commented,
            escape,
            copied,
            has_empty_lines,
        })
    }
}

#[cfg(test)]
mod tests;
