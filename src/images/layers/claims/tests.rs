use sha2::{Digest as _, Sha256};

use super::*;
use crate::{engine::Platform, images::index::Document};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn image(manifest: &str) -> Result<ImageManifest, Problem> {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    match Document::read(manifest.as_bytes(), &platform)? {
        Document::Image(image) => Ok(image),
        Document::Index(_) => panic!("an index: {manifest}"),
    }
}

fn claims(manifest: &str, config: &str) -> Result<Vec<LayerClaim>, Problem> {
    image(manifest)?.claims(config.as_bytes())
}

#[test]
fn claims_are_read_from_the_manifest_and_its_config() {
    let (blob, diff_id, own) = (digest(b"blob"), digest(b"diff"), digest(b"config"));
    let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
    let manifest = format!(
        r#"{{"config":{{"mediaType":"{CONFIG}","digest":"{own}"}},"layers":[{{"mediaType":"{LAYER}","size":7,"digest":"{blob}"}}]}}"#
    );
    let layer = LayerFact { diff_id: diff_id.clone(), packing: Packing::Gzip, size: 7 };
    let expected = vec![LayerClaim { blob, layer }];
    assert_eq!(image(&manifest).unwrap().config(), Ok(&own));
    assert_eq!(claims(&manifest, &config), Ok(expected.clone()));
    // The layers that the engine shows.
    let read = |layers: &[&Digest]| ImageInspect {
        root_fs: Some(bollard::models::ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(layers.iter().map(ToString::to_string).collect()),
        }),
        ..ImageInspect::default()
    };
    assert!(is_read(&expected, &read(&[&diff_id])) && is_read(&expected, &ImageInspect::default()));
    assert!(!is_read(&expected, &read(&[&own])) && !is_read(&expected, &read(&[&diff_id, &diff_id])));
}

/// The engine decides by the type of a descriptor how it reads the content, and may have that already.
#[test]
fn parts_have_the_types_of_their_places() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let own = digest(b"own");
    let config = |kind: &str, more: &str| {
        let manifest = format!(r#"{{"config":{{"mediaType":"{kind}","digest":"{own}"{more}}},"layers":[]}}"#);
        image(&manifest)?.config().cloned()
    };
    let layer = |kind: &str, more: &str| {
        let layer = format!(r#"{{"mediaType":"{kind}","digest":"{own}"{more}}}"#);
        let rootfs = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{own}"]}}}}"#);
        claims(&format!(r#"{{"config":{{"digest":"{own}"}},"layers":[{layer}]}}"#), &rootfs).map(drop)
    };
    for kind in [CONFIG, "application/octet-stream"] {
        assert_eq!(config(kind, ""), Ok(own.clone()), "{kind}");
    }
    assert_eq!(layer(LAYER, r#","urls":[]"#), Ok(()));
    for kind in [INDEX, "", "application/vnd.in-toto+json"] {
        assert_eq!(config(kind, ""), Err(Problem::Unknown), "{kind}");
        assert_eq!(layer(kind, ""), Err(Problem::Unknown), "{kind}");
    }
    for more in [r#","urls":["http://x/"]"#, r#","data":"e30=""#] {
        assert_eq!(config(CONFIG, more), Err(Problem::Elsewhere), "{more}");
        assert_eq!(layer(LAYER, more), Err(Problem::Elsewhere), "{more}");
    }
}

#[test]
fn an_image_may_have_no_layers() {
    for rootfs in [
        r#""rootfs":{"type":"layers","diff_ids":[]},"#,
        r#""rootfs":{"type":"layers","diff_ids":null},"#,
        r#""rootfs":{"type":"layers"},"#,
    ] {
        for layers in [r#""layers":[],"#, r#""layers":null,"#, ""] {
            let config = format!(r#"{{{rootfs}"history":null}}"#);
            let manifest = format!(
                r#"{{{layers}"manifests":null,"config":{{"mediaType":"{CONFIG}","size":null,"urls":null,"data":null,"digest":"{}"}}}}"#,
                digest(config.as_bytes())
            );
            assert_eq!(claims(&manifest, &config), Ok(vec![]), "{config} {manifest}");
        }
        // A kind that nobody knows, or none.
        for rootfs in ["", r#""rootfs":null,"#, r#""rootfs":{"diff_ids":[]},"#, r#""rootfs":{"type":"x"},"#] {
            let config = format!(r#"{{{rootfs}"history":null}}"#);
            let manifest = format!(
                r#"{{"config":{{"mediaType":"{CONFIG}","digest":"{}"}}}}"#,
                digest(config.as_bytes())
            );
            assert_eq!(claims(&manifest, &config), Err(Problem::Forged), "{config}");
        }
        // Layers that the config does not mention.
        let config = format!("{{{rootfs}}}");
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar"}"#;
        let of = digest(config.as_bytes());
        for layer in [layer, "null"] {
            let manifest =
                format!(r#"{{"layers":[{layer}],"config":{{"mediaType":"{CONFIG}","digest":"{of}"}}}}"#);
            assert_eq!(claims(&manifest, &config), Err(Problem::Forged), "{config} {manifest}");
        }
    }
}

#[test]
fn what_go_reads_otherwise_is_refused() {
    fn reads<T: serde::de::DeserializeOwned>(text: &str) -> bool {
        serde_json::from_str::<Strict<T>>(text).is_ok()
    }
    assert!(reads::<Config>(
        r#"{"rootfs":{"type":"layers","diff_ids":[]},"config":{"OS":"x"},"os":"linux","x":1}"#
    ));
    assert!(!reads::<Config>(r#"{"rootfs":{"type":"","diff_ids":[]},"RootFS":{"diff_ids":["x"]}}"#));
    assert!(!reads::<Config>(r#"{"rootfs":{"type":"","diff_ids":[]},"rootfs":{"diff_ids":["x"]}}"#));
    assert!(!reads::<Config>(r#"{"rootfs":{"type":"","diff_ids":[],"diff_id\u017f":["x"]}}"#));
    // A manifest with these fields before its closing brace.
    let named = |digest: &Digest| format!(r#"{{"digest":"{digest}"}}"#);
    let (config, layer) = (named(&digest(b"config")), digest(b"layer"));
    let manifest =
        |fields: &str| format!(r#"{{"config":{config},{}}}"#, fields.replace("LAYER", layer.as_str()));
    assert!(image(&manifest(r#""layers":[{"digest":"LAYER","size":1}],"mediaType":"m""#)).is_ok());
    for fields in [
        r#""layers":[],"Layers":[{"digest":"LAYER"}]"#,
        r#""layers":[{"digest":"LAYER"}],"layers":null"#,
        r#""layers":null,"layers":[{"digest":"LAYER"}]"#,
        r#""layers":[{"digest":"LAYER","Digest":"b"}]"#,
        r#""layers":[{"digest":"LAYER","URLs":["http://x/"]}]"#,
        r#""layers":[{"digest":"LAYER","mediatype":"b"}]"#,
        r#""layers":[{"digest":"LAYER","mediaType":"b","MediaType":"c"}]"#,
        r#""layers":[{"digest":"LAYER","\u017fize":1}]"#,
        r#""Config":{"digest":"d"}"#,
        r#""config":{"digest":"d"}"#,
        r#""Manifests":[]"#,
    ] {
        assert_eq!(image(&manifest(fields)), Err(Problem::Forged), "{fields}");
    }
    assert!(!reads::<Config>(r#"[{"diff_ids":[]}]"#), "a list is no object");
}

#[test]
fn the_parts_are_those_that_the_engine_reads() {
    let [config, layer] = [digest(b"config"), digest(b"layer")];
    let manifest = |config: &str, layers: &str| format!(r#"{{"config":{{{config}}},"layers":[{layers}]}}"#);
    let named = |digest: &Digest| format!(r#""digest":"{digest}""#);
    let read = |manifest: String| image(&manifest).map(|image| image.parts());
    let expected = Parts { config: config.clone(), layers: [layer.clone()].into() };
    let layers = format!("{{{}}}", named(&layer));
    assert_eq!(read(manifest(&named(&config), &layers)), Ok(expected));
    for twice in ["Digest", "DIGEST", "dige\u{17f}t", "digest"] {
        let both = format!(r#"{},"{twice}":"{layer}""#, named(&config));
        assert_eq!(read(manifest(&both, &layers)), Err(Problem::Forged), "{twice}");
        assert_eq!(read(manifest(&named(&config), &format!("{{{both}}}"))), Err(Problem::Forged), "{twice}");
    }
    assert_eq!(read(manifest(r#""digest":"sha256:1""#, "")), Err(Problem::Forged));
}
