use sha2::{Digest as _, Sha256};

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

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
        r#"{{"config":{{"mediaType":"{CONFIG}","digest":"{}"}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":7,"digest":"{blob}"}}]}}"#,
        digest(config.as_bytes())
    );
    let child = |architecture: &str, digest: &Digest| {
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
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

/// An entry of an index.
fn child(digest: &Digest, os: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: HashMap<_, _> = annotations.iter().copied().collect();
    let platform = serde_json::json!({"os": os, "architecture": "amd64"});
    serde_json::json!({
        "mediaType": MANIFEST, "digest": digest.as_str(), "platform": platform, "annotations": annotations,
    })
    .to_string()
}

fn read_children(entries: &[String]) -> Result<Children, Problem> {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    children(format!(r#"{{"manifests":[{}]}}"#, entries.join(",")).as_bytes(), &platform)
}

const OF: &str = "vnd.docker.reference.digest";
const KIND: (&str, &str) = ("vnd.docker.reference.type", "attestation-manifest");

#[test]
fn attestations_of_what_is_used_are_known() {
    let (own, other, statement) = (digest(b"own"), digest(b"other"), digest(b"statement"));
    let image = child(&own, "linux", &[]);
    let attestations = |entry: String| read_children(&[image.clone(), entry]).map(|read| read.attestations);
    let known = child(&statement, "unknown", &[(OF, own.as_str()), KIND, ("x", "y")]);
    assert_eq!(attestations(known.clone()), Ok(vec![statement.clone()]));
    assert_eq!(attestations(known.replace(r#""x":"y""#, r#""x":null"#)), Ok(vec![statement.clone()]));
    // Of another image, of another kind, or none.
    for entry in [
        child(&statement, "unknown", &[(OF, other.as_str()), KIND]),
        child(&statement, "unknown", &[(OF, own.as_str()), (KIND.0, "x")]),
        child(&statement, "unknown", &[]),
        known.replace("annotations", "x"),
        known.replace("annotations\":{", "annotations\":null,\"x\":{"),
    ] {
        assert_eq!(attestations(entry.clone()), Ok(Vec::new()), "{entry}");
    }
    // The engine follows more than BuildKit makes: it takes the last of several, and asks for those of an
    // attestation, and for what refers as containerd writes it.
    let second = child(&digest(b"second"), "unknown", &[(OF, own.as_str()), KIND]);
    let of_statement = child(&digest(b"third"), "unknown", &[(OF, statement.as_str()), KIND]);
    let other_kind = child(&statement, "unknown", &[("io.containerd.manifest.subject", own.as_str())]);
    for entries in [vec![&known, &second], vec![&known, &of_statement], vec![&other_kind]] {
        let entries: Vec<_> = [&image].into_iter().chain(entries).cloned().collect();
        assert!(matches!(read_children(&entries), Err(Problem::Attestations)), "{entries:?}");
    }
    assert!(read_children(&[image.clone(), known.replace("annotations", "Annotations")]).is_err());
    let index = known.replace(MANIFEST, "application/vnd.oci.image.index.v1+json");
    assert!(matches!(read_children(&[image, index]), Err(Problem::Nested)));
}

/// The engine decides by the type of a descriptor how it reads the content, and may have that already.
#[test]
fn parts_have_the_types_of_their_places() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let own = digest(b"own");
    let statement = |kind: &str, more: &str| {
        let config = format!(r#"{{"mediaType":"{EMPTY}","digest":"{own}","data":"e30="}}"#);
        let part = format!(r#"{{"mediaType":"{kind}","digest":"{own}"{more}}}"#);
        check_attestation(format!(r#"{{"config":{config},"layers":[{part}]}}"#).as_bytes())
    };
    let in_toto = "application/vnd.in-toto+json";
    assert_eq!(statement(in_toto, ""), Ok(()));
    assert_eq!(statement(in_toto, r#","urls":["http://x/"]"#), Err(Problem::Elsewhere));
    assert_eq!(statement(in_toto, r#","data":"e30=""#), Err(Problem::Elsewhere));
    for kind in [INDEX, MANIFEST, "", "application/vnd.oci.image.layer.v1.tar"] {
        assert_eq!(statement(kind, ""), Err(Problem::Attestations), "{kind}");
    }
    assert_eq!(check_attestation(br#"{"manifests":[{"digest":"x"}]}"#), Err(Problem::Nested));

    let config = r#"{"rootfs":{"type":"layers"},"manifests":[]}"#;
    for (kind, result) in [
        (CONFIG, Ok(vec![Vec::new()])),
        ("application/octet-stream", Ok(vec![Vec::new()])),
        (INDEX, Err(Problem::Unknown)),
        ("", Err(Problem::Unknown)),
    ] {
        let of = digest(config.as_bytes());
        let manifest = format!(r#"{{"config":{{"mediaType":"{kind}","digest":"{of}"}},"layers":[]}}"#);
        assert_eq!(claims(&[config.as_bytes(), manifest.as_bytes()], manifest.as_bytes()), result, "{kind}");
    }
    // A document that is an image by one type and an index by another.
    let both = format!(
        r#"{{"config":{{"mediaType":"{CONFIG}","digest":"{own}"}},"manifests":[{{"digest":"{own}"}}]}}"#
    );
    assert_eq!(claims(&[both.as_bytes()], both.as_bytes()), Err(Problem::Forged));
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
            let documents = [config.as_bytes(), manifest.as_bytes()];
            assert_eq!(claims(&documents, documents[1]), Ok(vec![vec![]]), "{config} {manifest}");
        }
        // A kind that nobody knows, or none.
        for rootfs in ["", r#""rootfs":null,"#, r#""rootfs":{"diff_ids":[]},"#, r#""rootfs":{"type":"x"},"#] {
            let config = format!(r#"{{{rootfs}"history":null}}"#);
            let manifest = format!(
                r#"{{"config":{{"mediaType":"{CONFIG}","digest":"{}"}}}}"#,
                digest(config.as_bytes())
            );
            let documents = [config.as_bytes(), manifest.as_bytes()];
            assert_eq!(claims(&documents, documents[1]), Err(Problem::Forged), "{config}");
        }
        // Layers of which the config says nothing.
        let config = format!("{{{rootfs}}}");
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar"}"#;
        let of = digest(config.as_bytes());
        for layer in [layer, "null"] {
            let manifest =
                format!(r#"{{"layers":[{layer}],"config":{{"mediaType":"{CONFIG}","digest":"{of}"}}}}"#);
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
