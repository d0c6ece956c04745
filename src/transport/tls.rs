//! TLS on accepted connections. The files of its certificates are read again when they change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::not_after::not_after;
use crate::{config::TlsFiles, names::CertificateName, network, tasks::Group};

/// How often the files are looked at. A certificate is renewed days before it expires.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// TLS by the files of the configuration.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    /// When the first of the certificates expires that it shows.
    expires: Option<i64>,
    /// Of the texts that `config` was made from.
    hashes: Hashes,
    /// Why the files cannot replace it, as it was logged.
    said: Option<String>,
}

/// Why TLS cannot be served. The text contains nothing of a key.
#[derive(Debug, thiserror::Error)]
#[error("tls.{key}: cannot use {}", path.display())]
pub struct TlsError {
    key: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// If a file is missing or is not of the right kind, or the key does not belong to the certificate.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        let texts = Texts::read(files)?;
        Ok(Self { files: files.clone(), state: Mutex::new(texts.state(files)?) })
    }

    /// When the first of the certificates expires that it shows, in seconds since 1970; `None` if they do not say.
    pub fn expires(&self) -> Option<i64> {
        self.lock().expires
    }

    /// Follows the files until `group` is cancelled.
    pub fn follow(self: &Arc<Self>, group: &Group) {
        let (tls, looking) = (Arc::clone(self), group.clone());
        let following = async move {
            while looking.unless_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_ok() {
                // The files may lie on a file system that hangs.
                let tls = Arc::clone(&tls);
                let _ = looking.spawn_blocking("certificates", move || tls.look()).await;
            }
        };
        drop(group.spawn("certificates", following));
    }

    /// Uses changed files if they are valid; otherwise it logs once why not.
    fn look(&self) {
        let read = Texts::read(&self.files);
        if let Ok(texts) = &read
            && texts.hashes() == self.lock().hashes
        {
            self.lock().said = None;
            return;
        }
        match read.and_then(|texts| texts.state(&self.files)) {
            Ok(state) => {
                *self.lock() = state;
                tracing::info!("the files of [tls] have changed: new connections use them");
            }
            Err(error) => {
                let cause = error.source.to_string();
                let said = self.lock().said.replace(format!("{error}: {cause}"));
                if said != self.lock().said {
                    tracing::error!(
                        %error,
                        cause,
                        "the files of [tls] have changed, and the old ones stay in use"
                    );
                }
            }
        }
    }

    /// Does the handshake, and returns the names of the client's certificate, if it has shown one.
    pub(super) async fn open(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Arc<[CertificateName]>>)> {
        let config = Arc::clone(&self.lock().config);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let names = leaf.map(names);
        Ok((stream, names))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names in a certificate's SAN. A common name does not count: it is a text for people.
fn names(leaf: &CertificateDer<'_>) -> Arc<[CertificateName]> {
    let Ok(leaf) = EndEntityCert::try_from(leaf) else { return Arc::default() };
    let hosts = leaf.valid_dns_names().filter_map(CertificateName::of_dns);
    hosts.chain(leaf.valid_uri_names().filter_map(CertificateName::of_uri)).collect()
}

/// Of the certificate, the key, and the clients' authorities.
type Hashes = [Option<[u8; 32]>; 3];

/// The texts of the files.
struct Texts {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Zeroizing<Vec<u8>>>,
}

impl Texts {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let text = |key, path: &Path| network::read(path).map_err(failed(key, path));
        Ok(Self {
            certificate: text("certificate", &files.certificate)?,
            key: text("key", &files.key)?,
            client_ca: files.client_ca.as_deref().map(|path| text("client_ca", path)).transpose()?,
        })
    }

    fn hashes(&self) -> Hashes {
        let hash = |text: &Zeroizing<Vec<u8>>| Sha256::digest(text.as_slice()).into();
        [Some(hash(&self.certificate)), Some(hash(&self.key)), self.client_ca.as_ref().map(hash)]
    }

    fn state(&self, files: &TlsFiles) -> Result<State, TlsError> {
        let chain = network::some_certificates(&self.certificate);
        let chain = chain.map_err(failed("certificate", &files.certificate))?;
        let expires = chain.iter().filter_map(|certificate| not_after(certificate)).min();
        Ok(State { config: Arc::new(self.config(files, chain)?), expires, hashes: self.hashes(), said: None })
    }

    fn config(
        &self,
        files: &TlsFiles,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<ServerConfig, TlsError> {
        let of_certificate = || failed("certificate", &files.certificate);
        let of_key = || failed("key", &files.key);
        let key = network::key(&self.key).map_err(of_key())?;
        let builder = ServerConfig::builder_with_provider(network::provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)
            .map_err(of_certificate())?;
        let builder = match self.client_ca.as_ref().zip(files.client_ca.as_deref()) {
            None => builder.with_no_client_auth(),
            Some((text, path)) => {
                let verifier = authorities(text).and_then(|roots| {
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), network::provider());
                    // A call may show a token instead. A certificate of another authority ends the handshake.
                    let verifier = verifier.allow_unauthenticated().build();
                    verifier.map_err(|error: VerifierBuilderError| io::Error::other(error))
                });
                builder.with_client_cert_verifier(verifier.map_err(failed("client_ca", path))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InvalidCertificate(_) => of_certificate()(io::Error::other(error)),
            error => of_key()(io::Error::other(error)),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session is not checked again: its certificate may have expired, or its authority be gone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn authorities(text: &[u8]) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in network::some_certificates(text)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    Ok(roots)
}

fn failed(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError { key, path, source }
}

#[cfg(test)]
mod tests;
