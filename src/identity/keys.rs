//! The public keys of an issuer: a JSON Web Key Set (RFC 7517, 5) in a file.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{fault::causes, names::IssuerName, telemetry::each_second};

/// Real sets have some ten keys of some 2 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The reason why an issuer's keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum IssuerError {
    #[error("issuers.{name}: cannot read the keys in `{}`", path.display())]
    Read { name: IssuerName, path: PathBuf, source: io::Error },
    #[error("issuers.{name}: `{}` is not a set of keys (JWKS): {what}", path.display())]
    Set { name: IssuerName, path: PathBuf, what: String },
}

/// One key of a set.
#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// An issuer's keys. Each look-up sees whether the file has changed: an issuer can replace its keys, and take one
/// back, at any time.
#[derive(Debug)]
pub(super) struct Keyring {
    name: IssuerName,
    path: PathBuf,
    read: RwLock<Arc<Read>>,
}

#[derive(Debug)]
struct Read {
    keys: Vec<Key>,
    changed: Option<SystemTime>,
}

impl Keyring {
    pub(super) fn new(name: &IssuerName, path: &Path) -> Result<Self, IssuerError> {
        let read = read(name, path)?;
        Ok(Self { name: name.clone(), path: path.to_owned(), read: RwLock::new(Arc::new(read)) })
    }

    /// Reads the file again if it has changed; after an error the old keys stay.
    fn look(&self) {
        if changed(&self.path) == self.now().changed {
            return;
        }
        match read(&self.name, &self.path) {
            Ok(read) => {
                *self.read.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
                tracing::info!(issuer = %self.name, "the issuer's keys have changed and were read again");
            }
            Err(error) => {
                each_second!(
                    warn,
                    error = causes(&error),
                    "an issuer's keys have changed; the old ones stay"
                );
            }
        }
    }

    /// The key for a token that names `id` and is signed by `algorithm`. A token that names no key needs an issuer
    /// that has one for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        self.look();
        let read = self.now();
        let fits = |key: &&Key| {
            key.algorithm.is_none_or(|own| own == algorithm)
                && key.key.family().algorithms().contains(&algorithm)
                && (id.is_none() || key.id.as_deref() == id)
        };
        let mut fitting = read.keys.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(key.key.clone()),
            (Some(key), Some(_)) if id.is_some() => Some(key.key.clone()),
            _ => None,
        }
    }

    fn now(&self) -> Arc<Read> {
        Arc::clone(&self.read.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn read(name: &IssuerName, path: &Path) -> Result<Read, IssuerError> {
    // A change while the file is read is found at the next look.
    let changed = changed(path);
    let failed = |source| IssuerError::Read { name: name.clone(), path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)).map_err(failed)?;
    let wrong = |what: String| IssuerError::Set { name: name.clone(), path: path.to_owned(), what };
    let keys = parse(&text).map_err(wrong)?;
    Ok(Read { keys, changed })
}

/// The keys of a set that can check a signature of an issuer: the others, of kinds that are not known here, are left
/// out (RFC 7517, 5).
fn parse(text: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let keys: Vec<_> = set.keys.into_iter().filter_map(key).collect();
    if keys.is_empty() {
        return Err("it has no public key of RSA, P-256, P-384 or Ed25519".to_owned());
    }
    Ok(keys)
}

fn key(written: Value) -> Option<Key> {
    let key: Jwk = serde_json::from_value(written).ok()?;
    if !matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match key.common.key_algorithm {
        None => None,
        Some(named) => Some(named.to_string().parse().ok()?),
    };
    let decoding = DecodingKey::from_jwk(&key).ok()?;
    let shared = jsonwebtoken::AlgorithmFamily::Hmac;
    (decoding.family() != shared).then_some(Key { id: key.common.key_id, algorithm, key: decoding })
}
