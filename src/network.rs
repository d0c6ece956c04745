//! The parts that both ends of a network connection share: the socket's options, and for TLS the
//! cryptography, the system's authorities, and certificates and keys in files.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt;
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};
use zeroize::Zeroizing;

/// Every authority of a system is some 200 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Load balancers and firewalls forget a silent connection after minutes, the quickest of them after one. HTTP/2's pings
/// are more frequent; these also find a dead peer before HTTP/2 has begun.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TRIES: u32 = 4;

/// Sets a TCP socket's options: small frames go out at once, and the kernel notices when the other end is gone.
///
/// # Errors
/// As setsockopt(2).
pub fn tune(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE)?;
    Ok(sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_TRIES)?)
}

/// The implementation of the cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The system's authorities; Mozilla's if the system has none.
pub fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some of the system's certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    // Not if some of them cannot be read: the user who named them trusts no others.
    if roots.is_empty() && found.errors.is_empty() {
        tracing::info!("the system has no certificate authorities: Mozilla's are trusted");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// A file of certificates or of a key, which is wiped from memory after its use. At most 1 MiB.
///
/// # Errors
/// As the file system's, and if the file is larger.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // A buffer that grew would leave copies behind.
    let size = file.metadata()?.len().min(FILE_BYTES_MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("the file has more than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(text)
}

/// The certificates in a PEM file's text, in its order. There may be none.
///
/// # Errors
/// If the text is not PEM. The error contains nothing of the text.
pub fn certificates(text: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

/// The same, of which there must be one at least.
///
/// # Errors
/// Also if there is none.
pub fn some_certificates(text: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    match certificates(text)? {
        none if none.is_empty() => Err(io::Error::other("there is no certificate in it (PEM)")),
        certificates => Ok(certificates),
    }
}

/// The private key in a PEM file's text.
///
/// # Errors
/// If there is none, or the text is not PEM. The error contains nothing of the text.
pub fn key(text: &[u8]) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            io::Error::other("there is no private key in it (PEM, without a password)")
        }
        error => unreadable(&error),
    })
}

/// rustls' own texts quote lines of the file.
fn unreadable(error: &pem::Error) -> io::Error {
    io::Error::other(match error {
        pem::Error::Base64Decode(_) => "it is damaged: not base64",
        pem::Error::MissingSectionEnd { .. } => "it is damaged: a section does not end",
        pem::Error::IllegalSectionStart { .. } => "it is damaged: a section does not begin well",
        _ => "it is not PEM",
    })
}

/// For the tests of both ends.
#[cfg(test)]
#[path = "../tests/wharf/harness/authority.rs"]
pub(crate) mod authority;

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory that goes with the test. Names are unique in the crate.
    pub(crate) struct Dir(pub(crate) PathBuf);

    impl Dir {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-network-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_not_quoted() {
        for (text, why) in [
            ("", "no private key"),
            ("geheim", "no private key"),
            ("-----BEGIN PRIVATE KEY-----\ngeheim", "does not end"),
            ("-----BEGIN PRIVATE KEY-----\nge*heim\n-----END PRIVATE KEY-----\n", "not base64"),
            ("-----BEGIN geheim\nabcd\n-----END PRIVATE KEY-----\n", "damaged"),
        ] {
            let error = key(text.as_bytes()).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(why) && !shown.contains("heim"), "{text}: {shown}");
        }
        assert!(certificates(b"nothing").unwrap().is_empty());
    }

    #[test]
    fn a_file_has_its_limit() {
        let dir = Dir::new("limit");
        let path = dir.0.join("file");
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1 << 20);
        std::fs::write(&path, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("1 MiB"));
    }
}
