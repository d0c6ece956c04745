//! Which requests to the relay tell a pull that the engine may fail at it because of another one.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Server,
    recorder::ok,
    relay::{ask_as, digest, parts, puller, repository},
};
use crate::{
    names::Reference,
    registry::{Layers, Relay, Transfer},
    tasks::Group,
};

/// A pull of an image with the layer `layer`.
async fn pull(relay: &Relay, path: &str, layer: &[u8]) -> Transfer {
    let registry = Server::start(None, |_| ok("{}")).await;
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host())).unwrap();
    let mut repository = repository(&reference);
    let manifest = repository.manifest(&reference).await.unwrap();
    relay.pull(path, repository, manifest, parts(b"config", &[layer]), Layers::WithoutZstd, puller()).unwrap()
}

#[tokio::test]
async fn who_has_never_had_a_password_lets_no_pull_down() {
    let relay = Relay::bind(&Group::root()).await.unwrap();
    let ended = pull(&relay, "wharf/instance/ended", b"layer").await;
    let (waits, other) = (
        pull(&relay, "wharf/instance/waits", b"layer").await,
        pull(&relay, "wharf/instance/other", b"x").await,
    );
    let host = waits.host();
    let (id, password) = ended.login();
    let shown =
        |password: &str| format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{id}:{password}")));
    let (right, wrong) = (shown(password.expose()), shown("x"));
    let path = format!("/v2/wharf/instance/ended/blobs/{}", digest(b"layer"));
    drop(ended);
    for nobody in ["", &wrong, "authorization: Bearer x\r\n"] {
        assert!(ask_as(&host, nobody, "GET", &path, "").await.starts_with("HTTP/1.1 401"));
        assert!(!waits.is_let_down(), "by {nobody:?}");
    }
    // The engine, by a transfer that has ended.
    assert!(ask_as(&host, &right, "GET", &path, "").await.starts_with("HTTP/1.1 401"));
    assert!(waits.is_let_down() && !other.is_let_down());
}
