//! Servers that record their requests, and an authority that signs their certificates.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::MANIFEST;
use crate::tasks::Group;

/// An authority, and the clients' directory of certificates.
pub(in crate::registry) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(in crate::registry) certs: PathBuf,
}

impl Authority {
    pub(in crate::registry) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, certs: directory() }
    }

    pub(in crate::registry) fn issue(&self, name: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (certificate.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }

    /// Makes the client trust the authority for the registry `host`.
    pub(in crate::registry) fn trust(&self, host: &str) {
        fs::create_dir_all(self.certs.join(host)).unwrap();
        fs::write(self.certs.join(host).join("ca.crt"), self.issuer.pem()).unwrap();
    }

    /// Gives the client a certificate for the registry `host`.
    pub(in crate::registry) fn give_key(&self, host: &str) {
        let (certificate, key) = self.issue("client");
        fs::write(self.certs.join(host).join("client.cert"), certificate).unwrap();
        fs::write(self.certs.join(host).join("client.key"), key.serialize_pem()).unwrap();
    }

    pub(in crate::registry) fn acceptor(&self, wants_key: bool) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (_, key) = self.issue("localhost");
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if wants_key {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.certs).unwrap();
    }
}

pub(in crate::registry) fn directory() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("wharf-registry-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A server. It ends with the test's runtime.
pub(in crate::registry) struct Server {
    pub(in crate::registry) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers each request with the result of `answer` for its head.
    pub(in crate::registry) async fn start(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (group, answer, heard_there) = (Group::root(), Arc::new(answer), Arc::clone(&heard));
        let connections = group.clone();
        drop(group.spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, heard) = (tls.clone(), Arc::clone(&answer), Arc::clone(&heard_there));
                drop(connections.spawn("connection", async move {
                    match tls {
                        None => serve(stream, &*answer, &heard).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &*answer, &heard).await,
                            Err(_) => heard.lock().unwrap().push("no TLS".to_owned()),
                        },
                    }
                }));
            }
        }));
        Self { address, heard }
    }

    pub(in crate::registry) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// The requests' heads so far.
    pub(in crate::registry) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// The method, path and authorization of each request: `GET /x Basic …`.
    pub(in crate::registry) fn shown(&self) -> Vec<String> {
        self.heard().iter().map(|head| shown(head)).collect()
    }
}

pub(in crate::registry) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(impl Fn(&str) -> String + ?Sized),
    heard: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            // Go's server answers TLS like this if it expects plain HTTP.
            Ok(0x16) if head.is_empty() => {
                let _ = stream.write_all(status("400 Bad Request", "connection: close").as_bytes()).await;
                return;
            }
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let mut head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).await.is_ok() {
        head.push_str(&String::from_utf8_lossy(&body));
    }
    heard.lock().unwrap().push(head.clone());
    let answer = answer(&head);
    let _ = stream.write_all(answer.as_bytes()).await;
    if answer.contains("chunked") {
        // An endless body.
        let piece = format!("10000\r\n{}\r\n", "x".repeat(64 << 10));
        while stream.write_all(piece.as_bytes()).await.is_ok() {}
    }
    let _ = stream.shutdown().await;
}

pub(in crate::registry) fn shown(head: &str) -> String {
    let line = head.lines().next().unwrap_or_default().replace(" HTTP/1.1", "");
    let authorization = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| format!(" {value}"))
    });
    format!("{line}{}", authorization.unwrap_or_default())
}

pub(in crate::registry) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub(in crate::registry) fn status(status: &str, header: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{header}\r\ncontent-length: 0\r\n\r\n")
}

pub(in crate::registry) fn wants(challenge: &str) -> String {
    status("401 Unauthorized", &format!("www-authenticate: {challenge}"))
}

/// Serves the manifest to requests with `authorization`, and sends `challenge` to others.
pub(in crate::registry) fn guarded(
    authorization: &'static str,
    challenge: String,
) -> impl Fn(&str) -> String {
    move |head| if head.contains(authorization) { ok(MANIFEST) } else { wants(&challenge) }
}
