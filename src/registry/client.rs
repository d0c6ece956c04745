//! Manifests and blobs of one repository, from the same servers that the engine would ask.

use std::{path::PathBuf, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::header;
use sha2::{Digest as _, Sha256};

use super::{
    answer::Answer,
    blob::Blob,
    certs::Certs,
    error::{Error, Kind},
    lookups::Lookups,
    meter::Meter,
    reach::{Endpoint, Reach},
    server::{Access, Server},
};
use crate::names::{CallerId, Login, Reference, printable, reference::Digest, shortened};

/// The largest manifest or index. The engine's own limits are no smaller; a real manifest has some kilobytes.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The largest config of an image that comes to the engine. A real config has some kilobytes; the labels of a Cloud
/// Native Buildpacks' builder, which describe each of its buildpacks, may have some 300 KiB, the largest known. The
/// classic store reads a config into memory as a whole, and both stores send its labels whenever anybody lists images.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// The media types that wharfd accepts, as the engine asks for them.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
/// Docker's format from before 2016, in which an image has no digest of its own.
const OLD: &str = "application/vnd.docker.distribution.manifest.v1+";

/// A client of registries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) certs: Arc<Certs>,
    pub(super) lookups: Lookups,
}

/// One repository, as one caller sees it.
#[derive(Clone)]
pub struct Repository {
    servers: Vec<Server>,
    meter: Arc<Meter>,
}

/// A manifest or an index, and the digest of its bytes.
#[derive(Clone, Debug)]
pub struct Manifest {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
}

impl Client {
    /// A client that trusts the system's authorities, and those in `certs` for single registries, like the
    /// engine's `/etc/docker/certs.d`.
    /// Looks up names by `lookups`.
    pub fn new(certs: PathBuf, lookups: Lookups) -> Self {
        Self { certs: Arc::new(Certs::new(certs)), lookups }
    }

    /// The look-ups of names by which a caller's registries are found.
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// The repository of `reference`, with `login`, for `caller`. Sends no request yet.
    pub fn repository(
        &self,
        caller: &CallerId,
        reach: &Reach,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Repository, Error> {
        let server = |endpoint: Endpoint| {
            // A mirror belongs to someone else: it must not see the login.
            let login = login.filter(|_| !endpoint.is_mirror).cloned();
            let certs = Arc::clone(&self.certs);
            let names = self.lookups.of(caller);
            Server::new(certs, names, reach.clone(), endpoint, reference.path(), Access::Pull, login)
        };
        let servers = reach.endpoints(reference.host())?.into_iter().map(server).collect();
        Ok(Repository { servers, meter: Arc::default() })
    }

    /// The repository of `reference` at its own registry, as the target of a push of `caller` with `login`.
    /// Checks that the registry answers and accepts the login.
    pub async fn target(
        &self,
        caller: &CallerId,
        reach: &Reach,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Target, Error> {
        let none = || Error::bad_address(reference.host());
        let endpoint = reach.endpoints(reference.host())?.into_iter().find(|endpoint| !endpoint.is_mirror);
        let (certs, reach) = (Arc::clone(&self.certs), reach.clone());
        let endpoint = endpoint.ok_or_else(none)?;
        let names = self.lookups.of(caller);
        let mut server =
            Server::new(certs, names, reach, endpoint, reference.path(), Access::Push, login.cloned());
        server.greet().await?;
        let digest = reference.digest().map(Digest::as_str);
        Ok(Target { server, at: reference.tag().or(digest).unwrap_or("latest").to_owned() })
    }
}

/// A tag or a digest in a repository, as the target of a push.
#[derive(Clone)]
pub struct Target {
    pub(super) server: Server,
    pub(super) at: String,
}

impl Repository {
    /// The manifest with the reference's digest, or, if there is no digest, with its tag.
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

    /// Asks the servers in order until one has the manifest. If none has it, the error is that of the
    /// registry's own server, the last one.
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

    /// The meter for the repository's blobs, shared by all clones of this.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The blob with this digest, at most `max` bytes; errors call it `what`.
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

    /// The blob with this digest, to be read in pieces.
    pub async fn blob(&mut self, digest: &Digest) -> Result<Blob, Error> {
        let path = format!("blobs/{digest}");
        // A registry may be slow before the head of its answer, too.
        let _wait = self.meter.wait();
        let mut last = None;
        for server in &mut self.servers {
            match server.get(&path, None).await {
                Ok(answer) => {
                    let meter = Arc::clone(&self.meter);
                    return Ok(Blob::new(server.clone(), path, answer, digest.clone(), meter));
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
            let text = "it is in Docker's old format (schema 1); rebuild or copy the image with a newer tool";
            return Err(Error::new(Kind::Unsupported, text));
        }
        let bytes = answer.read("its manifest", MANIFEST_BYTES_MAX).await?;
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        if expected.is_some_and(|expected| *expected != digest) {
            return Err(Error::wrong_digest("manifest"));
        }
        if !bytes.trim_ascii_start().starts_with(b"{") {
            let text = format!("it answers {} instead of a manifest", shortened(printable(&kind), 100));
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(Self { digest, media_type: kind, bytes })
    }

    /// The media type that the registry gives for the manifest.
    pub(super) fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of the manifest's bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The manifest's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("at", &self.at).finish_non_exhaustive()
    }
}
