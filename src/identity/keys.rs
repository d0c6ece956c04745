//! The public keys of an issuer: a JSON Web Key Set (RFC 7517, 5) in a file.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{fault::causes, names::IssuerName};

/// Real sets have some ten keys of some 2 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

/// An issuer's keys. A thread of its own looks each second whether the file has changed: an issuer can replace its keys,
/// and take one back, at any time. A look-up never waits for the file, which may be on a file system that hangs.
#[derive(Debug)]
pub(super) struct Keyring {
    loaded: Arc<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    name: IssuerName,
    path: PathBuf,
    keys: Mutex<Arc<Vec<Key>>>,
    /// The file's state when it was read, or when reading failed.
    state: Mutex<Option<State>>,
}

/// The properties that change when a file is written or replaced: times of modification and status, inode, length.
type State = (i64, i64, i64, i64, u64, u64);

/// The reason why a token has no key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer has no key of that id.
    Unknown,
    /// It has one, which is for other algorithms.
    Other,
    /// The token names none, and the issuer has none or several for its algorithm.
    Unnamed,
}

impl Keyring {
    pub(super) fn new(name: &IssuerName, path: &Path) -> Result<Self, IssuerError> {
        let state = state_of(path);
        let keys = read(name, path)?;
        if keys.is_empty() {
            let what = "it has no public key of RSA, P-256, P-384 or Ed25519".to_owned();
            return Err(IssuerError::Set { name: name.clone(), path: path.to_owned(), what });
        }
        let ring = Self::with(name, path, keys, state);
        let watched = Arc::downgrade(&ring.loaded);
        let look = move || {
            loop {
                thread::sleep(LOOK_EVERY);
                let Some(loaded) = watched.upgrade() else { break };
                loaded.look();
            }
        };
        let failed = |source| IssuerError::Read { name: name.clone(), path: path.to_owned(), source };
        thread::Builder::new().name("issuer-keys".to_owned()).spawn(look).map_err(failed)?;
        Ok(ring)
    }

    /// Looks now, as the thread does each second.
    #[cfg(test)]
    pub(super) fn look(&self) {
        self.loaded.look();
    }

    fn with(name: &IssuerName, path: &Path, keys: Vec<Key>, state: Option<State>) -> Self {
        let (keys, state) = (Mutex::new(Arc::new(keys)), Mutex::new(state));
        Self { loaded: Arc::new(Loaded { name: name.clone(), path: path.to_owned(), keys, state }) }
    }

    /// For `fuzz/`: the keys of a set that is in no file, and stays as it is.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of(name: &IssuerName, set: &[u8]) -> Result<Self, String> {
        Ok(Self::with(name, Path::new(""), parse(set)?, None))
    }

    /// The key for a token that names `id` and is signed by `algorithm`. A token that names no key needs an issuer
    /// that has one for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, NoKey> {
        let keys = self.loaded.keys();
        let fits = |key: &Key| {
            key.algorithm.is_none_or(|own| own == algorithm)
                && key.key.family().algorithms().contains(&algorithm)
        };
        let named: Vec<&Key> = keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).collect();
        let mut fitting = named.iter().filter(|key| fits(key));
        match (id, fitting.next(), fitting.next()) {
            (Some(_), Some(key), _) | (None, Some(key), None) => Ok(key.key.clone()),
            (None, ..) => Err(NoKey::Unnamed),
            (Some(_), None, _) if named.is_empty() => Err(NoKey::Unknown),
            (Some(_), None, _) => Err(NoKey::Other),
        }
    }
}

impl Loaded {
    fn keys(&self) -> Arc<Vec<Key>> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again if it has changed. After an error the old keys stay.
    fn look(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state_of(&self.path);
        if now == *state {
            return;
        }
        *state = now;
        match read(&self.name, &self.path) {
            Ok(keys) => {
                let count = keys.len();
                *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                tracing::info!(issuer = %self.name, keys = count, "the issuer's keys have changed");
            }
            Err(error) => {
                let error = causes(&error);
                tracing::warn!(issuer = %self.name, error, "an issuer's keys have changed; the old ones stay");
            }
        }
    }
}

fn state_of(path: &Path) -> Option<State> {
    let file = fs::metadata(path).ok()?;
    Some((file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec(), file.ino(), file.len()))
}

fn read(name: &IssuerName, path: &Path) -> Result<Vec<Key>, IssuerError> {
    let failed = |source| IssuerError::Read { name: name.clone(), path: path.to_owned(), source };
    let wrong = |what: String| IssuerError::Set { name: name.clone(), path: path.to_owned(), what };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("it has more than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    parse(&text).map_err(wrong)
}

/// The keys of a set that can check a signature of an issuer: the others, of kinds that are not known here, are left
/// out (RFC 7517, 5).
fn parse(text: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(set.keys.into_iter().filter_map(key).collect())
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
    let is_usable = match decoding.kind() {
        // As ring takes them.
        DecodingKeyKind::RsaModulusExponent { n, .. } => (256..=1025).contains(&n.len()),
        DecodingKeyKind::SecretOrDer(_) => decoding.family() != AlgorithmFamily::Hmac,
    };
    is_usable.then_some(Key { id: key.common.key_id, algorithm, key: decoding })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    fn number(bytes: usize) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(vec![0xc5; bytes])
    }

    /// As Java writes a number whose first bit is set.
    fn java_number(bytes: usize) -> String {
        BASE64_URL_SAFE_NO_PAD.encode([&[0][..], &vec![0xc5; bytes]].concat())
    }

    #[test]
    fn a_set_has_the_keys_that_can_check_a_signature() {
        let rsa = |id: &str, n: String| json!({"kty": "RSA", "kid": id, "n": n, "e": "AQAB"});
        let jenkins = json!({"kty": "RSA", "kid": "jenkins", "alg": "RS256", "use": "sig", "n": java_number(256), "e": "AQAB"});
        let mut encrypts = rsa("encrypts", number(256));
        encrypts["use"] = json!("enc");
        let set = json!({"keys": [
            jenkins, rsa("plain", number(512)), rsa("short", number(128)), rsa("long", number(2000)), encrypts,
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}, {"kty": "new", "kid": "new"},
        ]});
        let keys = parse(set.to_string().as_bytes()).unwrap();
        let ids: Vec<_> = keys.iter().filter_map(|key| key.id.as_deref()).collect();
        assert_eq!(ids, ["jenkins", "plain"]);
        assert!(parse(b"{}").is_err() && parse(b"[]").is_err() && parse(b"").is_err());
    }

    #[test]
    fn a_token_finds_its_key_or_hears_why_not() {
        let file = std::env::temp_dir().join(format!("wharf-keyring-{}.json", std::process::id()));
        let rsa =
            |id: &str, alg: &str| json!({"kty": "RSA", "kid": id, "alg": alg, "n": number(256), "e": "AQAB"});
        let write =
            |keys: serde_json::Value| std::fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
        write(json!([rsa("one", "RS256"), rsa("two", "RS512")]));
        let ring = Keyring::new(&"ci".to_owned().try_into().unwrap(), &file).unwrap();
        let find = |id, algorithm| ring.find(id, algorithm).map(|_| ());
        assert_eq!(find(Some("one"), Algorithm::RS256), Ok(()));
        assert_eq!(find(Some("one"), Algorithm::RS512), Err(NoKey::Other));
        assert_eq!(find(Some("one"), Algorithm::ES256), Err(NoKey::Other));
        assert_eq!(find(Some("three"), Algorithm::RS256), Err(NoKey::Unknown));
        assert_eq!(find(None, Algorithm::RS512), Ok(()), "it has one for that");
        assert_eq!(find(None, Algorithm::ES256), Err(NoKey::Unnamed));
        write(json!([rsa("one", "RS256"), rsa("two", "RS512"), rsa("three", "RS512")]));
        ring.look();
        assert_eq!(find(None, Algorithm::RS512), Err(NoKey::Unnamed), "it has two");
        // The last key can be taken back; a start without keys is a mistake.
        write(json!([]));
        ring.look();
        assert_eq!(find(Some("one"), Algorithm::RS256), Err(NoKey::Unknown));
        let none = Keyring::new(&"ci".to_owned().try_into().unwrap(), &file).unwrap_err();
        assert!(none.to_string().contains("no public key"), "{none}");
        std::fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
        let large = Keyring::new(&"ci".to_owned().try_into().unwrap(), &file).unwrap_err();
        assert!(large.to_string().contains("more than 1 MiB"), "{large}");
        std::fs::remove_file(&file).unwrap();
    }
}
