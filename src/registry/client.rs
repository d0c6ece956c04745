//! Manifests and blobs of one repository, from the servers that the engine would ask for it.

use std::{path::PathBuf, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::header;
use sha2::{Digest as _, Sha256};

use super::{
    answer::Answer,
    certs::Certs,
    error::{Error, Kind},
    meter::Meter,
    reach::{Endpoint, Reach},
    server::{Access, Server},
};
use crate::names::{Login, Reference, printable, reference::Digest, shortened};

/// A manifest or an index. The engine's own limits are no smaller; a real one has some kilobytes.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// What wharfd takes, as the engine asks for it.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
/// Docker's format of before 2016, in which an image has no digest of its own.
const OLD: &str = "application/vnd.docker.distribution.manifest.v1+";

/// Asks registries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    certs: Arc<Certs>,
}

/// One repository, as one caller sees it.
#[derive(Clone)]
pub struct Repository {
    servers: Vec<Server>,
    meter: Arc<Meter>,
}

/// A manifest or an index, and the digest that its bytes have.
#[derive(Clone, Debug)]
pub struct Manifest {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
}

/// A blob on its way.
pub struct Blob {
    answer: Answer,
    expected: Digest,
    hasher: Sha256,
    meter: Arc<Meter>,
}

impl Client {
    /// A client that trusts what `certs` has for single registries, as the engine's
    /// `/etc/docker/certs.d`, and the system's authorities.
    pub fn new(certs: PathBuf) -> Self {
        Self { certs: Arc::new(Certs::new(certs)) }
    }

    /// The repository of `reference`, asked with `login`. Nothing is asked yet.
    pub fn repository(
        &self,
        reach: &Reach,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Repository, Error> {
        let server = |endpoint: Endpoint| {
            // A mirror is another's: the login is not for it.
            let login = login.filter(|_| !endpoint.is_mirror).cloned();
            let certs = Arc::clone(&self.certs);
            Server::new(certs, reach.clone(), endpoint, reference.path(), Access::Pull, login)
        };
        let servers = reach.endpoints(reference.host())?.into_iter().map(server).collect();
        Ok(Repository { servers, meter: Arc::default() })
    }

    /// The repository of `reference` at its own registry, to be pushed to with `login`. Asks whether the
    /// registry is there and takes the login.
    pub async fn target(
        &self,
        reach: &Reach,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Target, Error> {
        let none = || Error::bad_address(reference.host());
        let endpoint = reach.endpoints(reference.host())?.into_iter().find(|endpoint| !endpoint.is_mirror);
        let (certs, reach) = (Arc::clone(&self.certs), reach.clone());
        let endpoint = endpoint.ok_or_else(none)?;
        let mut server = Server::new(certs, reach, endpoint, reference.path(), Access::Push, login.cloned());
        server.greet().await?;
        Ok(Target { server, tag: reference.tag().unwrap_or("latest").to_owned() })
    }
}

/// A tag of a repository that an image is pushed to.
#[derive(Clone)]
pub struct Target {
    pub(super) server: Server,
    pub(super) tag: String,
}

impl Repository {
    /// The manifest that the registry has under a reference's digest, else its tag.
    pub async fn manifest(&mut self, reference: &Reference) -> Result<Manifest, Error> {
        match reference.digest() {
            Some(digest) => self.manifest_by_digest(digest).await,
            None => self.get_manifest(reference.tag().unwrap_or("latest"), None).await,
        }
    }

    /// The manifest with this digest.
    pub async fn manifest_by_digest(&mut self, digest: &Digest) -> Result<Manifest, Error> {
        self.get_manifest(digest.as_str(), Some(digest)).await
    }

    /// The first server that has it; of those that have not, the registry's own says why.
    async fn get_manifest(&mut self, at: &str, expected: Option<&Digest>) -> Result<Manifest, Error> {
        let path = format!("manifests/{at}");
        let mut last = None;
        for server in &mut self.servers {
            let got = async { Manifest::read(server.get(&path, Some(ACCEPT)).await?, expected).await };
            match got.await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::Unreachable, "it has no server")))
    }

    /// What has come of its blobs, by whatever clone of this.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The blob with this digest, which is called `what` and has no more than `max` bytes.
    pub async fn small_blob(&mut self, digest: &Digest, what: &str, max: usize) -> Result<Bytes, Error> {
        let mut blob = self.blob(digest).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = blob.next().await? {
            if bytes.len() + piece.len() > max {
                return Err(Error::too_large(what, max));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The blob with this digest, to be read piece by piece.
    pub async fn blob(&mut self, digest: &Digest) -> Result<Blob, Error> {
        let path = format!("blobs/{digest}");
        let mut last = None;
        for server in &mut self.servers {
            match server.get(&path, None).await {
                Ok(answer) => {
                    let (hasher, meter) = (Sha256::new(), Arc::clone(&self.meter));
                    return Ok(Blob { answer, expected: digest.clone(), hasher, meter });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::Unreachable, "it has no server")))
    }
}

#[cfg(test)]
impl Repository {
    pub(super) fn servers_for_tests(&mut self) -> &mut [Server] {
        &mut self.servers
    }
}

impl Manifest {
    async fn read(answer: Answer, expected: Option<&Digest>) -> Result<Self, Error> {
        let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
        if kind.starts_with(OLD) {
            let text = "it is in Docker's old format (schema 1); build or copy it anew with a newer tool";
            return Err(Error::new(Kind::Unsupported, text));
        }
        let bytes = answer.read("its manifest", MANIFEST_BYTES_MAX).await?;
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        if expected.is_some_and(|expected| *expected != digest) {
            return Err(wrong_digest("manifest"));
        }
        if !bytes.trim_ascii_start().starts_with(b"{") {
            let text = format!("it answers {} instead of a manifest", shortened(printable(&kind), 100));
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(Self { digest, media_type: kind, bytes })
    }

    /// The media type that the registry gives it.
    pub(super) fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest that its bytes have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Blob {
    /// The digest that it was asked for by.
    pub(super) fn digest(&self) -> &Digest {
        &self.expected
    }

    /// How long it is, if the registry says so.
    pub(super) fn length(&self) -> Option<u64> {
        self.answer.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The next piece; none at the end, when the bytes were those of the digest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let begun = Instant::now();
        if let Some(piece) = self.answer.next().await? {
            self.meter.add(piece.len(), begun.elapsed());
            self.hasher.update(&piece);
            return Ok(Some(piece));
        }
        let digest = Digest::from_sha256(std::mem::take(&mut self.hasher).finalize().into());
        if digest == self.expected { Ok(None) } else { Err(wrong_digest("blob")) }
    }
}

fn wrong_digest(what: &str) -> Error {
    Error::new(Kind::Unavailable, format!("the bytes of its {what} are not those of the digest"))
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("digest", &self.expected).finish_non_exhaustive()
    }
}
