//! Words as BuildKit's shell lexer (`shell.Lex`) finds them, to the letter: they decide which lines of a
//! Dockerfile are a here-document's text, and which are instructions.

use super::{lines::Version, parts::rune};

/// The limit on nested `${a:-${b:-…}}`: the lexer recurses for each level, and so does BuildKit's.
const NESTING_MAX: usize = 256;

/// How many times the length of a text its nested texts may have in all: each is read again at each level around it,
/// and a Dockerfile of some MiB in 256 levels would take minutes.
const REREAD_MAX: usize = 4;
/// A short text may be nested deeper.
const REREAD_BYTES: usize = 4 << 10;

/// The reason why there are no words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoWords {
    /// BuildKit finds an error as well.
    Malformed,
    /// Whether BuildKit finds one depends on the version of Go's tables of letters; or the text nests too deep.
    Unclear,
}

/// How a text is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexing {
    pub version: Version,
    /// Quotes stay in the words.
    pub raw_quotes: bool,
    /// So do escapes.
    pub raw_escapes: bool,
}

/// The words of a text without any variables, which stay as they are (`SkipUnsetEnv`). Its escape is `\`, as
/// in every search for a here-document.
pub(super) fn words(text: &[u8], lexing: Lexing) -> Result<Vec<Vec<u8>>, NoWords> {
    // `text/scanner` ignores a byte order mark at the beginning.
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut lexer = Lexer {
        left: text,
        lexing,
        raw_escapes: lexing.raw_escapes,
        shared: Vec::new(),
        depth: 0,
        may_reread: text.len().saturating_mul(REREAD_MAX).saturating_add(REREAD_BYTES),
    };
    lexer.until(None, lexing.raw_escapes, false).map(|(_, words)| words)
}

struct Lexer<'a> {
    left: &'a [u8],
    lexing: Lexing,
    /// Whether escapes stay, at this place.
    raw_escapes: bool,
    /// From BuildKit 0.15 on, a nested text empties the word around it.
    shared: Vec<u8>,
    depth: usize,
    /// How many bytes of nested texts may still be read again.
    may_reread: usize,
}

/// The words so far.
#[derive(Default)]
struct Words {
    own: Vec<u8>,
    is_shared: bool,
    found: Vec<Vec<u8>>,
    in_word: bool,
}

fn push(to: &mut Vec<u8>, c: char) {
    to.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

impl Words {
    fn word<'w>(&'w mut self, shared: &'w mut Vec<u8>) -> &'w mut Vec<u8> {
        if self.is_shared { shared } else { &mut self.own }
    }

    fn raw(&mut self, shared: &mut Vec<u8>, c: char) {
        push(self.word(shared), c);
        self.in_word = true;
    }

    fn char(&mut self, shared: &mut Vec<u8>, c: char) {
        if !c.is_whitespace() {
            self.raw(shared, c);
        } else if self.in_word && !self.word(shared).is_empty() {
            let word = std::mem::take(self.word(shared));
            self.found.push(word);
            self.in_word = false;
        }
    }

    fn end(mut self, shared: &mut Vec<u8>) -> Vec<Vec<u8>> {
        let word = std::mem::take(self.word(shared));
        if !word.is_empty() {
            self.found.push(word);
        }
        self.found
    }
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        rune(self.left).map(|(c, _)| c)
    }

    fn next(&mut self) -> Option<char> {
        let (c, width) = rune(self.left)?;
        self.left = self.left.get(width..).unwrap_or_default();
        Some(c)
    }

    /// `processStopOn`: the text before `stop`, and its words.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        is_pattern: bool,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), NoWords> {
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(NoWords::Unclear);
        }
        let found = self.until_stop(stop, is_pattern);
        self.depth -= 1;
        self.raw_escapes = before;
        found
    }

    fn until_stop(
        &mut self,
        stop: Option<char>,
        is_pattern: bool,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), NoWords> {
        let mut result = Vec::new();
        self.shared.clear();
        let mut words = Words { is_shared: self.lexing.version >= Version::V0_15, ..Words::default() };
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok((result, words.end(&mut self.shared)));
            }
            let special = match c {
                '$' => Some(self.dollar()?),
                '\'' => Some(self.single_quotes(is_pattern)?),
                '"' => Some(self.double_quotes(is_pattern)?),
                '<' if self.lexing.version >= Version::V0_22 => Some(self.less()),
                _ => None,
            };
            if let Some(text) = special {
                let mut left = text.as_slice();
                while c == '$'
                    && let Some((c, width)) = rune(left)
                {
                    words.char(&mut self.shared, c);
                    left = left.get(width..).unwrap_or_default();
                }
                if c != '$' {
                    words.word(&mut self.shared).extend_from_slice(&text);
                    words.in_word = true;
                }
                result.extend_from_slice(&text);
                continue;
            }
            self.next();
            if c != '\\' {
                words.char(&mut self.shared, c);
                push(&mut result, c);
                continue;
            }
            if self.raw_escapes {
                words.raw(&mut self.shared, c);
                push(&mut result, c);
            }
            let Some(c) = self.next() else { break };
            words.raw(&mut self.shared, c);
            push(&mut result, c);
        }
        match stop {
            Some(_) => Err(NoWords::Malformed),
            None => Ok((result, words.end(&mut self.shared))),
        }
    }

    fn single_quotes(&mut self, is_pattern: bool) -> Result<Vec<u8>, NoWords> {
        let doubles = is_pattern && self.lexing.version >= Version::V0_34;
        let mut result = Vec::new();
        self.next();
        if self.lexing.raw_quotes {
            result.push(b'\'');
        }
        loop {
            match self.next().ok_or(NoWords::Malformed)? {
                '\'' => break,
                c => {
                    if c == '\\' && doubles {
                        push(&mut result, c);
                    }
                    push(&mut result, c);
                }
            }
        }
        if self.lexing.raw_quotes {
            result.push(b'\'');
        }
        Ok(result)
    }

    fn double_quotes(&mut self, is_pattern: bool) -> Result<Vec<u8>, NoWords> {
        let is_new = self.lexing.version >= Version::V0_34;
        let mut result = Vec::new();
        self.next();
        if self.lexing.raw_quotes {
            result.push(b'"');
        }
        loop {
            match self.peek().ok_or(NoWords::Malformed)? {
                '"' => break,
                '$' => result.extend_from_slice(&self.dollar()?),
                '\\' => {
                    self.next();
                    let c = self.peek();
                    let is_escape = matches!(c, Some('"' | '$' | '\\'));
                    let stays = self.raw_escapes
                        && (!is_new || is_escape || (c.is_some() && (!self.lexing.raw_quotes || is_pattern)));
                    if stays {
                        result.push(b'\\');
                    }
                    match c {
                        None => {}
                        Some(c) if is_escape => {
                            self.next();
                            push(&mut result, c);
                        }
                        Some(_) => result.push(b'\\'),
                    }
                }
                c => {
                    self.next();
                    push(&mut result, c);
                }
            }
        }
        self.next();
        if self.lexing.raw_quotes {
            result.push(b'"');
        }
        Ok(result)
    }

    /// `processPossibleHeredoc`: blanks between `<<` and the name are part of the word.
    fn less(&mut self) -> Vec<u8> {
        self.next();
        if self.peek() != Some('<') {
            return b"<".to_vec();
        }
        self.next();
        let mut result = b"<<".to_vec();
        while let Some(c) = self.peek().filter(|c| matches!(c, '\t' | '\r' | ' ')) {
            self.next();
            push(&mut result, c);
        }
        result
    }

    /// `processDollar`, for a variable that is not set.
    fn dollar(&mut self) -> Result<Vec<u8>, NoWords> {
        let text = self.variable()?;
        self.may_reread = self.may_reread.checked_sub(text.len()).ok_or(NoWords::Unclear)?;
        Ok(text)
    }

    fn variable(&mut self) -> Result<Vec<u8>, NoWords> {
        self.next();
        let mut result = b"$".to_vec();
        if self.peek() != Some('{') {
            result.extend_from_slice(&self.name(false)?);
            return Ok(result);
        }
        self.next();
        result.push(b'{');
        if matches!(self.peek(), None | Some('{' | '}' | ':')) {
            return Err(NoWords::Malformed);
        }
        result.extend_from_slice(&self.name(true)?);
        let mut operator = self.next().ok_or(NoWords::Malformed)?;
        push(&mut result, operator);
        match operator {
            '}' => return Ok(result),
            ':' => {
                operator = self.next().ok_or(NoWords::Malformed)?;
                push(&mut result, operator);
                let is_pattern = matches!(operator, '#' | '%');
                if is_pattern && self.lexing.version >= Version::V0_16 {
                    return Err(NoWords::Malformed);
                }
                result.extend_from_slice(&self.until(Some('}'), is_pattern, is_pattern)?.0);
            }
            '+' | '-' | '?' | '#' | '%' => {
                let is_pattern = matches!(operator, '#' | '%');
                result.extend_from_slice(&self.until(Some('}'), is_pattern, is_pattern)?.0);
            }
            '/' => {
                if self.peek() == Some('/') {
                    self.next();
                }
                result.extend_from_slice(&self.until(Some('/'), true, true)?.0);
                result.push(b'/');
                result.extend_from_slice(&self.until(Some('}'), true, false)?.0);
            }
            _ => return Err(NoWords::Malformed),
        }
        result.push(b'}');
        Ok(result)
    }

    fn name(&mut self, in_braces: bool) -> Result<Vec<u8>, NoWords> {
        let mut name = Vec::new();
        let mut is_number = false;
        while let Some(c) = self.peek() {
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.next();
                return Ok(vec![c as u8]);
            }
            if !c.is_ascii() && (c.is_alphabetic() || c.is_numeric()) {
                // Outside of braces the text is the same either way.
                if in_braces {
                    return Err(NoWords::Unclear);
                }
                break;
            }
            is_number |= name.is_empty() && c.is_ascii_digit();
            let belongs = if is_number { c.is_ascii_digit() } else { c.is_ascii_alphanumeric() || c == '_' };
            if !belongs {
                break;
            }
            self.next();
            push(&mut name, c);
        }
        Ok(name)
    }
}
