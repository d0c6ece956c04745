//! Registries that do what people report of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Client, MANIFEST, PASSWORD, Server, insecure, lookups,
    recorder::{directory, ok, status, wants},
    relay::{PATH, ask, digest, header, push_to},
};
use crate::{
    fault::Reason,
    names::{CallerId, Reference},
    registry::Relay,
    tasks::Group,
};

/// docker/buildx#298, docker/setup-qemu-action#94: one reset or 503 fails a whole run. Docker of today asks again, too.
#[tokio::test]
async fn a_registry_that_fails_for_a_moment_is_asked_again() {
    let failure = |status: &'static str| super::status(status, "x: y");
    for (answers, requests, is_fine) in [
        (vec![failure("503 Service Unavailable"), String::new(), ok(MANIFEST)], 3, true),
        (vec![String::new(), ok(MANIFEST).replace("200 OK", "203 Non-Authoritative Information")], 2, true),
        (vec![failure("502 Bad Gateway"); 4], 3, false),
        (vec![failure("429 Too Many Requests"); 2], 1, false),
        (vec![failure("403 Forbidden"); 2], 1, false),
        (vec![failure("404 Not Found"); 2], 1, false),
    ] {
        let count = AtomicUsize::new(0);
        let registry =
            Server::start(None, move |_| answers[count.fetch_add(1, Ordering::Relaxed)].clone()).await;
        let client = Client::new(directory(), lookups());
        let name = format!("{}/app", registry.host());
        assert_eq!(
            super::ask(&client, &insecure(), &name, None).await.is_ok(),
            is_fine,
            "{:?}",
            registry.shown()
        );
        let asked = registry.shown().into_iter().filter(|asked| asked.contains("/manifests/")).count();
        assert_eq!(asked, requests);
    }
}

/// A proxy before it ends each long answer, as Nexus' own does after 30 seconds by default. Docker resumes, too.
#[tokio::test]
async fn a_blob_is_resumed_where_its_connection_broke() {
    const PIECE: usize = 3 << 19;
    let content = "0123456789abcdef".repeat(PIECE / 4);
    let pieces = content.len().div_ceil(PIECE);
    for (what, requests) in [("resumed", pieces), ("soon", 1), ("whole", 2), ("elsewhere", 2), ("gone", 2)] {
        let sent = content.clone();
        let registry = Server::start(None, move |head| {
            let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let start: usize = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
            let rest = &sent[start..];
            let part = &rest[..rest.len().min(if what == "soon" { PIECE / 2 } else { PIECE })];
            let told = if what == "elsewhere" { start + 1 } else { start };
            let status = match start {
                0 => "200 OK".to_owned(),
                _ if what == "whole" => "200 OK".to_owned(),
                _ if what == "gone" => "404 Not Found".to_owned(),
                _ => format!(
                    "206 Partial Content\r\ncontent-range: bytes {told}-{}/{}",
                    sent.len() - 1,
                    sent.len()
                ),
            };
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{part}", rest.len())
        })
        .await;
        let reference = Reference::parse(&format!("{}/app", registry.host())).unwrap();
        let client = Client::new(directory(), lookups());
        let mut repository = client.repository(&CallerId::Uid(1), &insecure(), &reference, None).unwrap();
        let mut blob = repository.blob(&digest(content.as_bytes())).await.unwrap();
        let mut received = 0;
        let ended = loop {
            match blob.next().await {
                Ok(Some(piece)) => received += piece.len(),
                ended => break ended,
            }
        };
        match what {
            "resumed" => assert!(ended.is_ok() && received == content.len(), "{ended:?} after {received}"),
            _ => assert_eq!(ended.unwrap_err().text(), "it closed the connection", "{what}"),
        }
        let asked = registry.shown().into_iter().filter(|asked| asked.contains("/blobs/")).count();
        assert_eq!(asked, requests, "{what}");
    }
}

/// Whoever may read needs no login there, so the manifest may be the first request that asks for one.
#[tokio::test]
async fn a_login_that_only_the_manifest_needs() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    for accepted in [PASSWORD, "none"] {
        let registry = Server::start(None, move |head| match head {
            head if !head.starts_with("PUT") => ok(""),
            head if head.contains(accepted) => status("201 Created", "x: y"),
            _ => wants("Basic realm=x"),
        })
        .await;
        let transfer = push_to(&registry, &relay).await.unwrap();
        let manifest = format!("/v2/{PATH}/manifests/{}", transfer.tag());
        let answer = ask(&transfer, "PUT", &manifest, MANIFEST).await;
        let expected = if accepted == PASSWORD { "HTTP/1.1 201" } else { "HTTP/1.1 403" };
        assert!(answer.starts_with(expected), "{answer}");
        let puts: Vec<_> = registry.shown().into_iter().filter(|asked| asked.starts_with("PUT")).collect();
        let path = "PUT /v2/team/app/manifests/1";
        assert_eq!(puts, [path.to_owned(), format!("{path} {PASSWORD}")]);
        assert!(registry.heard().last().unwrap().ends_with(MANIFEST));
    }
}

/// A login for writing alone, as on ECR without `ecr:BatchCheckLayerAvailability`: both engines fail at the look, which
/// tells no reason.
#[tokio::test]
async fn a_registry_that_shows_nothing_of_what_it_has() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let layer = digest(b"body");
    for (looked, uploads) in
        [("403 Forbidden", true), ("405 Method Not Allowed", true), ("403 Forbidden", false)]
    {
        let registry = Server::start(None, move |head| match head {
            head if head.starts_with("GET") => ok("{}"),
            head if head.starts_with("HEAD") => status(looked, "x: y"),
            head if head.starts_with("PUT") => status("201 Created", "x: y"),
            _ if uploads => status("202 Accepted", "location: /v2/team/app/blobs/uploads/1"),
            _ => {
                let body = r#"{"errors":[{"code":"DENIED","message":"not allowed: InitiateLayerUpload"}]}"#;
                format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
        })
        .await;
        let transfer = push_to(&registry, &relay).await.unwrap();
        let (blob, uploading) = (format!("/v2/{PATH}/blobs/{layer}"), format!("/v2/{PATH}/blobs/uploads/"));
        assert!(ask(&transfer, "HEAD", &blob, "").await.starts_with("HTTP/1.1 404"));
        let begun = ask(&transfer, "POST", &uploading, "").await;
        if !uploads {
            transfer.refused().await;
            let target = Reference::parse("reg.example/app:1").unwrap();
            let fault = transfer.failure(|error| error.push_fault(&target, true)).unwrap();
            assert_eq!(fault.reason(), Reason::RegistryDenied);
            assert!(fault.text().contains("not allowed: InitiateLayerUpload"), "{fault}");
            continue;
        }
        let upload = header(&begun, "location").to_owned();
        assert!(ask(&transfer, "PATCH", &upload, "bo").await.starts_with("HTTP/1.1 202"));
        let end = format!("{upload}?digest={layer}");
        assert!(ask(&transfer, "PUT", &end, "dy").await.starts_with("HTTP/1.1 201"));
        // The classic store looks whether the blob has arrived.
        let arrived = ask(&transfer, "HEAD", &blob, "").await;
        assert!(
            arrived.starts_with("HTTP/1.1 200") && header(&arrived, "content-length") == "4",
            "{arrived}"
        );
        let manifest = format!("/v2/{PATH}/manifests/{}", transfer.tag());
        assert!(ask(&transfer, "HEAD", &manifest, "").await.starts_with("HTTP/1.1 404"));
        assert!(ask(&transfer, "PUT", &manifest, MANIFEST).await.starts_with("HTTP/1.1 201"));
        assert!(transfer.failure(crate::fault::Fault::internal).is_none());
    }
}
