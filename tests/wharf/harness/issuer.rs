//! An issuer of job tokens, with a key of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::{Value, json};

use super::{Test, signer::Signer};

/// The time, in seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A Jenkins with the OpenID Connect Provider plugin, as it is installed.
#[derive(Debug)]
pub(crate) struct Issuer {
    name: String,
    key: Signer,
    keys: PathBuf,
}

impl Issuer {
    /// An issuer that the configuration calls `name`.
    pub(crate) fn new(test: &Test, name: &str) -> Self {
        let (key, keys) = (Signer::new(), test.new_dir("issuer").join("keys.json"));
        fs::write(&keys, json!({ "keys": [key.jwk("1")] }).to_string()).unwrap();
        Self { name: name.to_owned(), key, keys }
    }

    /// The file of its public keys.
    pub(crate) fn keys(&self) -> &Path {
        &self.keys
    }

    fn url(&self) -> String {
        format!("https://{}.example", self.name)
    }

    /// Its part of wharfd's configuration; it serves the jobs that match `namespaces`.
    pub(crate) fn config(&self, namespaces: &str) -> String {
        format!(
            "[issuers.{name}]\npreset = \"jenkins\"\nissuer = \"{}/oidc\"\naudience = \"wharf\"\njwks = \"{}\"\n\
             [[serve]]\nissuer = \"{name}\"\nnamespaces = \"{namespaces}\"\n",
            self.url(),
            self.keys.display(),
            name = self.name,
        )
    }

    /// A token for a run of a job, which lives for an hour.
    pub(crate) fn token(&self, job: &str, run: u32) -> String {
        self.token_with(job, run, json!({}))
    }

    /// The same with other claims.
    pub(crate) fn token_with(&self, job: &str, run: u32, changes: Value) -> String {
        let now = seconds();
        let mut claims = json!({
            "iss": format!("{}/oidc", self.url()),
            "aud": "wharf",
            "sub": format!("{}/job/{}/", self.url(), job.replace('/', "/job/")),
            "build_number": run,
            "iat": now,
            "exp": now + 3600,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.sign(&json!({"alg": "ES256", "kid": "1"}), &claims)
    }

    /// Any token, signed with its key.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.key.sign(header, claims)
    }
}
