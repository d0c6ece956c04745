//! Makes the authority that gRPC's C core and its Go library send acceptable to the `http` crate.
//!
//! On a Unix socket, clients on the C core (Python, Ruby, PHP, C++), and Go's with a dialer of their own, such as the
//! kubelet, send the socket's percent-encoded path as `:authority`: `%2Frun%2Fwharf%2Fwharf.sock`. A host may be percent-encoded (RFC 3986, 3.2.2), but the `http`
//! crate does not allow it, and h2 then resets the stream before any code of wharfd sees the request. Therefore
//! each `%` of an authority is replaced as it is read, by a `-`, or in Huffman code by a `.`. The length stays the same, and so do the
//! client's and h2's dynamic tables (RFC 7541, 2.3.2). wharfd itself does not use the authority.

use super::huffman::Coded;

/// The name, and its index in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: usize = 1;

/// Frames that contain header fields, and their flags (RFC 9113, 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
const FRAME_HEADER_BYTES: usize = 9;

/// Reads a connection's bytes beside h2. It leaves malformed bytes as they are: h2 refuses them.
pub(super) struct Authorities {
    frame: Frame,
    fields: Fields,
}

/// The place of the next byte in the frames.
enum Frame {
    /// In a part without header fields, which ends after `left` bytes.
    Skipped { left: usize },
    /// In a frame's header, of which `bytes` holds the last ones.
    Header { bytes: [u8; FRAME_HEADER_BYTES], have: usize },
    /// At the length of the padding of a `HEADERS` frame.
    Padding { payload: usize, priority: usize },
    /// In header fields, before them `priority` bytes and behind them `padding`.
    Fields { priority: usize, left: usize, padding: usize },
    /// Behind something malformed.
    Lost,
}

/// The place of the next byte in the header fields (RFC 7541, 6).
#[derive(Clone, Copy)]
enum Fields {
    /// At the begin of a field.
    Next,
    /// In an index that takes several bytes; a value follows if the field is a literal.
    Index { is_literal: bool },
    /// At the length of a string.
    Length(Text),
    /// In a length that takes several bytes.
    Long { text: Text, is_huffman: bool, length: usize, shift: u32 },
    /// In a string.
    Text { text: Text, left: usize },
}

#[derive(Clone, Copy)]
enum Text {
    /// A name; `matched` bytes of it are those of `:authority`, and `None` means that another byte came.
    Name {
        matched: Option<usize>,
    },
    Value(Value),
}

#[derive(Clone, Copy)]
enum Value {
    Other,
    Authority,
    /// An authority in Huffman code.
    Coded(Coded),
}

impl Authorities {
    /// Begins at the first byte of a connection, whose preface has `preface` bytes.
    pub(super) fn new(preface: usize) -> Self {
        Self { frame: Frame::Skipped { left: preface }, fields: Fields::Next }
    }

    /// Fixes the authorities in the next bytes of the connection.
    pub(super) fn fix(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while let Some(byte) = bytes.get_mut(at) {
            if let Frame::Skipped { left } = self.frame {
                let skipped = left.min(bytes.len() - at);
                self.frame = Frame::skipped(left - skipped);
                at += skipped;
                continue;
            }
            let Some(next) = self.after(byte) else {
                self.frame = Frame::Lost;
                return;
            };
            self.frame = next;
            at += 1;
        }
    }

    /// The place after `byte`; `None` if it is malformed.
    fn after(&mut self, byte: &mut u8) -> Option<Frame> {
        match self.frame {
            Frame::Lost | Frame::Skipped { .. } => None,
            Frame::Header { mut bytes, have } => {
                *bytes.get_mut(have)? = *byte;
                match have + 1 {
                    FRAME_HEADER_BYTES => Frame::begun(bytes),
                    have => Some(Frame::Header { bytes, have }),
                }
            }
            Frame::Padding { payload, priority } => {
                let padding = usize::from(*byte);
                let left = payload.checked_sub(1 + priority + padding)?;
                Some(Frame::of_fields(priority, left, padding))
            }
            Frame::Fields { priority: 0, left, padding } => {
                self.fields = self.fields.after(byte)?;
                Some(Frame::of_fields(0, left - 1, padding))
            }
            Frame::Fields { priority, left, padding } => Some(Frame::of_fields(priority - 1, left, padding)),
        }
    }
}

impl Frame {
    fn next() -> Self {
        Self::Header { bytes: [0; FRAME_HEADER_BYTES], have: 0 }
    }

    fn skipped(left: usize) -> Self {
        if left == 0 { Self::next() } else { Self::Skipped { left } }
    }

    fn of_fields(priority: usize, left: usize, padding: usize) -> Self {
        if priority + left == 0 { Self::skipped(padding) } else { Self::Fields { priority, left, padding } }
    }

    /// A frame's payload, by its header; `None` if the payload is too short.
    fn begun([high, middle, low, kind, flags, ..]: [u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        let payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
        match kind {
            HEADERS if flags & PADDED != 0 && payload > 0 => Some(Self::Padding { payload, priority }),
            HEADERS => Some(Self::of_fields(priority, payload.checked_sub(priority)?, 0)),
            CONTINUATION => Some(Self::of_fields(0, payload, 0)),
            _ => Some(Self::skipped(payload)),
        }
    }
}

impl Fields {
    /// The place after `byte`, which is replaced if it is a `%` of an authority; `None` if it is malformed.
    fn after(self, byte: &mut u8) -> Option<Self> {
        match self {
            Self::Next => Some(Self::begun(*byte)),
            Self::Index { .. } if *byte & 0x80 != 0 => Some(self),
            Self::Index { is_literal: false } => Some(Self::Next),
            Self::Index { is_literal: true } => Some(Self::Length(Text::Value(Value::Other))),
            Self::Length(text) => {
                let (is_huffman, length) = (*byte & 0x80 != 0, usize::from(*byte & 0x7f));
                if length == 0x7f {
                    Some(Self::Long { text, is_huffman, length, shift: 0 })
                } else {
                    Some(Self::of_length(text, is_huffman, length))
                }
            }
            Self::Long { text, is_huffman, length, shift } => {
                // No length that h2 accepts takes more.
                if shift > 21 {
                    return None;
                }
                let length = length + (usize::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    return Some(Self::of_length(text, is_huffman, length));
                }
                Some(Self::Long { text, is_huffman, length, shift: shift + 7 })
            }
            Self::Text { text, left } => {
                let text = match text {
                    Text::Name { matched } => {
                        let matched = matched.filter(|at| AUTHORITY.get(*at) == Some(byte)).map(|at| at + 1);
                        Text::Name { matched }
                    }
                    Text::Value(Value::Coded(coded)) => Text::Value(Value::Coded(coded.after(byte))),
                    Text::Value(Value::Authority) if *byte == b'%' => {
                        *byte = b'-';
                        text
                    }
                    Text::Value(Value::Authority | Value::Other) => text,
                };
                Some(Self::of_text(text, left - 1))
            }
        }
    }

    /// The place behind the first byte of a field.
    fn begun(byte: u8) -> Self {
        let (is_literal, index_max) = match byte {
            0x80.. => (false, 0x7f),
            0x40.. => (true, 0x3f),
            // A new size of the dynamic table.
            0x20.. => (false, 0x1f),
            _ => (true, 0x0f),
        };
        match usize::from(byte & index_max) {
            index if index == usize::from(index_max) => Self::Index { is_literal },
            _ if !is_literal => Self::Next,
            0 => Self::Length(Text::Name { matched: Some(0) }),
            AUTHORITY_INDEX => Self::Length(Text::Value(Value::Authority)),
            _ => Self::Length(Text::Value(Value::Other)),
        }
    }

    /// A name in Huffman code does not have to be known: both send the authority's by its index.
    fn of_length(text: Text, is_huffman: bool, length: usize) -> Self {
        let text = match text {
            _ if !is_huffman => text,
            Text::Name { .. } => Text::Name { matched: None },
            Text::Value(Value::Authority) => Text::Value(Value::Coded(Coded::default())),
            Text::Value(_) => text,
        };
        Self::of_text(text, length)
    }

    fn of_text(text: Text, left: usize) -> Self {
        match text {
            _ if left > 0 => Self::Text { text, left },
            Text::Name { matched } => {
                let is_authority = matched == Some(AUTHORITY.len());
                Self::Length(Text::Value(if is_authority { Value::Authority } else { Value::Other }))
            }
            Text::Value(_) => Self::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    /// `bytes` after the preface, in pieces of `size` bytes.
    fn fixed(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = [b"PRI".as_slice(), bytes].concat();
        let mut authorities = Authorities::new(3);
        bytes.chunks_mut(size).for_each(|piece| authorities.fix(piece));
        bytes.split_off(3)
    }

    #[test]
    fn percents_of_an_authority_are_replaced_and_nothing_else() {
        let long = format!("%2F{}", "x".repeat(300));
        let long_value = [&[0x7f, 0xb0, 0x01][..], long.as_bytes()].concat();
        assert_eq!(long.len(), 0x7f + 0x30 + (1 << 7));
        let fields = [
            vec![0x3f, 0xe1, 0x1f],                                        // the size of the table
            [vec![0x40], text(":authority"), text("%2Frun%2Fw")].concat(), // a name of its own
            [vec![0x41], text("%2Frun%2Fw")].concat(),                     // an indexed name
            [vec![0x01], text("%2Frun")].concat(),                         // without indexing
            [vec![0x11], text("%2Frun")].concat(),                         // never indexed
            [vec![0x41], long_value].concat(),                             // a length in two bytes
            [vec![0x41, 0x82], b"%2".to_vec()].concat(),                   // Huffman code
            [vec![0x40], text(":authorit"), text("%2F")].concat(),         // other names
            [vec![0x40], text(":authority2"), text("%2F")].concat(),
            [vec![0x44], text("/a%2Fb")].concat(),
            [vec![0x7f, 0x01], text("%2F")].concat(), // an index of two bytes
            vec![0x82, 0xbe, 0xff, 0x80, 0x01],       // indexed fields
        ]
        .concat();
        let expected = String::from_utf8_lossy(&fields)
            .replace("\u{a}:authority\u{a}%2Frun%2Fw", "\u{a}:authority\u{a}-2Frun-2Fw")
            .replace("A\u{a}%2Frun%2Fw", "A\u{a}-2Frun-2Fw")
            .replace("\u{1}\u{6}%2Frun", "\u{1}\u{6}-2Frun")
            .replace("\u{11}\u{6}%2Frun", "\u{11}\u{6}-2Frun")
            .replace("%2Fxxx", "-2Fxxx");
        let (one, other) = fields.split_at(17);
        let padded = [&[4], &[0; PRIORITY_BYTES][..], &fields, b"%%%%"].concat();
        let frames = [
            frame(4, 0, b"%%%%%%"),
            frame(4, 0, b""),
            frame(HEADERS, 0, one),
            frame(CONTINUATION, 0, b""),
            frame(CONTINUATION, 4, other),
            frame(0, 0, &[vec![0x41], text("%2Frun")].concat()),
            frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
            frame(HEADERS, 4, &fields),
        ]
        .concat();
        let whole = fixed(&frames, frames.len() + 3);
        let count = |text: &str, part: &str| text.matches(part).count();
        let text = String::from_utf8_lossy(&whole);
        assert!(text.contains(&expected));
        assert_eq!((count(&expected, "-2F"), count(&text, "-2F")), (7, 20), "one is in two frames");
        for size in 1..40 {
            assert_eq!(fixed(&frames, size), whole, "{size}");
        }
    }

    #[test]
    fn malformed_bytes_stay_as_they_are() {
        let authority = [vec![0x41], text("%2Frun")].concat();
        for begin in [
            frame(HEADERS, PADDED, &[200, 0x82]),
            frame(HEADERS, PRIORITY, &[0; 3]),
            frame(HEADERS, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let bytes = [begin, frame(HEADERS, 4, &authority)].concat();
            for size in [1, 7, 100] {
                assert_eq!(fixed(&bytes, size), bytes);
            }
        }
    }
}
