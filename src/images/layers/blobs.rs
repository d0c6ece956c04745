//! Layers unpacked, to be hashed.

use std::io::{self, Cursor, Read};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::names::reference::Digest;

/// The digest of what a layer holds, uncompressed; none when it cannot be unpacked.
pub(super) fn diff_id_of(mut source: impl Read) -> Option<Digest> {
    let mut head = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut head).ok()?;
    let mut whole = Read::chain(Cursor::new(&head), source);
    let mut content = Hashing(Sha256::new());
    let unpacked = match head.as_slice() {
        [0x1f, 0x8b, ..] => io::copy(&mut flate2::read::MultiGzDecoder::new(whole), &mut content),
        [0x28, 0xb5, 0x2f, 0xfd] => zstd::stream::read::Decoder::new(whole)
            .and_then(|mut decoder| io::copy(&mut decoder, &mut content)),
        _ => io::copy(&mut whole, &mut content),
    };
    unpacked.ok().map(|_| Digest::from_sha256(content.0.finalize().into()))
}

/// Hashes what is written to it.
struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of bytes for a thread that blocks.
pub(super) struct Pieces {
    received: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Pieces {
    /// What comes out of `received`, until all its senders are gone.
    pub(super) fn new(received: mpsc::Receiver<Bytes>) -> Self {
        Self { received, current: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_layer_is_hashed_unpacked() {
        let content = b"content".repeat(50_000);
        let members = [gzip(&content), gzip(&content)].concat();
        let twice = content.repeat(2);
        for (bytes, content) in [
            (content.clone(), &content),
            (gzip(&content), &content),
            (members, &twice),
            (zstd::encode_all(content.as_slice(), 1).unwrap(), &content),
            (Vec::new(), &Vec::new()),
        ] {
            assert_eq!(diff_id_of(bytes.as_slice()), Some(digest(content)));
        }
        for broken in [&gzip(&content)[..100], &[&gzip(&content)[..], &b"more"[..]].concat()] {
            assert_eq!(diff_id_of(broken), None);
        }
    }
}
