//! Whether an image's layers are what its config says. The containerd store names a layer by the
//! diff ids that a config claims, and fetches none that it has by that name: a config that claims
//! another image's is believed. So each blob is hashed here, once for all time.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Cursor, Read},
};

use bollard::models::ImageInspect;
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{Engine, Platform, fault};
use crate::{
    fault::{Fault, Reason},
    names::{Reference, reference::Digest},
    store::LayerClaim,
    wire::progress::Step,
};

/// containerd reads no larger manifest or config (`remotes` and `images` limit them to 8 MiB).
const JSON_BYTES_MAX: u64 = 8 << 20;
/// All manifests and configs of one image. A real one has some kilobytes.
const JSON_BYTES_ALL_MAX: u64 = 64 << 20;
/// Pieces of the export on their way to the thread that hashes.
const PIECES: usize = 16;
/// How many bytes pass between two reports.
const REPORT_BYTES: u64 = 4 << 20;

impl Engine {
    /// Checks each layer of the image under `hold` against its config. Facts that are known are not
    /// looked for again.
    pub(super) async fn verify_layers(
        &self,
        reference: &Reference,
        digest: &Digest,
        hold: &str,
        image: &ImageInspect,
        step: &Step,
    ) -> Result<(), Fault> {
        let platform = self.platform().to_string();
        let mut claims = self.store().layer_claims(digest, &platform).await?;
        if claims.is_empty() {
            let exported = self.hash_export(hold, step).await?;
            for (blob, diff_id) in exported.layers {
                self.store().learn_layer(&blob, &diff_id).await?;
            }
            let read = claims_of(digest, &exported.json, self.platform(), image);
            claims = read.map_err(|problem| problem.fault(reference))?;
            self.store().learn_claims(digest, &platform, claims.clone()).await?;
        }
        for claim in &claims {
            match self.store().layer_fact(&claim.blob).await? {
                Some(diff_id) if diff_id == claim.diff_id => {}
                Some(_) => return Err(fault::forged(reference)),
                None => return Err(Problem::Unfetched(claim.blob.clone()).fault(reference)),
            }
        }
        Ok(())
    }

    /// Reads the image as the engine stores it, and hashes all of it, with flat memory.
    async fn hash_export(&self, hold: &str, step: &Step) -> Result<Exported, Fault> {
        let failed = |error| fault::unexpected("export an image", error);
        let (pieces, received) = mpsc::channel(PIECES);
        let hashing =
            tokio::task::spawn_blocking(move || read_export(Pieces { received, current: Bytes::new() }));
        let mut stream = std::pin::pin!(self.docker().export_image(hold));
        let (mut done, mut reported) = (0, 0);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(failed)?;
            done += piece.len() as u64;
            // The thread has ended: it says why.
            if pieces.send(piece).await.is_err() {
                break;
            }
            if done - reported >= REPORT_BYTES {
                reported = done;
                step.moves("verifying layers", done, 0, false).await;
            }
        }
        drop(pieces);
        step.moves("verifying layers", done, done, true).await;
        hashing.await.map_err(Fault::internal)?.map_err(|error| {
            Fault::new(Reason::EngineFailed, "the engine exports an image that is not sound").caused_by(error)
        })
    }
}

/// What an export holds.
#[derive(Debug, Default)]
struct Exported {
    /// Blob to diff id, of all that could be unpacked.
    layers: HashMap<Digest, Digest>,
    /// What may be a manifest, an index or a config.
    json: HashMap<Digest, Bytes>,
}

/// Why an image is not admitted.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Forged,
    OtherPlatform,
    Unfetched(Digest),
    Incomplete,
}

impl Problem {
    fn fault(self, reference: &Reference) -> Fault {
        match self {
            Self::Forged => fault::forged(reference),
            Self::OtherPlatform | Self::Incomplete => {
                let text = format!("the engine has pulled {} only in part", reference.familiar());
                Fault::new(Reason::EngineFailed, text)
            }
            Self::Unfetched(blob) => {
                let text = format!(
                    "{} is refused: its config calls layer {blob} by the name of one that the engine has, so the \
                     engine did not fetch it, and nobody knows what is in it",
                    reference.familiar()
                );
                Fault::new(Reason::ImageForged, text).hint(
                    "if the image is genuine, another one has this layer in another compression: the node's \
                     operator can remove that one",
                )
            }
        }
    }
}

/// What else an object holds. The engine takes a name in any case, and of two the last: a document
/// that it would read in another way than we do is refused.
struct Others;

impl<'de> Deserialize<'de> for Others {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const READ: [&str; 10] = [
            "architecture",
            "config",
            "diff_ids",
            "digest",
            "layers",
            "manifests",
            "os",
            "platform",
            "rootfs",
            "variant",
        ];
        /// As Go's encoding/json compares names: these two are the only letters whose other case is
        /// ASCII.
        fn folded(name: &str) -> String {
            name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase()
        }
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Others;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Others, A::Error> {
                while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                    let folded = folded(&name);
                    if folded != name && READ.contains(&folded.as_str()) {
                        return Err(de::Error::custom("a name is in another case"));
                    }
                }
                Ok(Others)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<DescriptorPlatform>,
    #[serde(flatten)]
    _others: Others,
}

#[derive(Deserialize)]
struct DescriptorPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(flatten)]
    _others: Others,
}

/// Whether the engine uses the manifest of a descriptor for its own platform.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It takes this one, or another of this kind.
    Takes,
    /// It might, for want of a better one.
    Might,
    Never,
}

impl Descriptor {
    fn used_on(&self, own: &Platform) -> Use {
        let Some(platform) = &self.platform else { return Use::Might };
        // containerd's `platforms.Normalize`: in any case, under several names, and without an
        // operating system for its own.
        let os = platform.os.to_ascii_lowercase();
        let architecture = platform.architecture.to_ascii_lowercase();
        let architecture = match architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" => "386",
            "armhf" | "armel" => "arm",
            other => other,
        };
        if !(os.is_empty() || os == own.os) || architecture != own.architecture {
            return Use::Never;
        }
        let variant = platform.variant.to_ascii_lowercase();
        let usual = match architecture {
            "amd64" => "v1",
            "arm64" => "v8",
            _ => "",
        };
        if variant.is_empty() || variant == usual || own.variant.as_ref() == Some(&variant) {
            Use::Takes
        } else {
            Use::Might
        }
    }
}

/// An image manifest or an index (OCI image specification): one has `config`, the other `manifests`.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(flatten)]
    _others: Others,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
    #[serde(flatten)]
    _others: Others,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
    #[serde(flatten)]
    _others: Others,
}

/// What the image `root` claims of its layers, for each of its manifests that the engine might use.
fn claims_of(
    root: &Digest,
    json: &HashMap<Digest, Bytes>,
    platform: &Platform,
    image: &ImageInspect,
) -> Result<Vec<LayerClaim>, Problem> {
    let top = parse(json, root)?.ok_or(Problem::Incomplete)?;
    let mut manifests = Vec::new();
    for child in &top.manifests {
        let used = child.used_on(platform);
        if used == Use::Never {
            continue;
        }
        let digest = Digest::parse(&child.digest).ok_or(Problem::Forged)?;
        match parse(json, &digest)? {
            Some(manifest) => manifests.push(manifest),
            // Of several the engine takes one, and not by which of them it has.
            None if used == Use::Takes => return Err(Problem::Incomplete),
            None => {}
        }
    }
    if top.config.is_some() {
        manifests.push(top);
    }
    if manifests.is_empty() {
        return Err(Problem::OtherPlatform);
    }
    let only = manifests.len() == 1;
    // What the engine itself has read, if it says so.
    let read = image.root_fs.as_ref().and_then(|root| root.layers.as_ref());
    let mut is_read = read.is_none();
    let mut claims = Vec::new();
    for manifest in manifests {
        let config = manifest.config.as_ref().and_then(|config| json.get(&Digest::parse(&config.digest)?));
        let diff_ids = match config {
            Some(config) => {
                serde_json::from_slice::<Config>(config).map_err(|_| Problem::Forged)?.rootfs.diff_ids
            }
            // An image of which the engine lacks a blob is exported as its manifest alone. Its
            // config is there: the engine has checked its digest, and says what it has read in it.
            None if only => read.cloned().unwrap_or_default(),
            None => return Err(Problem::Incomplete),
        };
        is_read |= read == Some(&diff_ids);
        if diff_ids.len() != manifest.layers.len() {
            return Err(Problem::Forged);
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            let blob = Digest::parse(&layer.digest).ok_or(Problem::Forged)?;
            let diff_id = Digest::parse(diff_id).ok_or(Problem::Forged)?;
            claims.push(LayerClaim { blob, diff_id });
        }
    }
    if is_read { Ok(claims) } else { Err(Problem::Forged) }
}

fn parse(json: &HashMap<Digest, Bytes>, digest: &Digest) -> Result<Option<Manifest>, Problem> {
    let Some(document) = json.get(digest) else { return Ok(None) };
    serde_json::from_slice(document).map(Some).map_err(|_| Problem::Forged)
}

/// Reads an OCI layout in a tar. Each blob must be what its name says.
fn read_export(source: impl Read) -> io::Result<Exported> {
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
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// The digest of what it holds, uncompressed; none when it cannot be unpacked.
    pub(super) diff_id: Option<Digest>,
    json: Option<Vec<u8>>,
}

/// Hashes a blob as it is and uncompressed; keeps it when it looks like JSON and `keep` is set.
pub(super) fn hash_blob(source: &mut dyn Read, keep: bool) -> io::Result<Blob> {
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

    fn claims(documents: &[&[u8]], root: &[u8], image: &ImageInspect) -> Result<Vec<LayerClaim>, Problem> {
        let json = documents.iter().map(|bytes| (digest(bytes), Bytes::copy_from_slice(bytes))).collect();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        claims_of(&digest(root), &json, &platform, image)
    }

    #[test]
    fn claims_are_read_from_the_manifest_of_the_platform() {
        let (blob, diff_id) = (digest(b"blob"), digest(b"diff"));
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
        let manifest = format!(
            r#"{{"config":{{"digest":"{}"}},"layers":[{{"digest":"{blob}"}}]}}"#,
            digest(config.as_bytes())
        );
        let child = |architecture: &str, digest: &Digest| {
            format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
        };
        let own = digest(manifest.as_bytes());
        let index =
            format!(r#"{{"manifests":[{},{}]}}"#, child("arm64", &digest(b"absent")), child("amd64", &own));
        let expected = Ok(vec![LayerClaim { blob, diff_id: diff_id.clone() }]);
        let none = ImageInspect::default();
        let documents = [config.as_bytes(), manifest.as_bytes(), index.as_bytes()];
        assert_eq!(claims(&documents, manifest.as_bytes(), &none), expected);
        assert_eq!(claims(&documents, index.as_bytes(), &none), expected);
        // The engine lacks a layer, and exports the manifest alone.
        let root_fs = bollard::models::ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(vec![diff_id.to_string()]),
        };
        let inspected = ImageInspect { root_fs: Some(root_fs), ..ImageInspect::default() };
        assert_eq!(claims(&documents[1..], manifest.as_bytes(), &inspected), expected);
        assert_eq!(claims(&documents[1..], manifest.as_bytes(), &none), Err(Problem::Forged));
        assert_eq!(claims(&documents[..2], index.as_bytes(), &none), Err(Problem::Incomplete));
        // A child that the engine would take must be there, under whatever name it has its platform.
        let absent = digest(b"absent");
        for architecture in ["amd64", "x86_64", "AMD64", "x86-64"] {
            let index =
                format!(r#"{{"manifests":[{},{}]}}"#, child(architecture, &absent), child("amd64", &own));
            let documents = [documents[0], documents[1], index.as_bytes()];
            assert_eq!(claims(&documents, index.as_bytes(), &none), Err(Problem::Incomplete), "{index}");
        }
        // The engine has read something else.
        let root_fs = bollard::models::ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(vec![digest(b"other").to_string()]),
        };
        let otherwise = ImageInspect { root_fs: Some(root_fs), ..ImageInspect::default() };
        assert_eq!(claims(&documents, index.as_bytes(), &otherwise), Err(Problem::Forged));
        let other = format!(r#"{{"manifests":[{}]}}"#, child("arm64", &own));
        let with_other = [documents[1], other.as_bytes()];
        assert_eq!(claims(&with_other, other.as_bytes(), &none), Err(Problem::OtherPlatform));
    }
    #[test]
    fn what_go_reads_otherwise_is_refused() {
        fn is_read<T: serde::de::DeserializeOwned>(text: &str) -> bool {
            serde_json::from_str::<T>(text).is_ok()
        }
        assert!(is_read::<Config>(r#"{"rootfs":{"diff_ids":[]},"config":{"OS":"x"},"os":"linux","x":1}"#));
        assert!(!is_read::<Config>(r#"{"rootfs":{"diff_ids":[]},"RootFS":{"diff_ids":["x"]}}"#));
        assert!(!is_read::<Config>(r#"{"rootfs":{"diff_ids":[]},"rootfs":{"diff_ids":["x"]}}"#));
        assert!(!is_read::<Config>(r#"{"rootfs":{"diff_ids":[],"diff_id\u017f":["x"]}}"#));
        assert!(is_read::<Manifest>(r#"{"layers":[{"digest":"a","size":1}],"mediaType":"m"}"#));
        for text in [
            r#"{"layers":[],"Layers":[{"digest":"a"}]}"#,
            r#"{"layers":[{"digest":"a","Digest":"b"}]}"#,
            r#"{"manifests":[{"digest":"a","platform":{"os":"x"},"PLATFORM":null}]}"#,
            r#"{"manifests":[{"digest":"a","platform":{"os":"x","Os":"linux"}}]}"#,
        ] {
            assert!(!is_read::<Manifest>(text), "{text}");
        }
    }
}
