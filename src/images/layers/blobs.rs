//! Blobs of an image on their way out of the engine, hashed as they are and uncompressed.

use std::{
    collections::HashMap,
    io::{self, Cursor, Read},
};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::names::reference::Digest;

/// containerd reads no larger manifest or config (`remotes` and `images` limit them to 8 MiB).
const JSON_BYTES_MAX: u64 = 8 << 20;
/// All manifests and configs of one image. A real one has some kilobytes.
const JSON_BYTES_ALL_MAX: u64 = 64 << 20;

/// What an export holds.
#[derive(Debug, Default)]
pub(super) struct Exported {
    /// Blob to diff id, of all that could be unpacked.
    pub(super) layers: HashMap<Digest, Digest>,
    /// What may be a manifest, an index or a config.
    pub(super) json: HashMap<Digest, Bytes>,
}

/// Reads an OCI layout in a tar. Each blob must be what its name says.
pub(super) fn read_export(source: impl Read) -> io::Result<Exported> {
    let mut exported = Exported::default();
    let mut json_bytes = 0;
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some(name) = path.strip_prefix("blobs/sha256/").filter(|name| !name.is_empty()) else { continue };
        let size = entry.size();
        let blob = hash_blob(&mut entry, size <= JSON_BYTES_MAX)?;
        if Digest::parse(&format!("sha256:{name}")).as_ref() != Some(&blob.digest) {
            return Err(io::Error::other("a blob has another digest than its name"));
        }
        if let Some(content) = blob.json {
            json_bytes += content.len() as u64;
            if json_bytes > JSON_BYTES_ALL_MAX {
                return Err(io::Error::other("its manifests and configs are too large"));
            }
            exported.json.insert(blob.digest.clone(), content.into());
        }
        if let Some(diff_id) = blob.diff_id {
            exported.layers.insert(blob.digest, diff_id);
        }
    }
    Ok(exported)
}

/// A blob that was read to its end.
struct Blob {
    digest: Digest,
    /// The digest of what it holds, uncompressed; none when it cannot be unpacked.
    diff_id: Option<Digest>,
    json: Option<Vec<u8>>,
}

/// Hashes a blob as it is and uncompressed; keeps it when it looks like JSON and `keep` is set.
fn hash_blob(source: &mut dyn Read, keep: bool) -> io::Result<Blob> {
    let mut head = Vec::with_capacity(4);
    source.take(4).read_to_end(&mut head)?;
    let json = (keep && head.starts_with(b"{")).then(|| head.clone());
    let mut hasher = Sha256::new();
    hasher.update(&head);
    let mut raw = Hashed { source, hasher, kept: json };
    let mut content = Hashing(Sha256::new());
    let decoded = {
        let mut whole = Read::chain(Cursor::new(&head), &mut raw);
        match head.as_slice() {
            [0x1f, 0x8b, ..] => io::copy(&mut flate2::read::MultiGzDecoder::new(whole), &mut content),
            [0x28, 0xb5, 0x2f, 0xfd] => zstd::stream::read::Decoder::new(whole)
                .and_then(|mut decoder| io::copy(&mut decoder, &mut content)),
            _ => io::copy(&mut whole, &mut content),
        }
    };
    // What a decoder leaves behind belongs to the blob; a source that is broken says so again.
    io::copy(&mut raw, &mut io::sink())?;
    Ok(Blob {
        digest: Digest::from_sha256(raw.hasher.finalize().into()),
        diff_id: decoded.ok().map(|_| Digest::from_sha256(content.0.finalize().into())),
        json: raw.kept,
    })
}

/// Hashes what is read through it.
struct Hashed<'a> {
    source: &'a mut dyn Read,
    hasher: Sha256,
    kept: Option<Vec<u8>>,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let read = buffer.get(..count).unwrap_or_default();
        self.hasher.update(read);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(read);
        }
        Ok(count)
    }
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
    fn a_blob_is_hashed_as_it_is_and_unpacked() {
        let content = b"content".repeat(50_000);
        let members = [gzip(&content), gzip(&content)].concat();
        let twice = content.repeat(2);
        for (bytes, content) in [
            (content.clone(), &content),
            (gzip(&content), &content),
            (members, &twice),
            (zstd::encode_all(content.as_slice(), 1).unwrap(), &content),
        ] {
            let blob = hash_blob(&mut bytes.as_slice(), true).unwrap();
            assert_eq!(blob.digest, digest(&bytes));
            assert_eq!(blob.diff_id, Some(digest(content)));
            assert_eq!(blob.json, None);
        }
        let cut = &gzip(&content)[..100];
        let blob = hash_blob(&mut &*cut, true).unwrap();
        assert_eq!((blob.digest, blob.diff_id), (digest(cut), None));
        assert_eq!(hash_blob(&mut &b"{}"[..], true).unwrap().json.as_deref(), Some(&b"{}"[..]));
        assert_eq!(hash_blob(&mut &b"{}"[..], false).unwrap().json, None);
    }

    fn export(blobs: &[(&Digest, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (digest, bytes) in blobs {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o444);
            let path = format!("blobs/sha256/{}", digest.as_str().strip_prefix("sha256:").unwrap());
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn an_export_whose_blobs_are_not_what_they_are_called_is_refused() {
        let blob = b"layer";
        let sound = export(&[(&digest(blob), blob)]);
        assert_eq!(read_export(sound.as_slice()).unwrap().layers[&digest(blob)], digest(blob));
        assert!(read_export(export(&[(&digest(b"other"), blob)]).as_slice()).is_err());
        assert!(read_export(&sound[..sound.len() - 1024 - 512 + 2]).is_err(), "cut off");
    }
}
