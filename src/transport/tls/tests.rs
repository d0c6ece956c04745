//! Handshakes through a real socket.

use std::fs;

use http::{Request, Response};
use hyper::body::Incoming;
use rustls::{ClientConfig, HandshakeKind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::*;
use crate::{
    network::{
        authority::{Authority, Issued},
        tests::Dir,
    },
    transport::{ConnectionLimits, Http2, Listener, Server, Standing, StandingOf},
};

fn files(server: &Issued, authority: &Authority) -> TlsFiles {
    let (certificate, key) = (server.certificate.clone(), server.key.clone());
    TlsFiles { certificate, key, client_ca: Some(authority.file()) }
}

/// A client that trusts `authority`.
fn client(authority: &Authority, own: Option<&Issued>) -> Arc<ClientConfig> {
    let roots = authorities(&fs::read(authority.file()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(network::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = network::certificates(&fs::read(&own.certificate).unwrap()).unwrap();
            let key = network::key(&fs::read(&own.key).unwrap()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The server's view, its certificate as the client sees it, and the kind of the handshake.
async fn handshake(
    tls: &Tls,
    client: &Arc<ClientConfig>,
) -> (io::Result<Option<Vec<String>>>, Option<Vec<u8>>, Option<HandshakeKind>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (_, names) = tls.open(stream).await?;
        Ok(names.map(|names| names.iter().map(ToString::to_string).collect()))
    };
    let speaking = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, stream).await.ok()?;
        // Tickets would come behind the handshake.
        let _ = stream.read(&mut [0]).await;
        let (_, session) = stream.get_ref();
        Some((session.peer_certificates()?.first()?.to_vec(), session.handshake_kind()?))
    };
    let (served, seen) = tokio::join!(serving, speaking);
    let (certificate, kind) = seen.unzip();
    (served, certificate, kind)
}

#[tokio::test]
async fn the_names_are_those_of_the_san() {
    let dir = Dir::new("tls-names");
    let authority = Authority::new(&dir.0);
    let tls = Tls::new(&files(&authority.issue("server", &["localhost"]), &authority)).unwrap();
    let names = async |own: Option<&Issued>| handshake(&tls, &client(&authority, own)).await.0.unwrap();
    assert_eq!(names(None).await, None);
    let many = authority.issue("many", &["spiffe://ci/agent", "agent.example", "*.example", "10.0.0.1"]);
    assert_eq!(names(Some(&many)).await.unwrap(), ["agent.example", "spiffe://ci/agent"]);
    let common = authority.issue_for_common_name("common", "agent.example");
    assert!(names(Some(&common)).await.unwrap().is_empty(), "a common name is none");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_ends_the_handshake() {
    let dirs = ["good", "foreign"].map(Dir::new);
    let [authority, foreign] = dirs.each_ref().map(|dir| Authority::new(&dir.0));
    let tls = Tls::new(&files(&authority.issue("server", &["localhost"]), &authority)).unwrap();
    for (own, why) in [
        (foreign.issue("client", &["agent"]), "invalid peer certificate"),
        (authority.issue_expired("client", &["agent"]), "expired"),
    ] {
        let refused = handshake(&tls, &client(&authority, Some(&own))).await.0.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

/// A resumed session is not verified again.
#[tokio::test]
async fn each_handshake_is_a_whole_one() {
    let dir = Dir::new("tls-whole");
    let authority = Authority::new(&dir.0);
    let tls = Tls::new(&files(&authority.issue("server", &["localhost"]), &authority)).unwrap();
    let client = client(&authority, Some(&authority.issue("client", &["agent"])));
    for _ in 0..2 {
        let (names, _, kind) = handshake(&tls, &client).await;
        assert_eq!((names.unwrap().unwrap().len(), kind), (1, Some(HandshakeKind::Full)));
    }
}

#[tokio::test]
async fn changed_files_are_taken_if_they_are_good() {
    let dir = Dir::new("tls-changed");
    let authority = Authority::new(&dir.0);
    let server = authority.issue("server", &["localhost"]);
    let tls = Tls::new(&files(&server, &authority)).unwrap();
    let client = client(&authority, None);
    let seen = async || handshake(&tls, &client).await.1.unwrap();
    let first = seen().await;
    tls.look();
    assert_eq!(seen().await, first);

    let renewed = authority.issue("renewed", &["localhost"]);
    fs::copy(&renewed.certificate, &server.certificate).unwrap();
    tls.look();
    assert_eq!(seen().await, first, "the key is still the old one's");
    assert!(tls.lock().said.is_some());
    fs::copy(&renewed.key, &server.key).unwrap();
    tls.look();
    let second = seen().await;
    assert!(second != first && tls.lock().said.is_none());

    for bad in ["", "-----BEGIN CERTIFICATE-----\n"] {
        fs::write(&server.certificate, bad).unwrap();
        tls.look();
        assert_eq!(seen().await, second);
    }
    fs::remove_file(&server.certificate).unwrap();
    tls.look();
    assert_eq!(seen().await, second);
    let said = tls.lock().said.clone().unwrap();
    assert!(said.starts_with("tls.certificate: cannot use"), "{said}");
}

#[tokio::test]
async fn changed_authorities_count() {
    let dirs = ["old", "new"].map(|name| Dir::new(&format!("ca-{name}")));
    let [old, new] = dirs.each_ref().map(|dir| Authority::new(&dir.0));
    let tls = Tls::new(&files(&old.issue("server", &["localhost"]), &old)).unwrap();
    let clients = [&old, &new].map(|of| client(&old, Some(&of.issue("client", &["agent"]))));
    let served = async |client| handshake(&tls, client).await.0.is_ok();
    assert!(served(&clients[0]).await && !served(&clients[1]).await);
    fs::copy(new.file(), old.file()).unwrap();
    tls.look();
    assert!(!served(&clients[0]).await && served(&clients[1]).await);
}

#[test]
fn files_that_cannot_be_used_are_named_and_a_key_is_not_quoted() {
    let dir = Dir::new("tls-wrong");
    let authority = Authority::new(&dir.0);
    let (one, other) = (authority.issue("one", &["localhost"]), authority.issue("other", &["localhost"]));
    let said = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = files(&one, &authority);
        change(&mut files);
        let error = Tls::new(&files).unwrap_err();
        format!("{error}: {}", error.source)
    };
    assert!(said(&|files| files.key = other.key.clone()).starts_with("tls.key: cannot use"));
    assert!(said(&|files| files.key = dir.0.join("none")).contains("No such file"));
    assert!(said(&|files| files.key = one.certificate.clone()).contains("no private key"));
    let swapped = said(&|files| files.certificate = one.key.clone());
    let secret = fs::read_to_string(&one.key).unwrap();
    assert!(swapped.contains("no certificate in it") && !swapped.contains(secret.lines().nth(1).unwrap()));
    assert!(said(&|files| files.client_ca = Some(one.key.clone())).starts_with("tls.client_ca: cannot use"));
}

/// Serves nobody; how many of `count` connections that never finish their handshake are left with these limits.
async fn half_open(limits: ConnectionLimits, count: usize) -> usize {
    let dir = Dir::new(&format!("half-{}", limits.connections_of_unproven_user));
    let authority = Authority::new(&dir.0);
    let tls = Arc::new(Tls::new(&files(&authority.issue("server", &["localhost"]), &authority)).unwrap());
    let address = "tcp://127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&address, 0, None, Some(&tls)).await.unwrap();
    let address = listener.to_string().replace("tcp://", "");
    let connections = Group::root().child("connections");
    let who: StandingOf = Arc::new(|_| Standing::Unproven);
    let service = tower::service_fn(|_: Request<Incoming>| async { Ok(Response::new(Body::empty())) });
    let protocol = Http2::new(service, limits);
    drop(Group::root().spawn("serve", Server::new(who, limits, protocol).serve(vec![listener], connections)));
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        held.push(stream);
    }
    // A client that does finish is served meanwhile, although the handshakes of the others go on.
    let stream = TcpStream::connect(&address).await.unwrap();
    let connector = TlsConnector::from(client(&authority, None));
    let mut served = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    assert!(served.read(&mut [0]).await.unwrap() > 0, "the settings of HTTP/2");
    // It came last, so that the places of the others have been judged.
    let is_open = |stream: &&TcpStream| matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    // Those that are closed are told so by their own tasks.
    let expected = count.min(limits.connections_of_unproven_user - 1);
    while held.iter().filter(is_open).count() > expected {
        tokio::task::yield_now().await;
    }
    held.iter().filter(is_open).count()
}

#[tokio::test]
async fn connections_that_do_not_finish_their_handshake_are_few() {
    let handshake = Duration::from_secs(600);
    let limits = |each| ConnectionLimits {
        connections_of_unproven_user: each,
        handshake,
        ..ConnectionLimits::default()
    };
    assert_eq!(half_open(limits(200), 100).await, 100, "without a limit all of them stay");
    assert_eq!(half_open(limits(4), 100).await, 3, "and the one that is served");
}

/// The reason why the loop that accepts connections does not wait for their handshakes.
#[tokio::test]
async fn a_handshake_takes_as_long_as_the_client_likes() {
    let dir = Dir::new("tls-slow");
    let authority = Authority::new(&dir.0);
    let tls = Tls::new(&files(&authority.issue("server", &["localhost"]), &authority)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let mut opening = Box::pin(tls.open(accepted.unwrap().0));
    assert!(futures_util::poll!(opening.as_mut()).is_pending());
    drop(silent);
    assert!(opening.await.is_err());
}
