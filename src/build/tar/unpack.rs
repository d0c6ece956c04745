//! Unpacks a compressed tar as it passes, so that its entries can be judged.

use std::io::Write as _;

use flate2::write::MultiGzDecoder;
use tonic::Status;

use super::refused;

/// How many bytes of gzip are unpacked at once: gzip expands by at most a thousand, so the result has about 1
/// MiB.
const GZIP_BYTES: usize = 1 << 10;
/// How many bytes of Zstandard are unpacked at once: it can make 128 KiB from four bytes.
const ZSTD_BYTES: usize = 64;
/// The window of `zstd -19`, 8 MiB. `--long` and `--ultra` take up to 2 GiB of memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Below this unpacked size the ratio of compression is not checked.
pub(in crate::build) const UNPACKED_BYTES: u64 = 256 << 20;
/// Real content, such as logs, is compressed by a factor of ten or twenty.
pub(in crate::build) const RATIO_MAX: u64 = 200;

/// Unpacks a tar.
pub(super) struct Unpack {
    kind: Kind,
    packed: u64,
    unpacked: u64,
}

enum Kind {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl Unpack {
    /// Chosen by the first bytes; `None` if they are not those of a compression.
    pub(super) fn of(begin: &[u8]) -> Result<Option<Self>, Status> {
        let kind = match begin {
            [0x1f, 0x8b, 8, ..] => Kind::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let broken = |error: std::io::Error| Status::internal(error.to_string());
                let mut decoder = zstd::stream::write::Decoder::new(Vec::new()).map_err(broken)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
                Kind::Zstd(Box::new(decoder))
            }
            // BuildKit would unpack these, and the entries could not be judged.
            [b'B', b'Z', b'h', ..] => return Err(not_unpacked("bzip2", "bzip2 -dc")),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(not_unpacked("xz", "xz -dc")),
            _ => return Ok(None),
        };
        Ok(Some(Self { kind, packed: 0, unpacked: 0 }))
    }

    /// For a tar that is not compressed.
    pub(super) fn plain() -> Self {
        Self { kind: Kind::Plain, packed: 0, unpacked: 0 }
    }

    /// How many bytes it reads at once.
    pub(super) fn takes(&self) -> usize {
        match self.kind {
            Kind::Plain => usize::MAX,
            Kind::Gzip(_) => GZIP_BYTES,
            Kind::Zstd(_) => ZSTD_BYTES,
        }
    }

    /// The result of the next bytes; `None` if they need no unpacking.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        let written = match &mut self.kind {
            Kind::Plain => return Ok(None),
            Kind::Gzip(decoder) => decoder.write_all(bytes),
            Kind::Zstd(decoder) => decoder.write_all(bytes),
        };
        self.packed += bytes.len() as u64;
        self.unpacked(written).map(Some)
    }

    /// The result after the last bytes.
    pub(super) fn end(&mut self) -> Result<Vec<u8>, Status> {
        let ended = match &mut self.kind {
            Kind::Plain => return Ok(Vec::new()),
            Kind::Gzip(decoder) => decoder.try_finish(),
            Kind::Zstd(decoder) => decoder.flush(),
        };
        self.unpacked(ended)
    }

    fn unpacked(&mut self, done: std::io::Result<()>) -> Result<Vec<u8>, Status> {
        done.map_err(|error| refused(format!("the compressed tar cannot be unpacked: {error}")))?;
        let unpacked = match &mut self.kind {
            Kind::Plain => Vec::new(),
            Kind::Gzip(decoder) => std::mem::take(decoder.get_mut()),
            Kind::Zstd(decoder) => std::mem::take(decoder.get_mut()),
        };
        self.unpacked += unpacked.len() as u64;
        if self.unpacked > UNPACKED_BYTES && self.unpacked / RATIO_MAX > self.packed {
            let text = format!("the tar is more than {RATIO_MAX} times as large as its compressed form");
            return Err(refused(format!("{text}: send it uncompressed, or leave out empty files")));
        }
        Ok(unpacked)
    }
}

fn not_unpacked(kind: &str, program: &str) -> Status {
    refused(format!(
        "the tar is compressed with {kind}: unpack it with `{program}` first, or compress it with gzip or \
         zstd"
    ))
}
