//! The manifest and the blobs that an engine gets of a pull.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    MANIFEST, Server,
    recorder::ok,
    relay::{PATH, ask, digest, header, parts, puller, repository},
};
use crate::{
    fault::Fault,
    names::Reference,
    registry::{CONFIG_BYTES_MAX, Layers, Relay},
    tasks::Group,
};

#[tokio::test]
async fn the_engine_gets_what_was_hashed_and_no_other_bytes() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let registry =
        Server::start(None, |head| ok(if head.contains("manifests") { MANIFEST } else { "blob" })).await;
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
    let mut repository = repository(&reference);
    let manifest = repository.manifest(&reference).await.unwrap();
    let heard = registry.heard().len();
    let by_digest = format!("/v2/{PATH}/manifests/{}", manifest.digest());
    let parts = parts(b"config", &[b"blob", b"another"]);
    let transfer = relay.pull(PATH, repository, manifest, parts, Layers::WithoutZstd, puller()).unwrap();
    assert!(ask(&transfer, "GET", &by_digest, "").await.ends_with(MANIFEST));
    assert!(ask(&transfer, "HEAD", &by_digest, "").await.ends_with("\r\n\r\n"));
    assert_eq!(registry.heard().len(), heard, "the registry may say something else the second time");

    // No other manifest exists for the engine.
    let other = format!("/v2/{PATH}/manifests/{}", digest(b"other"));
    assert!(ask(&transfer, "GET", &other, "").await.starts_with("HTTP/1.1 404"));
    assert_eq!(registry.heard().len(), heard);

    let blob = |of: &[u8]| format!("/v2/{PATH}/blobs/{}", digest(of));
    // Nor any blob that wharfd has not read in the manifest: the engine may read another name there.
    assert!(ask(&transfer, "GET", &blob(b"elsewhere"), "").await.starts_with("HTTP/1.1 404"));
    assert_eq!(registry.heard().len(), heard);
    assert!(ask(&transfer, "GET", &blob(b"blob"), "").await.ends_with("blob"));
    assert!(transfer.failure(Fault::internal).is_none());
    ask(&transfer, "GET", &blob(b"another"), "").await;
    let fault = transfer.failure(|error| error.fault(&reference, false)).unwrap();
    assert!(fault.text().contains("do not match the digest"), "{fault}");
    for (method, path) in [("POST", "blobs/uploads/"), ("PUT", "manifests/1"), ("GET", "manifests/1")] {
        let answer = ask(&transfer, method, &format!("/v2/{PATH}/{path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
    }
}

#[tokio::test]
async fn the_engine_gets_no_config_that_is_too_large() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let large = "x".repeat(CONFIG_BYTES_MAX + 1);
    let of = digest(large.as_bytes());
    let manifest = format!("{{\"config\":{{\"digest\":\"{of}\",\"size\":1}}}}");
    let served = large.clone();
    let tells = Arc::new(AtomicBool::new(true));
    let tells_length = Arc::clone(&tells);
    let registry = Server::start(None, move |head| match head {
        head if head.contains("manifests/1 ") => ok(&manifest),
        head if head.contains("manifests/2 ") => ok(MANIFEST),
        _ if tells_length.load(Ordering::Relaxed) => ok(&served),
        _ => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{served}"),
    })
    .await;
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
    let mut repository = repository(&reference);
    let blob = format!("/v2/{PATH}/blobs/{of}");
    for tells_it in [true, false] {
        tells.store(tells_it, Ordering::Relaxed);
        let proven = repository.manifest(&reference).await.unwrap();
        let transfer = relay
            .pull(
                PATH,
                repository.clone(),
                proven,
                parts(large.as_bytes(), &[]),
                Layers::WithoutZstd,
                puller(),
            )
            .unwrap();
        let answer = ask(&transfer, "GET", &blob, "").await;
        assert!(!answer.ends_with(&large), "{}", answer.len());
        let fault = transfer.failure(|error| error.fault(&reference, false)).unwrap();
        assert!(fault.text().contains("its config is larger than 1 MiB"), "{fault}");
    }
    // A layer may be as large.
    tells.store(true, Ordering::Relaxed);
    let other = Reference::parse(&format!("{}/team/app:2", registry.host())).unwrap();
    let other = repository.manifest(&other).await.unwrap();
    let transfer = relay
        .pull(PATH, repository, other, parts(b"config", &[large.as_bytes()]), Layers::WithoutZstd, puller())
        .unwrap();
    assert!(ask(&transfer, "GET", &blob, "").await.ends_with(&large));
}

/// An engine reads a document by its type: what an index lists it may have already, of another's.
#[tokio::test]
async fn the_engine_never_hears_of_an_index() {
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let relay = Relay::bind(&Group::root()).await.unwrap();
    for (told, written, expected) in [
        ("application/vnd.oci.image.index.v1+json", DOCKER, DOCKER),
        ("text/plain", "application/vnd.oci.image.index.v1+json", OCI),
        (DOCKER, OCI, DOCKER),
        ("", "", OCI),
    ] {
        let document = format!(r#"{{"mediaType":"{written}","config":{{}},"layers":[]}}"#);
        let registry = Server::start(None, move |_| {
            let length = document.len();
            format!("HTTP/1.1 200 OK\r\ncontent-type: {told}\r\ncontent-length: {length}\r\n\r\n{document}")
        })
        .await;
        let reference = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
        let mut repository = repository(&reference);
        let manifest = repository.manifest(&reference).await.unwrap();
        let path = format!("/v2/{PATH}/manifests/{}", manifest.digest());
        let transfer = relay
            .pull(PATH, repository, manifest, parts(b"config", &[]), Layers::WithoutZstd, puller())
            .unwrap();
        assert_eq!(header(&ask(&transfer, "GET", &path, "").await, "content-type"), expected, "{told}");
    }
}
