//! The frames of a Zstandard file, and the window that each needs (RFC 8878). wharfd follows them without
//! unpacking: a decoder reads ahead, and allocates the window of a frame that a reader never reaches.

use crate::build::tar::entry::at_most;

/// The numbers with which frames begin; of those to skip, the last four bits are free.
const MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE: u32 = 0x184d_2a50;

#[derive(Debug)]
enum State {
    Magic,
    /// The length of a frame to skip.
    Length,
    Descriptor,
    /// The rest of a frame's header, with this descriptor.
    Header(u8),
    Block,
    /// Bytes to skip, and whether a frame ends with them.
    Skip(u64, bool),
    /// Nothing that a decoder reads.
    Broken,
}

/// Follows the frames of one file.
#[derive(Debug)]
pub(super) struct Frames {
    window: u64,
    state: State,
    /// The bytes of a field, as far as they have come.
    gathered: [u8; 16],
    length: usize,
    /// Whether the frame ends with a checksum.
    checksum: bool,
}

impl Frames {
    /// Frames with windows of at most this number of bytes.
    pub(super) fn new(window: u64) -> Self {
        Self { window, state: State::Magic, gathered: [0; 16], length: 0, checksum: false }
    }

    /// Follows the next bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let wanted = match &mut self.state {
                State::Broken => return Ok(()),
                State::Skip(left, ends) => {
                    let now = at_most(*left, bytes.len());
                    bytes = bytes.get(now..).unwrap_or_default();
                    *left -= now as u64;
                    if *left == 0 {
                        self.state = if *ends { State::Magic } else { State::Block };
                    }
                    continue;
                }
                State::Magic | State::Length => 4,
                State::Descriptor => 1,
                State::Header(descriptor) => header_bytes(*descriptor),
                State::Block => 3,
            };
            let (now, rest) = bytes.split_at(wanted.saturating_sub(self.length).min(bytes.len()));
            for (place, byte) in self.gathered.iter_mut().skip(self.length).zip(now) {
                *place = *byte;
            }
            self.length += now.len();
            bytes = rest;
            if self.length == wanted {
                self.length = 0;
                self.field()?;
            }
        }
        Ok(())
    }

    /// A field has come whole.
    fn field(&mut self) -> Result<(), String> {
        let number = |at, length| little_endian(&self.gathered, at, length);
        self.state = match self.state {
            State::Magic => match u32::try_from(number(0, 4)).unwrap_or_default() {
                MAGIC => State::Descriptor,
                magic if magic & !15 == SKIPPABLE => State::Length,
                _ => State::Broken,
            },
            State::Length => skip(number(0, 4), true),
            State::Descriptor => {
                let descriptor = self.gathered.first().copied().unwrap_or_default();
                self.checksum = descriptor & 4 != 0;
                match header_bytes(descriptor) {
                    0 => State::Block,
                    _ => State::Header(descriptor),
                }
            }
            State::Header(descriptor) => {
                let window = self.window_of(descriptor);
                if window > self.window {
                    return Err(format!(
                        "has a Zstandard window of {} MiB, and may have one of {} MiB in this build: compress it \
                         without `--long` and `--ultra`",
                        window.div_ceil(1 << 20),
                        self.window >> 20
                    ));
                }
                State::Block
            }
            State::Block => {
                let block = number(0, 3);
                // The bytes of a run are one.
                let size = if block >> 1 & 3 == 1 { 1 } else { block >> 3 };
                let ends = block & 1 == 1;
                skip(size + if ends && self.checksum { 4 } else { 0 }, ends)
            }
            State::Skip(..) | State::Broken => State::Broken,
        };
        Ok(())
    }

    fn window_of(&self, descriptor: u8) -> u64 {
        if is_single(descriptor) {
            let at = dictionary_bytes(descriptor);
            return match size_bytes(descriptor) {
                2 => little_endian(&self.gathered, at, 2) + 256,
                length => little_endian(&self.gathered, at, length),
            };
        }
        let byte = u64::from(self.gathered.first().copied().unwrap_or_default());
        let base = 1_u64 << (10 + (byte >> 3));
        base + base / 8 * (byte & 7)
    }
}

fn skip(size: u64, ends: bool) -> State {
    match (size, ends) {
        (0, true) => State::Magic,
        (0, false) => State::Block,
        (size, ends) => State::Skip(size, ends),
    }
}

/// Whether a frame's content is its window.
fn is_single(descriptor: u8) -> bool {
    descriptor & 0x20 != 0
}

fn dictionary_bytes(descriptor: u8) -> usize {
    match descriptor & 3 {
        3 => 4,
        length => usize::from(length),
    }
}

/// The length of the field with the content's size.
fn size_bytes(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(is_single(descriptor)),
        power => 1 << power,
    }
}

/// The length of a frame's header behind the descriptor: at most 13.
fn header_bytes(descriptor: u8) -> usize {
    usize::from(!is_single(descriptor)) + dictionary_bytes(descriptor) + size_bytes(descriptor)
}

fn little_endian(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.iter().skip(at).take(length).rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}
