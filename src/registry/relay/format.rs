//! The format of a layer, by its first bytes.

use super::super::error::{Error, Kind};

/// The numbers with which Zstandard's frames, and the frames that a reader skips, begin (RFC 8878, 3.1).
const ZSTD: u32 = 0xFD2F_B528;
const SKIPPED: u32 = 0x184D_2A50;
const MAGIC_BYTES: usize = 4;

/// Refuses a layer in Zstandard as it passes.
#[derive(Debug, Default)]
pub(super) struct NotZstd {
    /// The first bytes, until there are enough of them.
    head: Vec<u8>,
    is_known: bool,
}

impl NotZstd {
    /// Looks at the next piece. An engine has at most three bytes of a layer that is refused.
    pub(super) fn look_at(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.is_known {
            return Ok(());
        }
        self.head.extend(piece.iter().take(MAGIC_BYTES - self.head.len()));
        let Some(magic) = self.head.first_chunk::<MAGIC_BYTES>() else { return Ok(()) };
        let magic = u32::from_le_bytes(*magic);
        self.is_known = true;
        if magic == ZSTD || (SKIPPED..SKIPPED + 16).contains(&magic) {
            return Err(Error::new(
                Kind::Unsupported,
                "a layer is compressed with zstd, which this engine does not unpack safely; use an image whose layers are \
                 compressed with gzip, or an engine with the containerd image store",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_let_through(layer: &[u8], piece: usize) -> bool {
        let mut format = NotZstd::default();
        layer.chunks(piece).all(|piece| format.look_at(piece).is_ok())
    }

    #[test]
    fn zstandard_is_refused_in_any_pieces() {
        let zstd = zstd::encode_all(&b"layer"[..], 3).unwrap();
        let skipped = [&b"\x5f\x2a\x4d\x18\x01\0\0\0x"[..], &zstd].concat();
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0";
        for piece in 1..=9 {
            assert!(!is_let_through(&zstd, piece) && !is_let_through(&skipped, piece), "{piece}");
            // The number counts at the beginning alone.
            assert!(
                is_let_through(gzip, piece) && is_let_through(&[&gzip[..], &zstd].concat(), piece),
                "{piece}"
            );
            assert!(is_let_through(b"", piece) && is_let_through(&zstd[..3], piece), "{piece}");
            assert!(is_let_through(b"\x60\x2a\x4d\x18", piece) && is_let_through(b"\x4f\x2a\x4d\x18", piece));
        }
    }
}
