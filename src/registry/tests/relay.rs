//! The relay, between a minimal engine and registries that record their requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    MANIFEST, PASSWORD, Server, insecure, login, lookups,
    recorder::{directory, ok, status, wants},
};
use crate::{
    fault::{Fault, Reason},
    names::{CallerId, Reference, reference::Digest},
    registry::{Client, Layers, Parts, Puller, Relay, Repository, Transfer},
    tasks::Group,
};

pub(super) const PATH: &str = "wharf/instance/repository";

pub(super) fn repository(reference: &Reference) -> Repository {
    Client::new(directory(), lookups()).repository(&CallerId::Uid(1), &insecure(), reference, None).unwrap()
}

pub(super) fn puller() -> Arc<Puller> {
    Arc::new(Puller::new(CallerId::Uid(1)))
}

/// Sends an engine's request with the password of `transfer`; returns the whole answer.
pub(super) async fn ask(transfer: &Transfer, method: &str, path: &str, body: &str) -> String {
    let (user, password) = transfer.login();
    let shown = STANDARD.encode(format!("{user}:{}", password.expose()));
    ask_as(&transfer.host(), &format!("authorization: Basic {shown}\r\n"), method, path, body).await
}

pub(super) async fn ask_as(host: &str, authorization: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{authorization}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name}: {answer}"))
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// A manifest's parts, by their content.
pub(super) fn parts(config: &[u8], layers: &[&[u8]]) -> Parts {
    Parts { config: digest(config), layers: layers.iter().map(|layer| digest(layer)).collect() }
}

pub(super) async fn push_to(registry: &Server, relay: &Relay) -> Result<Transfer, Fault> {
    let target = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
    let client = Client::new(directory(), lookups());
    let target = client.target(&CallerId::Uid(1), &insecure(), &target, Some(&login())).await;
    let target = target.map_err(|error| error.push_fault(&Reference::parse("app:1").unwrap(), true))?;
    Ok(relay.push(PATH, target).unwrap())
}

#[tokio::test]
async fn who_has_no_password_of_a_transfer_gets_nothing() {
    let group = Group::root();
    let relay = Relay::bind(&group).await.unwrap();
    let registry = Server::start(None, |_| ok("{}")).await;
    let transfer = push_to(&registry, &relay).await.unwrap();
    let other = relay.push("wharf/instance/other", {
        let target = Reference::parse(&format!("{}/other:1", registry.host())).unwrap();
        Client::new(directory(), lookups())
            .target(&CallerId::Uid(1), &insecure(), &target, None)
            .await
            .unwrap()
    });
    let other = other.unwrap();
    let manifest = format!("/v2/{PATH}/manifests/{}", transfer.tag());
    assert!(ask(&transfer, "GET", &manifest, "").await.starts_with("HTTP/1.1 200"));
    let heard = registry.heard().len();

    let wrong = STANDARD.encode(format!("{}:x", transfer.login().0));
    for authorization in ["", &format!("authorization: Basic {wrong}\r\n"), "authorization: Bearer x\r\n"] {
        for path in ["/v2/", &manifest] {
            let answer = ask_as(&transfer.host(), authorization, "GET", path, "").await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        }
    }
    for path in [manifest.as_str(), "/v2/_catalog", "/", "/v2/wharf/instance/other/../repository/manifests/1"]
    {
        let answer = ask(&other, "GET", path, "").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let (user, password) = transfer.login();
    let shown = STANDARD.encode(format!("{user}:{}", password.expose()));
    let host = transfer.host();
    drop(transfer);
    let answer = ask_as(&host, &format!("authorization: Basic {shown}\r\n"), "GET", &manifest, "").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(registry.heard().len(), heard);
}

#[tokio::test]
async fn who_says_nothing_takes_no_place_from_the_engine() {
    let relay = Relay::with_places(&Group::root(), 3).await.unwrap();
    let registry = Server::start(None, |_| ok("{}")).await;
    let transfer = push_to(&registry, &relay).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(transfer.host()).await.unwrap());
        let answer = ask(&transfer, "GET", "/v2/", "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // The oldest connection has been ended to make room.
    let ended = silent[0].read(&mut [0]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_push_goes_to_the_true_tag_and_its_login_to_the_registry_alone() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let storage = Server::start(None, |head| {
        let begun = head.starts_with("PATCH").then_some("202 Accepted\r\nlocation: /there?part=2");
        status(begun.unwrap_or("201 Created"), "range: 0-3")
    })
    .await;
    let place = format!("http://{}/there?part=1", storage.host());
    let registry = Server::start(None, move |head| {
        let is_first = head.starts_with("POST");
        if !head.contains(PASSWORD) {
            wants("Basic realm=x")
        } else if head.starts_with("GET") {
            ok("{}")
        } else if head.starts_with("HEAD") {
            status("404 Not Found", "x: y")
        } else {
            let location = format!("location: {place}");
            status(if is_first { "202 Accepted" } else { "201 Created" }, &location)
        }
    })
    .await;
    let transfer = push_to(&registry, &relay).await.unwrap();
    let layer = digest(b"body");

    let blob = format!("/v2/{PATH}/blobs/{layer}");
    assert!(ask(&transfer, "HEAD", &blob, "").await.starts_with("HTTP/1.1 404"));
    // The engine's idea of another repository is about this relay, not about the registry.
    let begin = format!("/v2/{PATH}/blobs/uploads/?mount={layer}&from=other");
    let begun = ask(&transfer, "POST", &begin, "").await;
    assert!(begun.starts_with("HTTP/1.1 202") && !begun.contains("localhost"), "{begun}");
    let upload = header(&begun, "location").to_owned();
    let sent = ask(&transfer, "PATCH", &upload, "body").await;
    assert_eq!((header(&sent, "location"), header(&sent, "range")), (upload.as_str(), "0-3"));
    let end = format!("{upload}?digest={}", layer.as_str().replace(':', "%3A"));
    assert!(ask(&transfer, "PUT", &end, "").await.starts_with("HTTP/1.1 201"));
    assert!(ask(&transfer, "PUT", &end, "").await.starts_with("HTTP/1.1 404"), "it has ended");
    let manifest = format!("/v2/{PATH}/manifests/{}", transfer.tag());
    assert!(ask(&transfer, "PUT", &manifest, MANIFEST).await.starts_with("HTTP/1.1 201"));
    assert!(ask(&transfer, "DELETE", &manifest, "").await.starts_with("HTTP/1.1 405"));

    let shown = |method: &str, path: &str| format!("{method} /v2/{path} {PASSWORD}");
    let asked: Vec<_> = registry.shown().into_iter().filter(|shown| shown.contains(PASSWORD)).collect();
    let expected = [
        shown("GET", ""),
        shown("HEAD", &format!("team/app/blobs/{layer}")),
        shown("POST", "team/app/blobs/uploads/"),
        shown("PUT", "team/app/manifests/1"),
    ];
    assert_eq!(asked, expected);
    assert!(registry.heard().last().unwrap().ends_with(MANIFEST));
    let put = format!("PUT /there?part=2&digest={layer}");
    let stored: Vec<_> = storage.shown().into_iter().filter(|head| head.contains("there")).collect();
    assert_eq!(stored, ["PATCH /there?part=1".to_owned(), put]);
    let sent = storage.heard();
    assert!(sent.iter().any(|head| head.ends_with("\r\n\r\nbody")), "{sent:?}");
    assert!(transfer.failure(Fault::internal).is_none());
}

#[tokio::test]
async fn two_pushes_at_once_share_no_repository() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let registry = Server::start(None, |_| ok("{}")).await;
    let begin = async || push_to(&registry, &relay).await.unwrap();
    let repository = |path: &str, transfer: &Transfer| {
        assert_eq!(transfer.repository(), format!("{}/{path}", transfer.host()));
    };
    let (first, second, third) = (begin().await, begin().await, begin().await);
    repository(PATH, &first);
    repository(&format!("{PATH}/1"), &second);
    repository(&format!("{PATH}/2"), &third);
    let manifest = format!("/v2/{PATH}/1/manifests/x");
    assert!(ask(&second, "GET", &manifest, "").await.starts_with("HTTP/1.1 200"));
    assert!(ask(&first, "GET", &manifest, "").await.starts_with("HTTP/1.1 404"));
    drop(second);
    repository(&format!("{PATH}/1"), &begin().await);
}

#[tokio::test]
async fn an_upload_begins_whatever_the_registry_calls_it() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    for said in ["200 OK", "201 Created", "202 Accepted", "204 No Content"] {
        let registry = Server::start(None, move |head| match head.starts_with("POST") {
            true => status(said, "location: /v2/x/blobs/uploads/1"),
            false => ok("{}"),
        })
        .await;
        let transfer = push_to(&registry, &relay).await.unwrap();
        let begun = ask(&transfer, "POST", &format!("/v2/{PATH}/blobs/uploads/"), "").await;
        assert!(begun.starts_with("HTTP/1.1 202"), "{said}: {begun}");
    }
}

#[tokio::test]
async fn a_refusal_ends_a_push_and_says_why() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let registry = Server::start(None, |head| {
        if head.starts_with("GET") {
            return ok("{}");
        }
        let body = r#"{"errors":[{"code":"DENIED","message":"the repository is read-only"}]}"#;
        format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    })
    .await;
    let transfer = push_to(&registry, &relay).await.unwrap();
    let answer = ask(&transfer, "POST", &format!("/v2/{PATH}/blobs/uploads/"), "").await;
    assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("read-only"), "{answer}");
    transfer.refused().await;
    let target = Reference::parse("reg.example/app:1").unwrap();
    let fault = transfer.failure(|error| error.push_fault(&target, true)).unwrap();
    assert_eq!(fault.reason(), Reason::RegistryDenied);
    assert!(fault.text().contains("the repository is read-only"), "{fault}");
}

/// The fault that `transfer` reports if the engine's work ends with `reason`.
async fn told(transfer: &Transfer, reason: Reason) -> Fault {
    let work = async { Err::<(), _>(Fault::new(reason, "the engine's own words")) };
    let reference = Reference::parse("reg.example/app:1").unwrap();
    transfer.carry(work, |error| error.fault(&reference, false)).await.unwrap_err()
}

#[tokio::test]
async fn what_went_well_at_last_is_no_reason() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let asked = AtomicUsize::new(0);
    let registry = Server::start(None, move |head| match head {
        head if head.contains("manifests") => ok(MANIFEST),
        head if head.contains(digest(b"lost").as_str()) => status("503 Unavailable", "x: y"),
        _ if asked.fetch_add(1, Ordering::Relaxed) < 3 => status("503 Unavailable", "x: y"),
        _ => ok("blob"),
    })
    .await;
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
    let mut repository = repository(&reference);
    let manifest = repository.manifest(&reference).await.unwrap();
    let transfer = relay
        .pull(
            PATH,
            repository,
            manifest,
            parts(b"config", &[b"blob", b"lost"]),
            Layers::WithoutZstd,
            puller(),
        )
        .unwrap();
    let unreached = told(&transfer, Reason::EngineFailed).await;
    assert!(unreached.text().contains("did not reach wharfd"), "{unreached}");
    assert_eq!(told(&transfer, Reason::EngineUnavailable).await.text(), "the engine's own words");

    let get = async |of: &[u8]| ask(&transfer, "GET", &format!("/v2/{PATH}/blobs/{}", digest(of)), "").await;
    assert!(get(b"blob").await.starts_with("HTTP/1.1 502"));
    assert!(get(b"blob").await.starts_with("HTTP/1.1 200"));
    assert_eq!(told(&transfer, Reason::EngineFailed).await.text(), "the engine's own words");
    // Another blob's success does not hide a failure, but the end of the engine does.
    for reason in [Reason::EngineUnavailable, Reason::EngineFailed] {
        assert!(get(b"lost").await.starts_with("HTTP/1.1 502"));
        assert!(get(b"blob").await.starts_with("HTTP/1.1 200"));
        let fault = told(&transfer, reason).await;
        assert_eq!(fault.text().contains("503"), reason == Reason::EngineFailed, "{fault}");
    }
}

#[tokio::test]
async fn an_image_whose_config_drips_does_not_wait_for_the_engine() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let (config, image) =
        (digest(b"config"), r#"{"schemaVersion":2,"config":{"digest":"DIGEST"},"layers":[]}"#);
    let image = image.replace("DIGEST", config.as_str());
    let registry = Server::start(None, move |head| match head.contains("manifests") {
        true => ok(&image),
        false => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
    })
    .await;
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
    let mut repository = repository(&reference);
    let manifest = repository.manifest(&reference).await.unwrap();
    let transfer =
        relay.pull(PATH, repository, manifest, parts(b"config", &[]), Layers::WithoutZstd, puller()).unwrap();
    assert!(transfer.waits_for_the_engine());
    let mut engine = TcpStream::connect(transfer.host()).await.unwrap();
    let (user, password) = transfer.login();
    let shown = STANDARD.encode(format!("{user}:{}", password.expose()));
    let request =
        format!("GET /v2/{PATH}/blobs/{config} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {shown}\r\n\r\n");
    engine.write_all(request.as_bytes()).await.unwrap();
    engine.read_exact(&mut [0]).await.unwrap();
    assert!(!transfer.waits_for_the_engine());
}
