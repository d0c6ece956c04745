//! The blocks of an xz file (The .xz File Format, 1.2.1). From 5.6 on, `xz` unpacks each block whose header tells its
//! sizes in a thread of its own, and keeps the whole block in memory. The blocks are followed without unpacking them.

use super::costs::too_large;
use crate::build::tar::entry::at_most;

/// How many blocks are counted as held at once, the largest ones: two for each of sixteen threads.
const THREADS: usize = 32;

/// The sizes of the checks, by their type.
const CHECK_BYTES: [u64; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

const HEADER_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

#[derive(Debug, Clone, Copy)]
enum State {
    /// Four bytes of padding, or the beginning of a stream.
    Padding,
    /// The rest of a stream's header.
    Stream,
    /// The size of a block's header, or the beginning of the index.
    Block,
    /// A block's header, of so many bytes behind the first.
    Header(usize),
    /// The first byte of a chunk of LZMA2.
    Chunk,
    /// The sizes of a chunk, with its first byte.
    Sizes(u8),
    /// Bytes to skip.
    Skip(u64, Next),
    /// A number of the index: how many follow it, if that is known.
    Index(Option<u64>),
    /// Nothing that `xz` reads.
    Broken,
}

/// What comes behind skipped bytes.
#[derive(Debug, Clone, Copy)]
enum Next {
    Chunk,
    Block,
    Padding,
}

/// Follows the blocks of one file.
#[derive(Debug)]
pub(super) struct Blocks {
    max: u64,
    state: State,
    gathered: Vec<u8>,
    /// The size of the check behind each block.
    check: u64,
    /// The bytes of the block's data, or of the index, as far as they have come.
    length: u64,
    /// The number that comes, and its bits so far.
    number: (u64, u32),
    /// The largest blocks that are held whole.
    largest: Vec<u64>,
}

impl Blocks {
    /// Blocks that take at most so many bytes.
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            state: State::Padding,
            gathered: Vec::new(),
            check: 0,
            length: 0,
            number: (0, 0),
            largest: Vec::new(),
        }
    }

    /// How many bytes are held at once.
    pub(super) fn held(&self) -> u64 {
        self.largest.iter().fold(0, |all, block| all.saturating_add(*block))
    }

    /// Whether something has come that is no xz: `xz` ends with an error there.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// Follows the next bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let [first, rest @ ..] = bytes {
            let wanted = match &mut self.state {
                State::Broken => return Ok(()),
                State::Skip(left, next) => {
                    let now = at_most(*left, bytes.len());
                    bytes = bytes.get(now..).unwrap_or_default();
                    *left -= now as u64;
                    if *left == 0 {
                        self.state = (*next).into();
                    }
                    continue;
                }
                State::Index(left) => {
                    let left = *left;
                    self.index(*first, left);
                    bytes = rest;
                    continue;
                }
                State::Sizes(1 | 2) => 2,
                State::Padding | State::Sizes(_) => 4,
                State::Stream => 8,
                State::Block | State::Chunk => 1,
                State::Header(length) => *length,
            };
            let (now, rest) = bytes.split_at(wanted.saturating_sub(self.gathered.len()).min(bytes.len()));
            self.gathered.extend_from_slice(now);
            bytes = rest;
            if self.gathered.len() == wanted {
                let field = std::mem::take(&mut self.gathered);
                self.state = self.field(&field)?;
            }
        }
        Ok(())
    }

    /// A field has come whole.
    fn field(&mut self, field: &[u8]) -> Result<State, String> {
        let first = field.first().copied().unwrap_or_default();
        Ok(match self.state {
            State::Padding if field == [0; 4] => State::Padding,
            State::Padding if HEADER_MAGIC.starts_with(field) => State::Stream,
            State::Stream => match field {
                [b'Z', 0, 0, check @ 0..16, ..] => {
                    self.check = CHECK_BYTES.get(usize::from(*check)).copied().unwrap_or_default();
                    State::Block
                }
                _ => State::Broken,
            },
            State::Block if first == 0 => {
                self.length = 1;
                State::Index(None)
            }
            State::Block => State::Header(4 * usize::from(first) + 3),
            State::Header(_) => self.header(field)?,
            State::Chunk => {
                self.length += 1;
                match first {
                    0 => skip(pad(self.length) + self.check, Next::Block),
                    1 | 2 | 0x80.. => State::Sizes(first),
                    _ => State::Broken,
                }
            }
            State::Sizes(control) => {
                let [.., high, low] = field else { return Ok(State::Broken) };
                let properties = u64::from(control >= 0xc0);
                let left = u64::from(u16::from_be_bytes([*high, *low])) + 1 + properties;
                self.length += field.len() as u64 + left;
                skip(left, Next::Chunk)
            }
            State::Padding | State::Skip(..) | State::Index(_) | State::Broken => State::Broken,
        })
    }

    fn header(&mut self, field: &[u8]) -> Result<State, String> {
        let Some((flags, mut rest)) = field.split_first() else { return Ok(State::Broken) };
        self.length = 0;
        if flags & 0x3c != 0 {
            return Ok(State::Broken);
        }
        let mut sizes = [None; 2];
        for (bit, size) in [0x40, 0x80].into_iter().zip(&mut sizes) {
            if flags & bit != 0 {
                let Some(number) = number(&mut rest) else { return Ok(State::Broken) };
                *size = Some(number);
            }
        }
        let [compressed, uncompressed] = sizes;
        if let (Some(compressed), Some(uncompressed)) = (compressed, uncompressed) {
            let Some(window) = window(&mut rest, flags & 3) else { return Ok(State::Broken) };
            self.hold(compressed.saturating_add(uncompressed).saturating_add(window))?;
        }
        Ok(match compressed {
            Some(0) => State::Broken,
            Some(length) => skip(length.saturating_add(pad(length) + self.check), Next::Block),
            None => State::Chunk,
        })
    }

    fn hold(&mut self, block: u64) -> Result<(), String> {
        self.largest.push(block);
        if self.largest.len() > THREADS {
            self.largest.sort_unstable();
            self.largest.remove(0);
        }
        if self.held() > self.max {
            return Err(too_large(self.max));
        }
        Ok(())
    }

    /// A byte of the index.
    fn index(&mut self, byte: u8, left: Option<u64>) {
        self.length += 1;
        let (number, bits) = self.number;
        let number = number | u64::from(byte & 0x7f).checked_shl(bits).unwrap_or_default();
        if byte & 0x80 != 0 {
            self.number = (number, bits + 7);
            if bits >= 56 {
                self.state = State::Broken;
            }
            return;
        }
        self.number = (0, 0);
        let left = match left {
            // Two numbers for each block.
            None => number.saturating_mul(2),
            Some(left) => left - 1,
        };
        self.state = match left {
            // The index's own check, and the stream's footer.
            0 => skip(pad(self.length) + 4 + 12, Next::Padding),
            left => State::Index(Some(left)),
        };
    }
}

/// The window of a block, which the last of its filters has, behind `before` others.
fn window(bytes: &mut &[u8], before: u8) -> Option<u64> {
    const LZMA2: u64 = 0x21;
    let mut filter = || {
        let (id, length) = (number(bytes)?, usize::try_from(number(bytes)?).ok()?);
        let (properties, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some((id, properties))
    };
    for _ in 0..before {
        filter()?;
    }
    match filter()? {
        (LZMA2, [bits @ 0..40]) => Some(u64::from(2 | bits & 1) << (bits / 2 + 11)),
        (LZMA2, [40]) => Some(u64::from(u32::MAX)),
        _ => None,
    }
}

impl From<Next> for State {
    fn from(next: Next) -> Self {
        match next {
            Next::Chunk => Self::Chunk,
            Next::Block => Self::Block,
            Next::Padding => Self::Padding,
        }
    }
}

fn skip(bytes: u64, next: Next) -> State {
    if bytes == 0 { next.into() } else { State::Skip(bytes, next) }
}

/// The padding behind so many bytes.
fn pad(length: u64) -> u64 {
    length.wrapping_neg() % 4
}

/// A number of variable length.
pub(super) fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for bits in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << bits;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
