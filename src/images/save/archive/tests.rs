//! Tests of the archive, from exports as engines make them.

use std::{collections::BTreeMap, time::Duration};

use futures_util::stream;

use super::*;
use crate::{engine::docker::lines::never_silent, progress::Reporter};

const CLASSIC_INDEX: &str = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",
    "digest":"sha256:aa","size":3,"annotations":{"io.containerd.image.name":"wharf.invalid/secret/app:1"}}]}"#;
const CLASSIC_MANIFEST: &str = r#"[{"Config":"blobs/sha256/cc","RepoTags":["wharf.invalid/secret/app:1"],
    "Layers":["blobs/sha256/bb"],"Parent":"sha256:parent","LayerSources":{"sha256:bb":{"size":4}}}]"#;

/// The path of a blob whose digest ends so.
fn blob(name: &str) -> String {
    format!("blobs/sha256/{name:0>64}")
}

/// The export of an image with these blobs.
fn export(blobs: &[(&str, &str)], index: &str, manifest: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    };
    for (name, content) in blobs {
        add(&blob(name), content);
    }
    add("blobs/sha256/escape", "no blob");
    add("repositories", r#"{"wharf.invalid/secret/app":{"1":"aa"}}"#);
    add("index.json", index);
    add("manifest.json", manifest);
    tar.into_inner().unwrap()
}

fn references(texts: &[&str]) -> Vec<Reference> {
    texts.iter().map(|text| Reference::parse(text).unwrap()).collect()
}

async fn archive(images: &[(Vec<u8>, Vec<Reference>)]) -> Result<Vec<u8>, Problem> {
    let (sender, mut pieces) = mpsc::channel(1000);
    let (reporter, _changes) = Reporter::channel();
    let step = reporter.step("save");
    let mut archive = Archive::new(sender, Layout::Docker);
    for (export, references) in images {
        archive.add(export.as_slice(), references, &step).await?;
    }
    archive.end().await?;
    let mut all = Vec::new();
    while let Some(piece) = pieces.recv().await {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn files(archive: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = String::new();
        std::io::Read::read_to_string(&mut entry, &mut content).unwrap();
        (path, content)
    });
    let all: Vec<_> = entries.collect();
    let files: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(files.len(), all.len(), "no file is there twice");
    files
}

#[tokio::test]
async fn an_archive_has_the_namespaces_names_alone() {
    let one = export(&[("aa", "man"), ("bb", "laye"), ("cc", "conf")], CLASSIC_INDEX, CLASSIC_MANIFEST);
    let names = references(&["app:1", "reg.example/app:2"]);
    let written = archive(&[(one.clone(), names.clone())]).await.unwrap();
    assert!(!String::from_utf8_lossy(&written).contains("secret"));
    let files = files(&written);
    assert_eq!(files[&blob("bb")], "laye");
    let index: Value = serde_json::from_str(&files["index.json"]).unwrap();
    let annotation = |at: usize, key: &str| index["manifests"][at]["annotations"][key].clone();
    assert_eq!(annotation(0, "io.containerd.image.name"), "docker.io/library/app:1");
    assert_eq!(annotation(1, "io.containerd.image.name"), "reg.example/app:2");
    assert_eq!(annotation(1, "org.opencontainers.image.ref.name"), "2");
    let listed: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    assert_eq!(
        listed,
        json!([{"Config": "blobs/sha256/cc", "RepoTags": ["app:1", "reg.example/app:2"],
            "Layers": ["blobs/sha256/bb"], "LayerSources": {"sha256:bb": {"size": 4}}}])
    );
    // The engine's times are not in it.
    assert_eq!(written, archive(&[(one, names)]).await.unwrap());
}

#[tokio::test]
async fn images_share_their_blobs_and_may_have_no_name() {
    let one = export(&[("aa", "man"), ("bb", "laye"), ("cc", "conf")], CLASSIC_INDEX, CLASSIC_MANIFEST);
    let index = CLASSIC_INDEX.replace("sha256:aa", "sha256:dd");
    let two = export(&[("dd", "two"), ("bb", "laye"), ("cc", "conf")], &index, CLASSIC_MANIFEST);
    let written = archive(&[(one, references(&["app:1"])), (two, Vec::new())]).await.unwrap();
    let files = files(&written);
    assert_eq!(files.keys().filter(|path| path.starts_with("blobs/")).count(), 4);
    let index: Value = serde_json::from_str(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"][1]["digest"], "sha256:dd");
    assert!(index["manifests"][1].get("annotations").is_none());
    let listed: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    assert!(listed[1]["RepoTags"].is_null());
}

#[tokio::test]
async fn a_blob_of_several_pieces_is_whole() {
    let large = "x".repeat(3 * PIECE_BYTES + 17);
    let one = export(&[("bb", &large)], CLASSIC_INDEX, CLASSIC_MANIFEST);
    let files = files(&archive(&[(one, Vec::new())]).await.unwrap());
    assert!(files[&blob("bb")] == large);
}

#[tokio::test]
async fn an_export_that_breaks_off_is_no_image() {
    let whole = export(&[("aa", "man"), ("bb", "laye")], CLASSIC_INDEX, CLASSIC_MANIFEST);
    assert!(archive(&[(whole.clone(), Vec::new())]).await.is_ok());
    // Docker writes its error behind a tar that has begun.
    let mut failed = whole.clone();
    failed.truncate(2 * BLOCK_BYTES);
    failed.extend_from_slice(b"{\"error\":\"no space left on device\"}");
    for broken in [&failed[..], &whole[..700], &whole[..2 * BLOCK_BYTES], b"{}", b""] {
        let result = archive(&[(broken.to_vec(), Vec::new())]).await;
        assert!(result.is_err(), "{}", broken.len());
    }
    for (index, manifest) in [("{}", CLASSIC_MANIFEST), (CLASSIC_INDEX, "[]"), ("x", CLASSIC_MANIFEST)] {
        assert!(archive(&[(export(&[], index, manifest), Vec::new())]).await.is_err(), "{index} {manifest}");
    }
}

#[tokio::test]
async fn an_engine_that_stops_in_the_middle_is_an_error() {
    let whole = export(&[("aa", "the manifest")], CLASSIC_INDEX, CLASSIC_MANIFEST);
    for bytes in [0, 100, whole.len() - 3000] {
        let begun = stream::iter([Ok(Bytes::copy_from_slice(&whole[..bytes]))]);
        let (sender, mut pieces) = mpsc::channel(1000);
        let (reporter, _changes) = Reporter::channel();
        let mut archive = Archive::new(sender, Layout::Docker);
        let export = never_silent(begun.chain(stream::pending()), Duration::from_millis(10));
        let added = archive.add(export, &[], &reporter.step("save")).await;
        assert!(matches!(&added, Err(Problem::Unreadable(_))), "after {bytes} bytes: {added:?}");
        pieces.close();
    }
}
