//! Images made without an engine: layers, a config and a manifest, pushed to a registry blob by blob.

use std::{io::Write as _, sync::OnceLock};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Registry, engine::tool};

pub(crate) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A file of a layer.
#[derive(Clone, Debug)]
pub(crate) enum File<'a> {
    Content(&'a [u8], u32),
    Link(&'a str),
}

/// A layer: its blob, and the digest of the unpacked blob.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Bytes,
    pub(crate) digest: String,
    pub(crate) diff_id: String,
}

/// An image that is not in any registry yet.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    /// The diff ids in its config; a forger changes them.
    pub(crate) diff_ids: Vec<String>,
    /// A label that makes two images with equal layers different.
    pub(crate) label: String,
}

impl Layer {
    /// A layer of files.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = (&'a str, File<'a>)>) -> Self {
        let tar = tar(files);
        let diff_id = digest(&tar);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).unwrap();
        let blob = Bytes::from(gzip.finish().unwrap());
        Self { digest: digest(&blob), blob, diff_id }
    }

    /// A layer of at least so many bytes, also as a blob; the text makes it unique.
    pub(crate) fn noise(mark: &str, bytes: usize) -> Self {
        let mut state = u64::from_le_bytes(Sha256::digest(mark)[..8].try_into().unwrap());
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next()).collect();
        Self::of([("noise", File::Content(&noise, 0o644))])
    }

    /// The same layer in another compression.
    pub(crate) fn repacked(&self) -> Self {
        let mut tar = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*self.blob), &mut tar).unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
        gzip.write_all(&tar).unwrap();
        let blob = Bytes::from(gzip.finish().unwrap());
        Self { digest: digest(&blob), blob, diff_id: self.diff_id.clone() }
    }

    /// busybox, with a link for each of its programs. It is the same for all tests.
    pub(crate) fn busybox() -> Self {
        static LAYER: OnceLock<Layer> = OnceLock::new();
        LAYER
            .get_or_init(|| {
                let program = tool("WHARF_BUSYBOX");
                let binary = std::fs::read(&program).unwrap();
                let listed = std::process::Command::new(&program).arg("--list").output().unwrap();
                let programs = String::from_utf8(listed.stdout).unwrap();
                let paths: Vec<String> = programs.lines().map(|name| format!("bin/{name}")).collect();
                let links = paths
                    .iter()
                    .filter(|path| *path != "bin/busybox")
                    .map(|path| (path.as_str(), File::Link("busybox")));
                Self::of(std::iter::once(("bin/busybox", File::Content(&binary, 0o755))).chain(links))
            })
            .clone()
    }
}

impl Image {
    /// An image of `layers`, lowest first.
    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        let diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        Self { layers, diff_ids, label: String::new() }
    }

    /// An image that steps can run on; the text in `/mark` makes it unique.
    pub(crate) fn base(mark: &str) -> Self {
        Self::of(vec![Layer::busybox(), Layer::of([("mark", File::Content(mark.as_bytes(), 0o644))])])
    }

    /// Its config.
    pub(crate) fn config(&self) -> Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let history: Vec<Value> = self.layers.iter().map(|_| json!({"created_by": "test"})).collect();
        json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"test": self.label}},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": history,
        })
    }

    /// Puts it into a registry and returns its digest there.
    pub(crate) async fn push(&self, registry: &Registry, repository: &str, tag: &str) -> String {
        self.push_with_config(registry, repository, tag, self.config().to_string()).await
    }

    /// Pushes it with another config.
    pub(crate) async fn push_with_config(
        &self,
        registry: &Registry,
        repository: &str,
        tag: &str,
        config: String,
    ) -> String {
        let config = Bytes::from(config);
        push_blob(registry, repository, &config).await;
        for layer in &self.layers {
            push_blob(registry, repository, &layer.blob).await;
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": config.len(), "digest": digest(&config)},
            "layers": self.layers.iter().map(|layer| {
                json!({"mediaType": LAYER, "size": layer.blob.len(), "digest": layer.digest})
            }).collect::<Vec<_>>(),
        });
        push_manifest(registry, repository, tag, MANIFEST, &manifest).await
    }
}

/// Pushes an index of the manifests with these tags, each for a platform.
pub(crate) async fn push_index(registry: &Registry, repository: &str, tag: &str, of: &[(&str, Value)]) {
    let mut manifests = Vec::new();
    for (child, platform) in of {
        let path = format!("/v2/{repository}/manifests/{child}");
        let call = registry.call(Method::GET, &path).header("accept", format!("{MANIFEST}, {INDEX}"));
        let answer = call.send().await.ok();
        let (kind, body) = (answer.header("content-type"), answer.body);
        manifests.push(json!({
            "mediaType": kind, "size": body.len(), "digest": digest(&body), "platform": platform,
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    push_manifest(registry, repository, tag, INDEX, &index).await;
}

/// Pushes an image of no layers, whose documents are texts as somebody wrote them. Its digest.
pub(crate) async fn push_texts(
    registry: &Registry,
    name: (&str, &str),
    kinds: (&str, &str),
    config: String,
    layers: &str,
) -> String {
    let config = Bytes::from(config);
    push_blob(registry, name.0, &config).await;
    let (size, digest, (kind, config_kind)) = (config.len(), digest(&config), kinds);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}",{layers}"config":{{"mediaType":"{config_kind}","size":{size},"digest":"{digest}"}}}}"#
    );
    push_manifest_text(registry, name.0, name.1, kind, manifest).await
}

/// Puts a manifest into a registry and returns its digest there.
pub(crate) async fn push_manifest(
    registry: &Registry,
    repository: &str,
    tag: &str,
    kind: &str,
    manifest: &Value,
) -> String {
    push_manifest_text(registry, repository, tag, kind, manifest.to_string()).await
}

async fn push_manifest_text(
    registry: &Registry,
    repository: &str,
    tag: &str,
    kind: &str,
    manifest: String,
) -> String {
    let path = format!("/v2/{repository}/manifests/{tag}");
    let answer = registry.call(Method::PUT, &path).body(kind, manifest).send().await.ok();
    answer.header("docker-content-digest").unwrap()
}

/// Puts a blob into a registry, if it is not there.
pub(crate) async fn push_blob(registry: &Registry, repository: &str, blob: &Bytes) {
    let digest = digest(blob);
    let head = registry.call(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}")).send().await;
    if head.status.is_success() {
        return;
    }
    let begun = registry.call(Method::POST, &format!("/v2/{repository}/blobs/uploads/")).send().await.ok();
    let location = begun.header("location").unwrap();
    let path = location.strip_prefix(&format!("http://{}", registry.host())).unwrap_or(&location);
    let path = format!("{path}&digest={digest}");
    registry.call(Method::PUT, &path).body("application/octet-stream", blob.clone()).send().await.ok();
}

/// `sha256:…` of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar of files.
pub(crate) fn tar<'a>(files: impl IntoIterator<Item = (&'a str, File<'a>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, file) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        match file {
            File::Content(content, mode) => {
                header.set_mode(mode);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content).unwrap();
            }
            File::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// A tar of text files: a build context.
pub(crate) fn context_tar(files: &[(&str, &str)]) -> Vec<u8> {
    tar(files.iter().map(|(path, content)| (*path, File::Content(content.as_bytes(), 0o644))))
}
