//! What the documents of an image claim of its layers: manifests, indexes and configs, read as the
//! engine reads them.

use std::collections::HashMap;

use bollard::models::ImageInspect;
use bytes::Bytes;
use serde::Deserialize;

use super::{Problem, strict::Strict};
use crate::{engine::Platform, names::reference::Digest, store::LayerClaim};

/// What the image `root` claims of its layers: a list for each of its manifests that the engine might
/// use.
pub(super) fn claims_of(
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
        let digest = Digest::parse(&child.digest).ok_or(Problem::Forged)?;
        match parse(json, &digest)? {
            Some(manifest) if manifest.config.is_none() => return Err(Problem::Nested),
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
    let mut lists = Vec::new();
    for manifest in manifests {
        let config =
            manifest.config.as_ref().and_then(|Strict(config)| json.get(&Digest::parse(&config.digest)?));
        let diff_ids = match config {
            Some(config) => {
                let Strict(config) =
                    serde_json::from_slice::<Strict<Config>>(config).map_err(|_| Problem::Forged)?;
                config.rootfs.0.diff_ids
            }
            None => return Err(Problem::Incomplete),
        };
        if diff_ids.len() != manifest.layers.len() {
            return Err(Problem::Forged);
        }
        let mut claims = Vec::new();
        for (Strict(layer), diff_id) in manifest.layers.iter().zip(&diff_ids) {
            let blob = Digest::parse(&layer.digest).ok_or(Problem::Forged)?;
            let diff_id = Digest::parse(diff_id).ok_or(Problem::Forged)?;
            claims.push(LayerClaim { blob, diff_id });
        }
        lists.push(claims);
    }
    Ok(lists)
}

/// Whether the engine has read in the image what one of `lists` says, as far as it tells.
pub(super) fn is_read(lists: &[Vec<LayerClaim>], image: &ImageInspect) -> bool {
    let Some(read) = image.root_fs.as_ref().and_then(|root| root.layers.as_ref()) else { return true };
    lists.iter().any(|claims| claims.iter().map(|claim| claim.diff_id.as_str()).eq(read.iter()))
}

/// The digests of the configs that `manifests` name.
pub(super) fn configs_of(manifests: &HashMap<Digest, Bytes>) -> Result<Vec<Digest>, Problem> {
    let mut found = Vec::new();
    for document in manifests.values() {
        let Strict(manifest) =
            serde_json::from_slice::<Strict<Manifest>>(document).map_err(|_| Problem::Forged)?;
        if let Some(Strict(config)) = manifest.config {
            found.push(Digest::parse(&config.digest).ok_or(Problem::Forged)?);
        }
    }
    Ok(found)
}

/// The manifests that an index lists, and which of them the engine might use for `platform`. An image
/// lists none.
pub(in crate::images) fn children(document: &[u8], platform: &Platform) -> Result<Children, Problem> {
    let Strict(index) = serde_json::from_slice::<Strict<Index>>(document).map_err(|_| Problem::Forged)?;
    let listed = index.manifests.unwrap_or_default();
    let used = listed.iter().filter(|Strict(child)| child.used_on(platform) != Use::Never);
    let used = used.map(|Strict(child)| Digest::parse(&child.digest).ok_or(Problem::Forged));
    Ok(Children { used: used.collect::<Result<_, _>>()?, count: listed.len() })
}

/// What an index lists.
pub(in crate::images) struct Children {
    /// The manifests that the engine might use.
    pub(in crate::images) used: Vec<Digest>,
    /// How many there are.
    pub(in crate::images) count: usize,
}

fn parse(json: &HashMap<Digest, Bytes>, digest: &Digest) -> Result<Option<Manifest>, Problem> {
    let Some(document) = json.get(digest) else { return Ok(None) };
    let Strict(manifest) = serde_json::from_slice(document).map_err(|_| Problem::Forged)?;
    Ok(Some(manifest))
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Strict<DescriptorPlatform>>,
}

#[derive(Deserialize)]
struct DescriptorPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
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
        let Some(Strict(platform)) = &self.platform else { return Use::Might };
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
    config: Option<Strict<Descriptor>>,
    #[serde(default)]
    layers: Vec<Strict<Descriptor>>,
    #[serde(default)]
    manifests: Vec<Strict<Descriptor>>,
}

/// An index alone: what an image has beside is not read.
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
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }

    fn claims(documents: &[&[u8]], root: &[u8]) -> Result<Vec<Vec<LayerClaim>>, Problem> {
        let json = documents.iter().map(|bytes| (digest(bytes), Bytes::copy_from_slice(bytes))).collect();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        claims_of(&digest(root), &json, &platform)
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
        let expected = vec![vec![LayerClaim { blob, diff_id: diff_id.clone() }]];
        let documents = [config.as_bytes(), manifest.as_bytes(), index.as_bytes()];
        assert_eq!(claims(&documents, manifest.as_bytes()), Ok(expected.clone()));
        assert_eq!(claims(&documents, index.as_bytes()), Ok(expected.clone()));
        // A config or a manifest is not there.
        assert_eq!(claims(&documents[1..], manifest.as_bytes()), Err(Problem::Incomplete));
        assert_eq!(claims(&documents[..2], index.as_bytes()), Err(Problem::Incomplete));
        // A child that the engine would take must be there, under whatever name it has its platform.
        let absent = digest(b"absent");
        for architecture in ["amd64", "x86_64", "AMD64", "x86-64"] {
            let index =
                format!(r#"{{"manifests":[{},{}]}}"#, child(architecture, &absent), child("amd64", &own));
            let documents = [documents[0], documents[1], index.as_bytes()];
            assert_eq!(claims(&documents, index.as_bytes()), Err(Problem::Incomplete), "{index}");
        }
        // What the engine itself has read.
        let read = |layers: &[&Digest]| ImageInspect {
            root_fs: Some(bollard::models::ImageInspectRootFs {
                typ: "layers".to_owned(),
                layers: Some(layers.iter().map(ToString::to_string).collect()),
            }),
            ..ImageInspect::default()
        };
        assert!(is_read(&expected, &read(&[&diff_id])) && is_read(&expected, &ImageInspect::default()));
        assert!(!is_read(&expected, &read(&[&own])) && !is_read(&expected, &read(&[&diff_id, &diff_id])));
        // An index of the index.
        let nested = format!(r#"{{"manifests":[{}]}}"#, child("amd64", &digest(index.as_bytes())));
        let with_nested = [documents.as_slice(), &[nested.as_bytes()]].concat();
        assert_eq!(claims(&with_nested, nested.as_bytes()), Err(Problem::Nested));
        let other = format!(r#"{{"manifests":[{}]}}"#, child("arm64", &own));
        let with_other = [documents[1], other.as_bytes()];
        assert_eq!(claims(&with_other, other.as_bytes()), Err(Problem::OtherPlatform));
    }

    #[test]
    fn what_go_reads_otherwise_is_refused() {
        fn reads<T: serde::de::DeserializeOwned>(text: &str) -> bool {
            serde_json::from_str::<Strict<T>>(text).is_ok()
        }
        assert!(reads::<Config>(r#"{"rootfs":{"diff_ids":[]},"config":{"OS":"x"},"os":"linux","x":1}"#));
        assert!(!reads::<Config>(r#"{"rootfs":{"diff_ids":[]},"RootFS":{"diff_ids":["x"]}}"#));
        assert!(!reads::<Config>(r#"{"rootfs":{"diff_ids":[]},"rootfs":{"diff_ids":["x"]}}"#));
        assert!(!reads::<Config>(r#"{"rootfs":{"diff_ids":[],"diff_id\u017f":["x"]}}"#));
        assert!(reads::<Manifest>(r#"{"layers":[{"digest":"a","size":1}],"mediaType":"m"}"#));
        for text in [
            r#"{"layers":[],"Layers":[{"digest":"a"}]}"#,
            r#"{"layers":[{"digest":"a","Digest":"b"}]}"#,
            r#"{"manifests":[{"digest":"a","platform":{"os":"x"},"PLATFORM":null}]}"#,
            r#"{"manifests":[{"digest":"a","platform":{"os":"x","Os":"linux"}}]}"#,
        ] {
            assert!(!reads::<Manifest>(text), "{text}");
        }
        assert!(!reads::<Config>(r#"[{"diff_ids":[]}]"#), "a list is no object");
    }
}
