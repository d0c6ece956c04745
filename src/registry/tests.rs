//! The client against servers that record their requests.

mod let_down;
mod odd;
mod pulled;
pub(super) mod recorder;
mod relay;

use std::{fs, path::PathBuf};

use tokio::net::{TcpListener, TcpStream};

use super::{Client, Kind, Lookups, Manifest, Reach, reach::Origin};
use crate::{
    names::{CallerId, Login, Reference, Secret, reference::Digest},
    tasks::Group,
};
use recorder::{Authority, Server, directory, guarded, ok, status, wants};

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
const PASSWORD: &str = "Basic dXNlcjpwYXNz";

fn login() -> Login {
    Login {
        username: "user".to_owned(),
        password: Secret::new("pass".to_owned()),
        identity_token: Secret::new(String::new()),
    }
}

pub(super) fn lookups() -> Lookups {
    Lookups::new(&Group::root())
}

/// An engine that accepts loopback without TLS, as engines do by default.
fn insecure() -> Reach {
    let info = serde_json::json!({"RegistryConfig": {"InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"]}});
    Reach::of(&serde_json::from_value(info).unwrap())
}

async fn ask(
    client: &Client,
    reach: &Reach,
    name: &str,
    login: Option<&Login>,
) -> Result<Manifest, (Kind, String)> {
    let reference = Reference::parse(name).unwrap().tagged();
    let told = |error: super::Error| (error.kind(), error.to_string());
    let mut repository = client.repository(&CallerId::Uid(1), reach, &reference, login).map_err(told)?;
    repository.manifest(&reference).await.map_err(told)
}

#[tokio::test]
async fn a_login_goes_to_nobody_without_a_certificate_that_is_trusted() {
    let authority = Authority::new();
    let registry =
        Server::start(Some(authority.acceptor(false)), guarded(PASSWORD, "Basic realm=x".to_owned())).await;
    let client = Client::new(authority.certs.clone(), lookups());
    let (reach, name) = (Reach::default(), format!("{}/app", registry.host()));
    let (kind, text) = ask(&client, &reach, &name, Some(&login())).await.unwrap_err();
    assert_eq!((kind, text.as_str()), (Kind::Unreachable, "its certificate is not trusted"));
    assert!(registry.heard().iter().all(|heard| heard == "no TLS"), "{:?}", registry.heard());

    authority.trust(&registry.host());
    let manifest = ask(&client, &reach, &name, Some(&login())).await.unwrap();
    assert_eq!(manifest.bytes(), MANIFEST);
    // The registry sees the password only after it has asked for it.
    let path = "GET /v2/app/manifests/latest";
    assert!(registry.shown().ends_with(&[path.to_owned(), format!("{path} {PASSWORD}")]));

    // Without TLS nobody sees the password, unless the engine accepts the registry without TLS.
    let plain = Server::start(None, guarded(PASSWORD, "Basic realm=x".to_owned())).await;
    let name = format!("{}/app", plain.host());
    let (kind, text) = ask(&client, &reach, &name, Some(&login())).await.unwrap_err();
    assert!(kind == Kind::Unreachable && text.contains("does not speak HTTPS"), "{text}");
    assert!(!plain.heard().iter().any(|head| head.contains("GET")), "{:?}", plain.heard());
    ask(&client, &insecure(), &name, Some(&login())).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_wants_a_certificate_gets_the_engines() {
    let authority = Authority::new();
    let registry = Server::start(Some(authority.acceptor(true)), |_| ok(MANIFEST)).await;
    let client = Client::new(authority.certs.clone(), lookups());
    let name = format!("{}/app", registry.host());
    authority.trust(&registry.host());
    ask(&client, &Reach::default(), &name, None).await.unwrap_err();
    authority.give_key(&registry.host());
    ask(&client, &Reach::default(), &name, None).await.unwrap();
    fs::remove_file(authority.certs.join(registry.host()).join("client.key")).unwrap();
    let (kind, text) = ask(&client, &Reach::default(), &name, None).await.unwrap_err();
    assert!(kind == Kind::Unreachable && text.contains("client.key"), "{text}");
}

#[tokio::test]
async fn a_login_goes_to_the_token_server_and_its_token_to_the_registry() {
    let authority = Authority::new();
    let tokens = Server::start(Some(authority.acceptor(false)), |_| ok(r#"{"token":"secret"}"#)).await;
    let challenge = format!(r#"Bearer realm="https://{}/token?a=1",service="s""#, tokens.host());
    let registry = Server::start(Some(authority.acceptor(false)), guarded("Bearer secret", challenge)).await;
    authority.trust(&registry.host());
    let client = Client::new(authority.certs.clone(), lookups());
    let name = format!("{}/team/app:1", registry.host());
    let reach = Reach::default();
    ask(&client, &reach, &name, Some(&login())).await.unwrap();
    let path = "GET /v2/team/app/manifests/1";
    assert_eq!(registry.shown(), [path.to_owned(), format!("{path} Bearer secret")]);
    let token = "GET /token?a=1&service=s&scope=repository%3Ateam%2Fapp%3Apull";
    assert_eq!(tokens.shown(), [format!("{token}&account=user {PASSWORD}")]);

    ask(&client, &reach, &name, None).await.unwrap();
    let identity = Login { identity_token: Secret::new("identity".to_owned()), ..login() };
    ask(&client, &reach, &name, Some(&identity)).await.unwrap();
    assert_eq!(tokens.shown()[1..], [token.to_owned(), "POST /token?a=1".to_owned()]);
}

#[tokio::test]
async fn no_login_goes_to_a_token_server_without_tls_or_further_inwards() {
    let authority = Authority::new();
    let tokens = Server::start(None, |_| ok(r#"{"token":"secret"}"#)).await;
    let client = Client::new(authority.certs.clone(), lookups());
    let registry = async |realm: String| {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        let registry =
            Server::start(Some(authority.acceptor(false)), guarded("Bearer secret", challenge)).await;
        authority.trust(&registry.host());
        registry
    };
    let plain = format!("http://{}/token", tokens.host());
    let far = ["https://169.254.169.254/latest", "https://0.0.0.0/", "https://[fe80::1]/"];
    for realm in
        [plain.as_str(), far[0], far[1], far[2], "/token", "ftp://localhost/", "https://a@localhost/"]
    {
        let registry = registry(realm.to_owned()).await;
        let name = format!("{}/app", registry.host());
        let refused = ask(&client, &Reach::default(), &name, Some(&login())).await.unwrap_err();
        assert_eq!(refused.0, Kind::Misled, "{realm}: {refused:?}");
    }
    assert_eq!(tokens.heard(), [""; 0]);
    // A registry without TLS that the engine accepts may name such a token server at the same host.
    let registry = registry(plain).await;
    ask(&client, &insecure(), &format!("{}/app", registry.host()), Some(&login())).await.unwrap();
    assert_eq!(tokens.heard().len(), 1);
}

#[tokio::test]
async fn a_registry_is_nowhere_that_no_server_is() {
    let client = Client::new(directory(), lookups());
    for host in ["169.254.169.254:5000", "0.0.0.0:5000", "168.63.129.16:80"] {
        let (kind, text) = ask(&client, &insecure(), &format!("{host}/app"), None).await.unwrap_err();
        assert!(kind == Kind::Misled && text.contains("no registry may have"), "{host}: {text}");
    }
    // Some resolvers and proxies accept more forms of an address.
    for host in ["127.1:5000", "0x7f.1:5000", "2130706433:5000"] {
        let (kind, text) = ask(&client, &insecure(), &format!("{host}/app"), None).await.unwrap_err();
        assert!(kind == Kind::Other && text.contains("is not the address of a server"), "{host}: {text}");
    }
}

#[test]
fn a_host_and_a_port_are_all_of_an_authority() {
    for odd in [
        ")[::1]:443",
        "[::1]x:443",
        "[::1]:44*3",
        "[v1.x]",
        "reg.example:",
        "reg:ex:1",
        "re%67.example",
        "[]",
        "",
    ] {
        assert!(Origin::parse("https", odd).is_none(), "{odd}");
    }
    for sound in ["reg.example", "reg_1.example:5000", "[::1]:5000", "10.0.0.1"] {
        assert!(Origin::parse("https", sound).is_some(), "{sound}");
    }
}

#[tokio::test]
async fn five_redirects_are_followed() {
    let left = |head: &str| head.split("left=").nth(1)?.split(' ').next()?.parse::<u32>().ok();
    let registry = Server::start(None, move |head| match left(head) {
        None if head.contains("/many") => status("307 Moved", "location: /v2/app/x?left=5"),
        None => status("307 Moved", "location: /v2/app/x?left=4"),
        Some(0) => ok(MANIFEST),
        Some(left) => status("307 Moved", &format!("location: /v2/app/x?left={}", left - 1)),
    })
    .await;
    let (client, name) = (Client::new(directory(), lookups()), format!("{}/app", registry.host()));
    ask(&client, &insecure(), &format!("{name}:some"), None).await.unwrap();
    let (kind, text) = ask(&client, &insecure(), &format!("{name}:many"), None).await.unwrap_err();
    assert!(kind == Kind::Misled && text.contains("redirects do not end"), "{text}");
}

#[tokio::test]
async fn a_redirect_to_another_server_takes_no_login_along() {
    let authority = Authority::new();
    let store = Server::start(Some(authority.acceptor(false)), |_| ok(MANIFEST)).await;
    let there = format!("https://{}/blob?signed=1", store.host());
    let registry = Server::start(Some(authority.acceptor(false)), move |head| match head {
        head if !head.contains(PASSWORD) => wants("Basic realm=x"),
        head if head.contains("/moved") => status("307 Moved", &format!("location: {there}")),
        head if head.contains("/away") => status("302 Found", "location: https://169.254.169.254/latest"),
        head if head.contains("/plain") => status("302 Found", "location: http://localhost/"),
        head if head.contains("/loop") => status("302 Found", "location: /v2/app/manifests/loop"),
        _ => status("308 Moved", "location: /v2/app/manifests/moved"),
    })
    .await;
    authority.trust(&registry.host());
    let client = Client::new(authority.certs.clone(), lookups());
    let name = |tag: &str| format!("{}/app:{tag}", registry.host());
    ask(&client, &Reach::default(), &name("here"), Some(&login())).await.unwrap();
    assert_eq!(store.shown(), ["GET /blob?signed=1"]);
    assert!(registry.shown().contains(&format!("GET /v2/app/manifests/moved {PASSWORD}")));
    for tag in ["away", "plain", "loop"] {
        let refused = ask(&client, &Reach::default(), &name(tag), Some(&login())).await.unwrap_err();
        assert_eq!(refused.0, Kind::Misled, "{tag}: {refused:?}");
    }
}

#[tokio::test]
async fn docker_hubs_mirror_is_asked_first_and_sees_no_login() {
    let mirror = Server::start(None, |_| ok(MANIFEST)).await;
    let info = serde_json::json!({"RegistryConfig": {"Mirrors": [format!("http://{}/hub/", mirror.host())]}});
    let reach = Reach::of(&serde_json::from_value(info).unwrap());
    let client = Client::new(PathBuf::new(), lookups());
    ask(&client, &reach, "busybox", Some(&login())).await.unwrap();
    assert_eq!(mirror.shown(), ["GET /hub/v2/library/busybox/manifests/latest"]);
    let wanting = Server::start(None, guarded(PASSWORD, "Basic realm=x".to_owned())).await;
    let endpoints =
        serde_json::json!({"RegistryConfig": {"Mirrors": [format!("http://{}", wanting.host())]}});
    let reach = Reach::of(&serde_json::from_value(endpoints).unwrap());
    let mut repository = client
        .repository(&CallerId::Uid(1), &reach, &Reference::parse("busybox:1").unwrap(), Some(&login()))
        .unwrap();
    let refused = repository.servers_for_tests()[0].get("manifests/1", None).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::Unauthorized);
    assert_eq!(wanting.shown(), ["GET /v2/library/busybox/manifests/1"]);
}

#[tokio::test]
async fn a_proxy_carries_what_the_engines_carries() {
    let authority = Authority::new();
    let registry = Server::start(Some(authority.acceptor(false)), |_| ok(MANIFEST)).await;
    // Only the proxy knows this name; the certificate is for another name.
    let name = "registry.invalid:5000";
    authority.trust(name);
    let proxy = Server::start(None, |head| {
        if head.starts_with("CONNECT") { "HTTP/1.1 403 No\r\n\r\n".to_owned() } else { ok(MANIFEST) }
    })
    .await;
    let url = format!("http://user:pass@127.0.0.1:{}", proxy.address.port());
    let info = serde_json::json!({
        "HttpProxy": url, "HttpsProxy": url, "NoProxy": "localhost",
        "RegistryConfig": {"IndexConfigs": {"plain.invalid:80": {"Name": "plain.invalid:80", "Secure": false}}},
    });
    let reach = Reach::of(&serde_json::from_value(info).unwrap());
    let client = Client::new(authority.certs.clone(), lookups());
    let (kind, text) = ask(&client, &reach, &format!("{name}/app"), None).await.unwrap_err();
    assert!(kind == Kind::Unreachable && text.contains("the proxy"), "{text}");
    assert!(
        proxy.heard()[0].starts_with("CONNECT registry.invalid:5000 HTTP/1.1\r\n"),
        "{:?}",
        proxy.heard()
    );
    assert!(proxy.heard()[0].contains(&format!("Proxy-Authorization: {PASSWORD}")));
    ask(&client, &reach, "plain.invalid:80/app", None).await.unwrap();
    assert_eq!(proxy.shown().last().unwrap(), "GET http://plain.invalid/v2/app/manifests/latest");
    authority.trust(&registry.host());
    ask(&client, &reach, &format!("{}/app", registry.host()), None).await.unwrap();
    assert_eq!(proxy.heard().len(), 3);
}

#[tokio::test]
async fn what_is_read_is_bounded_and_is_what_was_asked_for() {
    let registry = Server::start(None, |head| match head {
        head if head.contains("endless") => {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
        }
        head if head.contains("head") => format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)),
        head if head.contains("html") => ok("<html>"),
        head if head.contains("old") => {
            let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 2\r\n\r\n{{}}")
        }
        head if head.contains("short") => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}".to_owned(),
        _ => ok(MANIFEST),
    })
    .await;
    let client = Client::new(PathBuf::new(), lookups());
    let kind = async |at: &str| {
        ask(&client, &insecure(), &format!("{}/app{at}", registry.host()), None)
            .await
            .map_err(|(kind, _)| kind)
    };
    for (tag, expected) in [
        (":endless", Kind::Unsupported),
        (":head", Kind::Unsupported),
        (":html", Kind::Unsupported),
        (":old", Kind::Unsupported),
        (":short", Kind::Unavailable),
    ] {
        assert_eq!(kind(tag).await.unwrap_err(), expected, "{tag}");
    }
    let manifest = kind(":fine").await.unwrap();
    assert!(kind(&format!("@{}", manifest.digest())).await.is_ok());
    let other = Digest::from_sha256([7; 32]);
    assert_eq!(kind(&format!("@{other}")).await.unwrap_err(), Kind::Unavailable);

    let reference = Reference::parse(&format!("{}/app", registry.host())).unwrap();
    for (digest, sound) in [(manifest.digest(), true), (&other, false)] {
        let mut repository = client.repository(&CallerId::Uid(1), &insecure(), &reference, None).unwrap();
        let mut blob = repository.blob(digest).await.unwrap();
        let ended = loop {
            match blob.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert_eq!(ended, sound);
    }
}

#[tokio::test]
async fn nobody_there_is_no_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    assert!(TcpStream::connect(&host).await.is_err());
    let client = Client::new(PathBuf::new(), lookups());
    for name in [format!("{host}/app"), "registry.invalid/app".to_owned()] {
        let (kind, text) = ask(&client, &insecure(), &name, Some(&login())).await.unwrap_err();
        assert_eq!(kind, Kind::Unreachable, "{name}: {text}");
    }
}

#[tokio::test]
async fn a_registry_that_repeats_a_secret_is_not_quoted() {
    let says = |repeated: fn(&str) -> String| async move {
        let registry = Server::start(None, move |head| {
            let sent = recorder::shown(head);
            let Some((_, sent)) = sent.split_once(" Basic ") else { return wants("Basic realm=x") };
            let body =
                serde_json::json!({"errors": [{"code": "DENIED", "message": repeated(sent)}]}).to_string();
            format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        });
        let registry = registry.await;
        let client = Client::new(directory(), lookups());
        let name = format!("{}/app", registry.host());
        let reference = Reference::parse(&name).unwrap().tagged();
        let login = login();
        let mut repository =
            client.repository(&CallerId::Uid(1), &insecure(), &reference, Some(&login)).unwrap();
        let refused = repository.manifest(&reference).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Denied);
        refused.fault(&reference, true).text().to_owned()
    };
    assert!(says(|_| "not you".to_owned()).await.contains("the registry says: not you"));
    for repeated in
        [|sent: &str| format!("no: Basic {sent}"), |_: &str| "the password pass is wrong".to_owned()]
    {
        let text = says(repeated).await;
        assert!(!text.contains("the registry says"), "{text}");
    }
}
