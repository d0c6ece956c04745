//! Unpacks layers and hashes their content.

use std::io::{self, Cursor, Read};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{
    names::reference::Digest,
    store::{LayerFact, Packing},
};

/// The facts about the layer in a blob; `None` if it cannot be unpacked.
pub(super) fn layer_of(source: impl Read) -> Option<LayerFact> {
    let mut source = Counting(source, 0);
    let mut head = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut head).ok()?;
    let mut whole = Read::chain(Cursor::new(&head), &mut source);
    let mut content = Hashing(Sha256::new());
    let (packing, unpacked) = match head.as_slice() {
        [0x1f, 0x8b, ..] => {
            (Packing::Gzip, io::copy(&mut flate2::read::MultiGzDecoder::new(whole), &mut content))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let unpacked = zstd::stream::read::Decoder::new(whole)
                .and_then(|mut decoder| io::copy(&mut decoder, &mut content));
            (Packing::Zstd, unpacked)
        }
        _ => (Packing::Plain, io::copy(&mut whole, &mut content)),
    };
    unpacked.ok()?;
    // A decoder may stop before the end of the blob.
    io::copy(&mut source, &mut io::sink()).ok()?;
    let diff_id = Digest::from_sha256(content.0.finalize().into());
    Some(LayerFact { diff_id, packing, size: source.1 })
}

/// Counts the bytes that are read.
struct Counting<R>(R, u64);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1 += count as u64;
        Ok(count)
    }
}

/// Hashes the bytes that are written.
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

/// A stream of bytes for a thread that may block.
pub(super) struct Pieces {
    received: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Pieces {
    /// Reads the pieces from `received` until all its senders are gone.
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
        for (bytes, packing, content) in [
            (content.clone(), Packing::Plain, &content),
            (gzip(&content), Packing::Gzip, &content),
            (members, Packing::Gzip, &twice),
            (zstd::encode_all(content.as_slice(), 1).unwrap(), Packing::Zstd, &content),
            (Vec::new(), Packing::Plain, &Vec::new()),
        ] {
            let layer = LayerFact { diff_id: digest(content), packing, size: bytes.len() as u64 };
            assert_eq!(layer_of(bytes.as_slice()), Some(layer));
        }
        for broken in [&gzip(&content)[..100], &[&gzip(&content)[..], &b"more"[..]].concat()] {
            assert_eq!(layer_of(broken), None);
        }
    }
}
