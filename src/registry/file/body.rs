//! The content of a file: a server may pack what it sends, and Go's client unpacks that.

use std::io::Write as _;

use bytes::{Buf as _, Bytes};
use flate2::write::MultiGzDecoder;
use http::header;

use super::super::{
    answer::Answer,
    error::{Error, Kind},
};

/// How much is unpacked at once: a thousand times as much at most comes of it.
const PACKED_BYTES: usize = 1 << 10;

/// The content of an answer.
pub(super) struct Content {
    answer: Answer,
    packed: Option<Packed>,
}

struct Packed {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Received, and not unpacked yet.
    input: Bytes,
}

impl Content {
    pub(super) fn of(answer: Answer) -> Self {
        let coding = answer.headers.get(header::CONTENT_ENCODING);
        let is_packed = coding.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"gzip"));
        let packed = || Packed { decoder: MultiGzDecoder::new(Vec::new()), input: Bytes::new() };
        Self { packed: is_packed.then(packed), answer }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(packed) = &mut self.packed else { return self.answer.next().await };
        loop {
            if packed.input.is_empty() {
                match self.answer.next().await? {
                    Some(input) => packed.input = input,
                    None => return packed.end(),
                }
            }
            if let Some(piece) = packed.next()? {
                return Ok(Some(piece));
            }
        }
    }
}

impl Packed {
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.input.is_empty() {
            let now = self.input.chunk().get(..self.input.len().min(PACKED_BYTES)).unwrap_or_default();
            let length = now.len();
            self.decoder.write_all(now).map_err(broken)?;
            self.input.advance(length);
            if let Some(piece) = self.taken() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<Bytes>, Error> {
        self.decoder.try_finish().map_err(broken)?;
        Ok(self.taken())
    }

    fn taken(&mut self) -> Option<Bytes> {
        let piece = std::mem::take(self.decoder.get_mut());
        (!piece.is_empty()).then(|| piece.into())
    }
}

fn broken(cause: std::io::Error) -> Error {
    Error::new(Kind::Other, "what it has packed with gzip cannot be unpacked").caused_by(cause)
}
