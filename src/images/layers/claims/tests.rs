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
        r#"{{"config":{{"digest":"{}"}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":7,"digest":"{blob}"}}]}}"#,
        digest(config.as_bytes())
    );
    let child = |architecture: &str, digest: &Digest| {
        format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
    };
    let own = digest(manifest.as_bytes());
    let index =
        format!(r#"{{"manifests":[{},{}]}}"#, child("arm64", &digest(b"absent")), child("amd64", &own));
    let expected = vec![vec![LayerClaim {
        blob,
        layer: LayerFact { diff_id: diff_id.clone(), packing: Packing::Gzip, size: 7 },
    }]];
    let documents = [config.as_bytes(), manifest.as_bytes(), index.as_bytes()];
    assert_eq!(claims(&documents, manifest.as_bytes()), Ok(expected.clone()));
    assert_eq!(claims(&documents, index.as_bytes()), Ok(expected.clone()));
    // A config or a manifest is missing.
    assert_eq!(claims(&documents[1..], manifest.as_bytes()), Err(Problem::Incomplete));
    assert_eq!(claims(&documents[..2], index.as_bytes()), Err(Problem::Incomplete));
    // A child that the engine would use must be present, whatever name it uses for the platform.
    let absent = digest(b"absent");
    for architecture in ["amd64", "x86_64", "AMD64", "x86-64"] {
        let index = format!(r#"{{"manifests":[{},{}]}}"#, child(architecture, &absent), child("amd64", &own));
        let documents = [documents[0], documents[1], index.as_bytes()];
        assert_eq!(claims(&documents, index.as_bytes()), Err(Problem::Incomplete), "{index}");
    }
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
    // An index in an index.
    let nested = format!(r#"{{"manifests":[{}]}}"#, child("amd64", &digest(index.as_bytes())));
    let with_nested = [documents.as_slice(), &[nested.as_bytes()]].concat();
    assert_eq!(claims(&with_nested, nested.as_bytes()), Err(Problem::Nested));
    let other = format!(r#"{{"manifests":[{}]}}"#, child("arm64", &own));
    let with_other = [documents[1], other.as_bytes()];
    assert_eq!(claims(&with_other, other.as_bytes()), Err(Problem::OtherPlatform));
}

#[test]
fn attestations_of_what_is_used_are_known() {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let (own, other, statement) = (digest(b"own"), digest(b"other"), digest(b"statement"));
    let child = |of: &Digest, os: &str, kind: &str| {
        format!(
            r#"{{"manifests":[{{"digest":"{own}","platform":{{"os":"linux","architecture":"amd64"}}}},{{"digest":"{statement}","platform":{{"os":"{os}","architecture":"amd64"}},"annotations":{{"vnd.docker.reference.digest":"{of}","vnd.docker.reference.type":"{kind}","x":null}}}}]}}"#
        )
    };
    let attestations = |index: &str| children(index.as_bytes(), &platform).unwrap().attestations;
    let known = child(&own, "unknown", "attestation-manifest");
    assert_eq!(attestations(&known), std::slice::from_ref(&statement));
    // Of another, of another kind, or one that the engine would use.
    for index in [
        child(&other, "unknown", "attestation-manifest"),
        child(&own, "unknown", "x"),
        child(&own, "linux", "attestation-manifest"),
        known.replace("annotations", "x"),
        known.replace("annotations\":{", "annotations\":null,\"x\":{"),
    ] {
        assert_eq!(attestations(&index), [], "{index}");
    }
    let part =
        |urls: &str| format!(r#"{{"config":{{"digest":"{own}"}},"layers":[{{"digest":"{own}"{urls}}}]}}"#);
    assert_eq!(check_attestation(part("").as_bytes()), Ok(()));
    let elsewhere = part(r#","urls":["http://x/"]"#);
    assert_eq!(check_attestation(elsewhere.as_bytes()), Err(Problem::Elsewhere));
    assert_eq!(check_attestation(known.as_bytes()), Err(Problem::Nested));
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
                r#"{{{layers}"manifests":null,"config":{{"size":null,"urls":null,"digest":"{}"}}}}"#,
                digest(config.as_bytes())
            );
            let documents = [config.as_bytes(), manifest.as_bytes()];
            assert_eq!(claims(&documents, documents[1]), Ok(vec![vec![]]), "{config} {manifest}");
        }
        // A kind that nobody knows, or none.
        for rootfs in ["", r#""rootfs":null,"#, r#""rootfs":{"diff_ids":[]},"#, r#""rootfs":{"type":"x"},"#] {
            let config = format!(r#"{{{rootfs}"history":null}}"#);
            let manifest = format!(r#"{{"config":{{"digest":"{}"}}}}"#, digest(config.as_bytes()));
            let documents = [config.as_bytes(), manifest.as_bytes()];
            assert_eq!(claims(&documents, documents[1]), Err(Problem::Forged), "{config}");
        }
        // Layers of which the config says nothing.
        let config = format!("{{{rootfs}}}");
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar"}"#;
        let of = digest(config.as_bytes());
        for layer in [layer, "null"] {
            let manifest = format!(r#"{{"layers":[{layer}],"config":{{"digest":"{of}"}}}}"#);
            let documents = [config.as_bytes(), manifest.as_bytes()];
            assert_eq!(claims(&documents, documents[1]), Err(Problem::Forged), "{config} {manifest}");
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
    assert!(reads::<Manifest>(r#"{"layers":[{"digest":"a","size":1}],"mediaType":"m"}"#));
    for text in [
        r#"{"layers":[],"Layers":[{"digest":"a"}]}"#,
        r#"{"layers":[{"digest":"a"}],"layers":null}"#,
        r#"{"layers":null,"layers":[{"digest":"a"}]}"#,
        r#"{"layers":[{"digest":"a","Digest":"b"}]}"#,
        r#"{"layers":[{"digest":"a","URLs":["http://x/"]}]}"#,
        r#"{"layers":[{"digest":"a","mediatype":"b"}]}"#,
        r#"{"layers":[{"digest":"a","mediaType":"b","MediaType":"c"}]}"#,
        r#"{"layers":[{"digest":"a","\u017fize":1}]}"#,
        r#"{"manifests":[{"digest":"a","platform":{"os":"x"},"PLATFORM":null}]}"#,
        r#"{"manifests":[{"digest":"a","platform":{"os":"x","Os":"linux"}}]}"#,
    ] {
        assert!(!reads::<Manifest>(text), "{text}");
    }
    assert!(!reads::<Config>(r#"[{"diff_ids":[]}]"#), "a list is no object");
}
