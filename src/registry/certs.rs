//! The authorities that TLS trusts: the system's, and the engine's for single registries in
//! `/etc/docker/certs.d/HOST`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};

use super::error::{Error, Kind};
use crate::network;

/// How a server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    Yes,
    /// Not at all: the engine's configuration calls the server insecure.
    No,
}

/// Makes TLS configurations.
#[derive(Debug)]
pub(super) struct Certs {
    directory: PathBuf,
    provider: Arc<CryptoProvider>,
    /// Read once: the certificates are large, and a node whose certificates change restarts its services.
    system: OnceLock<Arc<RootCertStore>>,
}

impl Certs {
    /// Reads `HOST/*.crt`, `HOST/*.cert` and `HOST/*.key` in `directory`.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, provider: network::provider(), system: OnceLock::new() }
    }

    /// The configuration for a registry called `name`. With `with_key`, the server may also see the client
    /// certificate.
    pub(super) fn config(&self, name: &str, verify: Verify, with_key: bool) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|cause| Error::new(Kind::Other, "TLS cannot be used").caused_by(cause))?;
        let own = self.of(name).map_err(|(path, cause)| {
            let text = format!("wharfd cannot read {}, which the engine uses for it", path.display());
            Error::new(Kind::Unreachable, text).caused_by(cause)
        })?;
        let builder = match verify {
            Verify::No => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(Arc::clone(&self.provider)))),
            Verify::Yes => {
                let system = self.system.get_or_init(|| Arc::new(network::system_authorities()));
                let roots = if own.authorities.is_empty() {
                    Arc::clone(system)
                } else {
                    let mut roots = RootCertStore::clone(system);
                    roots.add_parsable_certificates(own.authorities);
                    Arc::new(roots)
                };
                builder.with_root_certificates(roots)
            }
        };
        match own.key.filter(|_| with_key) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|cause| {
                let text = "the client certificate that the engine has for it cannot be used";
                Error::new(Kind::Unreachable, text).caused_by(cause)
            }),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    fn of(&self, name: &str) -> Result<Own, (PathBuf, io::Error)> {
        let mut own = Own::default();
        let is_plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        let directory = self.directory.join(name);
        if !is_plain || !directory.is_dir() {
            return Ok(own);
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause: io::Error| (path, cause)
        };
        let entries = fs::read_dir(&directory).map_err(failed(&directory))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => own.authorities.extend(certificates(path).map_err(failed(path))?),
                Some("cert") if own.key.is_none() => {
                    let chain = certificates(path).map_err(failed(path))?;
                    let path = path.with_extension("key");
                    let key = network::read(&path).and_then(|text| network::key(&text));
                    own.key = Some((chain, key.map_err(failed(&path))?));
                }
                _ => {}
            }
        }
        Ok(own)
    }
}

/// The engine's certificates and key for one registry.
#[derive(Default)]
struct Own {
    authorities: Vec<CertificateDer<'static>>,
    key: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    network::certificates(&network::read(path)?)
}

/// Accepts any certificate, for a registry that the engine's configuration calls insecure.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
