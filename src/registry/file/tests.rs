//! Files from servers that record their requests.

use std::sync::Arc;

use clap::Parser as _;

use super::{
    super::{
        lookups::Lookups,
        tests::recorder::{Authority, Server, directory, ok, status},
    },
    *,
};
use crate::{
    config::{Config, Flags},
    names::{CallerId, Pattern},
    policy::{Policies, Rules},
};

/// The client of a job that may fetch from these, and look up names like this.
fn files(add: &[&str], lookups: &Lookups) -> Files {
    let file = format!("[[policy]]\nname = \"p\"\njobs = [\"*\"]\nadd = {add:?}\n");
    let config = Config::with_file(Flags::try_parse_from(["wharfd"]).unwrap(), &file);
    let rules = Arc::new(Rules::new("test", Pattern::any(), &Policies::of(&config)));
    let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("job", "1").unwrap()).unwrap();
    Client::new(directory(), lookups.clone()).files(Reach::default(), &namespace)
}

fn system() -> Lookups {
    super::super::tests::lookups()
}

async fn content(files: &Files, url: &str) -> Result<String, NotGot> {
    let Got::File(mut file) = files.get(url, None).await? else { panic!("it was never asked for") };
    let mut content = Vec::new();
    while let Some(piece) = file.next().await? {
        content.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(content).unwrap())
}

async fn told(files: &Files, url: &str) -> String {
    match content(files, url).await {
        Err(NotGot::Denied(fault)) => fault.text().to_owned(),
        Err(NotGot::Error(error)) => error.text().to_owned(),
        Ok(content) => panic!("{url} has {content}"),
    }
}

fn redirect(to: &str) -> String {
    status("302 Found", &format!("location: {to}"))
}

/// A name server of the job's answers as it likes.
#[tokio::test]
async fn a_file_comes_from_the_address_that_was_judged() {
    let server = Server::start(None, |_| ok("file")).await;
    let (host, port) = ("files.example", server.address.port());
    let url = format!("http://{host}:{port}/f");
    let allowed = format!("{host}:{port}");
    // The second answer would lead to a metadata service.
    let lookups = Lookups::scripted(&["127.0.0.1", "169.254.169.254"]);
    assert_eq!(content(&files(&[&allowed], &lookups), &url).await.unwrap(), "file");
    assert_eq!(lookups.left(), 1, "the name was looked up once");
    let text = told(&files(&[&allowed], &lookups), &url).await;
    assert!(text.contains("169.254.169.254 is an address that no build may reach"), "{text}");
    assert_eq!(server.shown().len(), 1);
}

#[tokio::test]
async fn a_redirect_leads_only_where_policy_lets_it() {
    let other = Server::start(None, |_| ok("other")).await;
    let port = other.address.port();
    let server = Server::start(None, move |head| {
        let path = head.split_whitespace().nth(1).unwrap();
        match path {
            "/host" => redirect(&format!("http://localhost:{port}/secret")),
            "/address" => redirect("http://169.254.169.254/latest/meta-data?token=secret"),
            "/name" => redirect("/again"),
            "/scheme" => redirect("file:///etc/passwd"),
            "/loop" => redirect("/loop"),
            _ => ok("file"),
        }
    })
    .await;
    let base = format!("http://{}", server.host());
    let only = files(&[&server.host()], &system());
    let text = told(&only, &format!("{base}/host")).await;
    assert!(text.starts_with(&format!("`ADD {base}/host` is redirected: policy `p` does not let")), "{text}");
    assert!(other.heard().is_empty());
    let text = told(&only, &format!("{base}/address")).await;
    assert!(text.contains("is redirected") && text.contains("169.254.169.254"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let text = told(&only, &format!("{base}/scheme")).await;
    assert!(text.contains("not the URL of a server"), "{text}");
    let before = server.shown().len();
    let text = told(&only, &format!("{base}/loop")).await;
    assert!(text.contains("redirects 10 times"), "{text}");
    assert_eq!(server.shown().len() - before, REQUESTS_MAX);
    assert_eq!(content(&only, &format!("{base}/name")).await.unwrap(), "file");

    // The name of a URL that was judged may have another address for the next request.
    let named = format!("files.example:{}", server.address.port());
    let lookups = Lookups::scripted(&["127.0.0.1", "169.254.169.254"]);
    let text = told(&files(&[&named], &lookups), &format!("http://{named}/name")).await;
    assert!(text.contains("is redirected") && text.contains("169.254.169.254"), "{text}");
    assert_eq!(lookups.left(), 0);

    // Both are allowed.
    let both = files(&[&server.host(), &other.host()], &system());
    assert_eq!(content(&both, &format!("{base}/host")).await.unwrap(), "other");
}

#[tokio::test]
async fn a_login_of_a_url_goes_to_its_own_server() {
    let other = Server::start(None, |_| ok("other")).await;
    let port = other.address.port();
    let server = Server::start(None, move |head| match head.split_whitespace().nth(1).unwrap() {
        "/there" => redirect(&format!("http://localhost:{port}/f")),
        "/here" => redirect("f"),
        _ => ok("file"),
    })
    .await;
    // Only `*` matches a URL with a login, and no loopback then.
    let lookups = Lookups::scripted(&[]);
    let files = files(&[&server.host(), &other.host()], &lookups);
    let denied = told(&files, &format!("http://user:pass@{}/f", server.host())).await;
    assert!(denied.contains("policy `p`") && !denied.contains("pass"), "{denied}");
    let place = Place::read(&format!("http://user:pass@{}/there", server.host())).unwrap();
    let request = files.request(&place, None).unwrap();
    assert_eq!(request.headers()[header::AUTHORIZATION], "Basic dXNlcjpwYXNz");
    let there = place.to(format!("http://localhost:{port}/f").as_bytes()).unwrap();
    assert!(files.request(&there, None).unwrap().headers().get(header::AUTHORIZATION).is_none());
    let here = place.to(b"f").unwrap();
    assert!(files.request(&here, None).unwrap().headers().contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn a_file_that_has_not_changed_does_not_come_again() {
    let server = Server::start(None, |head| {
        let head = head.to_ascii_lowercase();
        let modified = "last-modified: Wed, 01 May 2024 10:00:00 GMT";
        match head.split_whitespace().nth(1).unwrap() {
            "/tag" if head.contains("if-none-match: \"1\"\r\n") => status("304 Not Modified", "x: y"),
            "/tag" => format!("HTTP/1.1 200 OK\r\netag: \"1\"\r\n{modified}\r\ncontent-length: 1\r\n\r\na"),
            // It compares no tags.
            "/deaf" => "HTTP/1.1 200 OK\r\netag: W/\"1\"\r\ncontent-length: 1\r\n\r\na".to_owned(),
            "/time" if head.contains("if-modified-since: wed, 01 may 2024 10:00:00 gmt\r\n") => {
                status("304 Not Modified", "x: y")
            }
            "/time" => format!("HTTP/1.1 200 OK\r\n{modified}\r\ncontent-length: 1\r\n\r\na"),
            "/always" => status("304 Not Modified", "x: y"),
            _ => format!("HTTP/1.1 200 OK\r\netag: {}\r\ncontent-length: 1\r\n\r\na", "x".repeat(1 << 10)),
        }
    })
    .await;
    let files = files(&[&server.host()], &system());
    let url = |path: &str| format!("http://{}/{path}", server.host());
    for (path, seconds) in [("tag", Some(1_714_557_600)), ("deaf", None), ("time", Some(1_714_557_600))] {
        let Got::File(file) = files.get(&url(path), None).await.unwrap() else { panic!("{path}") };
        let since = file.validators().modified().map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        assert_eq!(since.map(|since| since.as_secs()), seconds, "{path}");
        let again = files.get(&url(path), Some(file.validators())).await.unwrap();
        assert!(matches!(again, Got::Unchanged), "{path}");
    }
    assert_eq!(told(&files, &url("always")).await, "it answers 304 Not Modified");
    let Got::File(file) = files.get(&url("long"), None).await.unwrap() else { panic!() };
    assert!(!file.validators().are_some(), "a long tag is not kept");
}

#[tokio::test]
async fn a_server_that_fails_is_told_by_how() {
    let authority = Authority::new();
    let server = Server::start(None, |head| match head.split_whitespace().nth(1).unwrap() {
        "/large" => format!("HTTP/1.1 200 OK\r\netag: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(9 << 20)),
        "/busy" => status("503 Service Unavailable", "x: y"),
        "/short" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\na".to_owned(),
        "/packed" => "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain".to_owned(),
        _ => status("404 Not Found", "x: y"),
    })
    .await;
    let secure = Server::start(Some(authority.acceptor(false)), |_| ok("file")).await;
    authority.trust(&secure.host());
    let files = files(&[&server.host(), &secure.host(), "localhost:1"], &system());
    for (url, kind, text) in [
        (
            format!("http://{}/large", server.host()),
            Kind::Unsupported,
            "the head of its answer is larger than 64 KiB",
        ),
        (format!("http://{}/busy", server.host()), Kind::Unavailable, "it answers 503 Service Unavailable"),
        (format!("http://{}/no", server.host()), Kind::Other, "it answers 404 Not Found"),
        (format!("http://{}/short", server.host()), Kind::Unavailable, "it closed the connection"),
        (
            format!("http://{}/packed", server.host()),
            Kind::Other,
            "what it has packed with gzip cannot be unpacked",
        ),
        // The engine's authorities for registries are not those of other servers.
        (format!("https://{}/f", secure.host()), Kind::Unreachable, "its certificate is not trusted"),
        (format!("https://{}/f", server.host()), Kind::Unreachable, "it does not speak HTTPS"),
        ("http://localhost:1/f".to_owned(), Kind::Unreachable, "connection refused"),
    ] {
        let Err(NotGot::Error(error)) = content(&files, &url).await else { panic!("{url}") };
        assert_eq!((error.kind(), error.text()), (kind, text), "{url}");
    }
}
