//! Indexes, which list an image's manifests by platform. The engine never sees one: wharfd chooses the manifest of
//! the engine's platform, as the engine itself would (containerd's `platforms.Only` and `images.LimitManifests`), and
//! the engine pulls that. So it reads one manifest, one config and layers, whatever else an index lists.

use serde::{Deserialize, de::IgnoredAny};

use super::layers::{
    Problem,
    claims::{ImageManifest, Written},
    strict::Strict,
};
use crate::{
    engine::Platform,
    go_json::zero,
    names::{NormalPlatform, reference::Digest},
};

/// A document that a registry shows as a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// The manifest of an image.
    Image(ImageManifest),
    /// An index, and its entry for the platform, which may be an index again.
    Index(Option<Digest>),
}

impl Document {
    /// Reads a document; of an index, chooses the entry for `platform`.
    pub(super) fn read(document: &[u8], platform: &Platform) -> Result<Self, Problem> {
        let Strict(fields) =
            serde_json::from_slice::<Strict<Fields>>(document).map_err(|_| Problem::Forged)?;
        match (fields.config, fields.manifests) {
            (None, None) => Err(Problem::NoImage),
            (None, Some(listed)) => Ok(Self::Index(choose(&listed, platform)?)),
            (Some(_), Some(listed)) if !listed.is_empty() => Err(Problem::Forged),
            (Some(config), _) => ImageManifest::new(config, fields.layers).map(Self::Image),
        }
    }
}

/// The best entry for `platform`: of equal ones the first, and one without a platform only if there is no other.
fn choose(listed: &[Entry], platform: &Platform) -> Result<Option<Digest>, Problem> {
    let own = platform.normal();
    let ranked = listed.iter().filter_map(|entry| {
        let rank = entry.platform.as_ref().map_or(Some(u32::MAX), |platform| platform.rank(&own))?;
        Some((rank, entry))
    });
    let best = ranked.min_by_key(|(rank, _)| *rank);
    best.map(|(_, entry)| Digest::parse(&entry.digest).ok_or(Problem::Forged)).transpose()
}

/// The fields of an image's manifest (`config`, `layers`) and of an index (`manifests`).
#[derive(Deserialize)]
struct Fields {
    config: Option<Strict<Written>>,
    #[serde(default, deserialize_with = "zero")]
    layers: Vec<Strict<Written>>,
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<EntryPlatform>,
}

#[derive(Deserialize)]
struct EntryPlatform {
    #[serde(default, deserialize_with = "zero")]
    os: String,
    #[serde(default, deserialize_with = "zero")]
    architecture: String,
    #[serde(default, deserialize_with = "zero")]
    variant: String,
    #[serde(default, rename = "os.features", deserialize_with = "zero")]
    features: Vec<IgnoredAny>,
}

impl EntryPlatform {
    /// As [`NormalPlatform::rank_on`]; `None` if it wants more of the system.
    fn rank(&self, own: &NormalPlatform) -> Option<u32> {
        let normal = NormalPlatform::of(&self.os, &self.architecture, &self.variant);
        if self.features.is_empty() { normal.rank_on(own) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::from_sha256(Sha256::digest(name).into())
    }

    fn entry(name: &str, platform: &Value) -> Value {
        json!({"digest": digest(name).as_str(), "platform": platform})
    }

    /// The entry that is chosen on `own`, `linux/arm/v7`, of entries with these platforms.
    fn chosen(own: &str, platforms: &[Value]) -> Option<usize> {
        let entries: Vec<Value> =
            platforms.iter().enumerate().map(|(at, platform)| entry(&at.to_string(), platform)).collect();
        let mut parts = own.split('/').map(str::to_owned);
        let mut part = || parts.next();
        let platform = Platform { os: part().unwrap(), architecture: part().unwrap(), variant: part() };
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let Ok(Document::Index(found)) = Document::read(index.as_bytes(), &platform) else {
            panic!("no index: {index}")
        };
        found.map(|found| (0..platforms.len()).find(|at| digest(&at.to_string()) == found).unwrap())
    }

    fn platform(text: &str) -> Value {
        let mut parts = text.split('/');
        json!({"os": parts.next(), "architecture": parts.next(), "variant": parts.next()})
    }

    #[test]
    fn the_manifest_of_the_platform_is_chosen_as_containerd_does() {
        for (own, listed, expected) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64", "linux/amd64/v1"][..], Some(1)),
            ("linux/amd64", &["windows/amd64", "linux/amd64/v3", "linux/386", "unknown/unknown"], None),
            ("linux/amd64", &["Linux/X86_64", "linux/amd64"], Some(0)),
            ("linux/amd64", &["/x86-64/V1"], Some(0)),
            ("linux/arm64", &["linux/arm/v7", "linux/aarch64/v8"], Some(1)),
            ("linux/arm64", &["linux/arm64/v9", "linux/arm64/v8.0"], Some(1)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm64", "linux/arm/v8"], Some(1)),
            ("linux/arm/v7", &["linux/armel", "linux/armhf"], Some(1)),
            ("linux/arm/v6", &["linux/arm", "linux/arm/5", "linux/arm/v4"], Some(1)),
            ("linux/s390x", &["linux/s390x/v1", "linux/s390x"], Some(1)),
            ("linux/s390x", &[], None),
        ] {
            let platforms: Vec<Value> = listed.iter().map(|text| platform(text)).collect();
            assert_eq!(chosen(own, &platforms), expected, "{own} {listed:?}");
        }
        // One without a platform is the last choice; one that requires more of the system is not a candidate.
        let (any, own) = (Value::Null, platform("linux/amd64"));
        assert_eq!(chosen("linux/amd64", &[any.clone(), own.clone()]), Some(1));
        assert_eq!(chosen("linux/amd64", &[platform("linux/arm64"), any.clone(), any]), Some(1));
        let odd = json!({"os": "linux", "architecture": "amd64", "os.features": ["erofs"]});
        assert_eq!(chosen("linux/amd64", &[odd, own]), Some(1));
    }

    #[test]
    fn a_document_is_an_image_or_an_index() {
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let read = |text: &str| Document::read(text.as_bytes(), &platform);
        let config = format!(r#""config":{{"digest":"{}"}}"#, digest("config"));
        for more in ["", r#","manifests":null"#, r#","manifests":[]"#, r#","layers":null"#] {
            let image = format!("{{{config}{more}}}");
            assert!(matches!(read(&image), Ok(Document::Image(_))), "{image}");
        }
        for index in [r#"{"manifests":[]}"#, r#"{"config":null,"manifests":[]}"#] {
            assert_eq!(read(index), Ok(Document::Index(None)), "{index}");
        }
        for neither in ["{}", r#"{"manifests":null}"#, r#"{"layers":[]}"#] {
            assert_eq!(read(neither), Err(Problem::NoImage), "{neither}");
        }
        // Go would read another one of the two.
        for odd in [
            &format!(r#"{{{config},"manifests":[{{"digest":"x"}}]}}"#),
            &format!(r#"{{{config},"Manifests":[{{"digest":"x"}}]}}"#),
            &format!(r#"{{{config},"manifests":[],"manifests":[{{"digest":"x"}}]}}"#),
            r#"{"config":{}}"#,
            r#"{"config":{"digest":"sha256:1"}}"#,
            &format!(r#"{{{config},"layers":[{{}}]}}"#),
            r#"{"manifests":[],"Config":{}}"#,
            r#"{"manifests":[{"digest":"x"}]}"#,
            r#"{"manifests":[{}]}"#,
            "[]",
            "",
        ] {
            assert_eq!(read(odd), Err(Problem::Forged), "{odd}");
        }
    }
}
