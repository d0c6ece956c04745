//! The claims that an image's documents make about its layers. Reads manifests, indexes and configs as the
//! engine does.

use std::collections::HashMap;

use bollard::models::ImageInspect;
use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};

use super::{Problem, strict::Strict};
use crate::{
    engine::Platform,
    go_json::zero,
    names::reference::Digest,
    store::{LayerClaim, LayerFact, Packing},
};

/// The claims of the image `root` about its layers: a list for each of its manifests that the engine might
/// use.
pub(in crate::images) fn claims_of(
    root: &Digest,
    json: &HashMap<Digest, Bytes>,
    platform: &Platform,
) -> Result<Vec<Vec<LayerClaim>>, Problem> {
    let top = parse(json, root)?.ok_or(Problem::Incomplete)?;
    let mut manifests = Vec::new();
    for Strict(child) in &top.manifests {
        let used = child.used_on(platform);
        if used == Use::Never {
            continue;
        }
        let digest = child.manifest()?;
        match parse(json, &digest)? {
            Some(manifest) if manifest.config.is_none() => return Err(Problem::Nested),
            Some(manifest) => manifests.push(manifest),
            // The engine picks one of several candidates without regard to which it already has.
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
    let mut lists = Vec::new();
    for manifest in manifests {
        let config = manifest.config.as_ref().map(|Strict(config)| config.config()).transpose()?;
        let diff_ids = match config.and_then(|config| json.get(&config)) {
            Some(config) => {
                let Strict(config) =
                    serde_json::from_slice::<Strict<Config>>(config).map_err(|_| Problem::Forged)?;
                let Strict(rootfs) = config.rootfs;
                if rootfs.r#type != "layers" {
                    return Err(Problem::Forged);
                }
                rootfs.diff_ids
            }
            None => return Err(Problem::Incomplete),
        };
        if diff_ids.len() != manifest.layers.len() {
            return Err(Problem::Forged);
        }
        let mut claims = Vec::new();
        for (Strict(layer), diff_id) in manifest.layers.iter().zip(&diff_ids) {
            let (blob, packing, size) = (layer.digest()?, layer.packing()?, layer.size);
            let diff_id = Digest::parse(diff_id).ok_or(Problem::Forged)?;
            claims.push(LayerClaim { blob, layer: LayerFact { diff_id, packing, size } });
        }
        lists.push(claims);
    }
    Ok(lists)
}

/// Whether one of `lists` matches the layers that the engine shows for the image; true if it shows none.
pub(super) fn is_read(lists: &[Vec<LayerClaim>], image: &ImageInspect) -> bool {
    let Some(read) = image.root_fs.as_ref().and_then(|root| root.layers.as_ref()) else { return true };
    lists.iter().any(|claims| claims.iter().map(|claim| claim.layer.diff_id.as_str()).eq(read.iter()))
}

/// The digests of the configs in `manifests`.
pub(super) fn configs_of(manifests: &HashMap<Digest, Bytes>) -> Result<Vec<Digest>, Problem> {
    let mut found = Vec::new();
    for document in manifests.values() {
        let Strict(manifest) =
            serde_json::from_slice::<Strict<Manifest>>(document).map_err(|_| Problem::Forged)?;
        if let Some(Strict(config)) = manifest.config {
            found.push(config.config()?);
        }
    }
    Ok(found)
}

/// The manifests that an index lists, and those that the engine might use for `platform`. An image's manifest
/// lists none.
pub(in crate::images) fn children(document: &[u8], platform: &Platform) -> Result<Children, Problem> {
    let Strict(index) = serde_json::from_slice::<Strict<Index>>(document).map_err(|_| Problem::Forged)?;
    let listed = index.manifests.unwrap_or_default();
    // Check all of them: an engine may look at any.
    listed.iter().try_for_each(|Strict(child)| child.digest().map(drop))?;
    let used = listed.iter().filter(|Strict(child)| child.used_on(platform) != Use::Never);
    let used: Vec<Digest> = used.map(|Strict(child)| child.document()).collect::<Result<_, _>>()?;
    let attestations = attestations_of(&used, &listed)?;
    Ok(Children { used, attestations, count: listed.len() })
}

/// The attestations of `used`, at most one of each. The newest engine (29.7, `referrersForPull`) takes the last of
/// several, and asks for those of an attestation, too: there is no honest one of which it needs to.
fn attestations_of(used: &[Digest], listed: &[Strict<Descriptor>]) -> Result<Vec<Digest>, Problem> {
    let referring: Vec<(&str, &Descriptor)> =
        listed.iter().filter_map(|Strict(child)| child.subject().map(|subject| (subject, child))).collect();
    if referring.iter().any(|(subject, _)| referring.iter().any(|(_, child)| child.digest == *subject)) {
        return Err(Problem::Attestations);
    }
    let mut found = Vec::new();
    for image in used {
        let mut digests = referring.iter().filter(|(subject, _)| *subject == image.as_str());
        let Some((_, attestation)) = digests.next() else { continue };
        if digests.next().is_some() || !attestation.is_attestation() {
            return Err(Problem::Attestations);
        }
        found.push(attestation.manifest()?);
    }
    Ok(found)
}

/// The manifests in an index.
pub(in crate::images) struct Children {
    /// The manifests that the engine might use.
    pub(in crate::images) used: Vec<Digest>,
    /// The manifests that state where those come from. An engine with the containerd store fetches them, too.
    pub(in crate::images) attestations: Vec<Digest>,
    /// The number of all manifests in the index.
    pub(in crate::images) count: usize,
}

/// The types of an image's manifest.
const MANIFESTS: [&str; 2] =
    ["application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"];

/// The types of an index.
const INDEXES: [&str; 2] =
    ["application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json"];

/// The content of the empty object, `{}` (OCI image specification, manifest.md).
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The types of an attestation's config and statements. The engine reads none of them.
const ATTESTATION_PARTS: [&str; 4] = [
    EMPTY,
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.in-toto+json",
];

/// Checks that an engine that fetches all parts of an attestation fetches them from the same registry.
pub(in crate::images) fn check_attestation(document: &[u8]) -> Result<(), Problem> {
    let Strict(manifest) =
        serde_json::from_slice::<Strict<Manifest>>(document).map_err(|_| Problem::Forged)?;
    if !manifest.manifests.is_empty() {
        return Err(Problem::Nested);
    }
    for Strict(part) in manifest.config.iter().chain(&manifest.layers) {
        part.digest()?;
        // The engine reads a part that is called an index, and goes where that sends it.
        if !ATTESTATION_PARTS.contains(&part.media_type.as_str()) {
            return Err(Problem::Attestations);
        }
    }
    Ok(())
}

fn parse(json: &HashMap<Digest, Bytes>, digest: &Digest) -> Result<Option<Manifest>, Problem> {
    let Some(document) = json.get(digest) else { return Ok(None) };
    let Strict(manifest): Strict<Manifest> = serde_json::from_slice(document).map_err(|_| Problem::Forged)?;
    // Which of the two it is, the engine decides by its type.
    if manifest.config.is_some() && !manifest.manifests.is_empty() {
        return Err(Problem::Forged);
    }
    Ok(Some(manifest))
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType", deserialize_with = "zero")]
    media_type: String,
    #[serde(default, deserialize_with = "zero")]
    size: u64,
    urls: Option<Vec<String>>,
    data: Option<IgnoredAny>,
    platform: Option<Strict<DescriptorPlatform>>,
    #[serde(default, deserialize_with = "zero")]
    annotations: HashMap<String, Option<String>>,
}

#[derive(Deserialize)]
struct DescriptorPlatform {
    #[serde(default, deserialize_with = "zero")]
    os: String,
    #[serde(default, deserialize_with = "zero")]
    architecture: String,
    #[serde(default, deserialize_with = "zero")]
    variant: String,
}

/// Whether the engine uses a descriptor's manifest for its own platform.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The engine uses this manifest, or another one with this value.
    Takes,
    /// The engine may use it if there is no better one.
    Might,
    Never,
}

impl Descriptor {
    /// The digest. Descriptors with URLs are refused: an engine with the containerd store fetches such
    /// content from the URL, which may be a server on the node's network, and wharfd would not see it. It takes the
    /// content from the descriptor itself, too (`data`); the empty object is always the same.
    fn digest(&self) -> Result<Digest, Problem> {
        let has_data = self.data.is_some() && self.media_type != EMPTY;
        if has_data || self.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            return Err(Problem::Elsewhere);
        }
        Digest::parse(&self.digest).ok_or(Problem::Forged)
    }

    /// The digest of an image's manifest. The engine decides by the type of a descriptor how it reads the content.
    fn manifest(&self) -> Result<Digest, Problem> {
        if INDEXES.contains(&self.media_type.as_str()) { Err(Problem::Nested) } else { self.document() }
    }

    /// The digest of an image's manifest, or of an index.
    fn document(&self) -> Result<Digest, Problem> {
        let known = MANIFESTS.iter().chain(&INDEXES).any(|known| self.media_type == *known);
        if known { self.digest() } else { Err(Problem::Unknown) }
    }

    /// The digest of an image's config. It would be read as an index if it were called one.
    fn config(&self) -> Result<Digest, Problem> {
        const TYPES: [&str; 3] = [
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.oci.image.config.v1+json",
            // Docker 1.10 has pushed this.
            "application/octet-stream",
        ];
        if TYPES.contains(&self.media_type.as_str()) { self.digest() } else { Err(Problem::Unknown) }
    }

    /// A layer's compression, by its media type.
    fn packing(&self) -> Result<Packing, Problem> {
        const TYPES: [&str; 4] = [
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
        ];
        let rest = TYPES.iter().find_map(|known| self.media_type.strip_prefix(known));
        match rest {
            Some("") => Ok(Packing::Plain),
            Some(".gzip" | "+gzip") => Ok(Packing::Gzip),
            Some(".zstd" | "+zstd") => Ok(Packing::Zstd),
            Some(_) | None => Err(Problem::Unknown),
        }
    }

    /// The digest of the manifest that it says something of: as BuildKit marks it, or containerd.
    fn subject(&self) -> Option<&str> {
        let name = if self.is_attestation() {
            "vnd.docker.reference.digest"
        } else {
            "io.containerd.manifest.subject"
        };
        self.annotations.get(name).and_then(Option::as_deref).filter(|subject| !subject.is_empty())
    }

    /// Whether BuildKit has marked it as an attestation.
    fn is_attestation(&self) -> bool {
        let kind = self.annotations.get("vnd.docker.reference.type").and_then(Option::as_deref);
        kind == Some("attestation-manifest")
    }

    fn used_on(&self, own: &Platform) -> Use {
        let Some(Strict(platform)) = &self.platform else { return Use::Might };
        // containerd's `platforms.Normalize`: ignores case, knows several names for an architecture, and
        // reads an empty operating system as its own.
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

/// An image manifest or an index (OCI image specification): an image has `config`, an index has `manifests`.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Strict<Descriptor>>,
    #[serde(default, deserialize_with = "zero")]
    layers: Vec<Strict<Descriptor>>,
    #[serde(default, deserialize_with = "zero")]
    manifests: Vec<Strict<Descriptor>>,
}

/// Only the fields of an index; those of an image manifest are ignored.
#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Strict<Descriptor>>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Strict<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    /// `layers`, the only one that the specification knows. Without any, Docker's own inspection of the image
    /// cannot be read.
    r#type: String,
    #[serde(default, deserialize_with = "zero")]
    diff_ids: Vec<String>,
}

#[cfg(test)]
mod tests;
