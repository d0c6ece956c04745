//! Docker's `config.json`, read as Go reads it.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::MapAccess;

use super::Credentials;
use crate::{
    client::{env::DOCKER_AUTH_CONFIG, exit::Failure, print},
    go_json::{self, Fields},
    names::Secret,
};

/// A look for the docker config.
pub(super) enum Found {
    /// There is no file.
    Absent,
    /// The file may not be read, and nobody has named it.
    Closed(io::Error),
    /// The file.
    Read(Config),
}

/// The parts of the docker config that wharf uses.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    path: PathBuf,
    content: Content,
}

#[derive(Clone, Debug, Default)]
struct Content {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
    proxies: BTreeMap<String, Proxies>,
}

#[derive(Clone, Default)]
struct Proxies {
    http_proxy: String,
    https_proxy: String,
    ftp_proxy: String,
    no_proxy: String,
    all_proxy: String,
}

#[derive(Clone, Default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identity_token: String,
}

impl Fields for Content {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<Option<()>, A::Error> {
        match name {
            "auths" => go_json::structs(map, &mut self.auths),
            "credhelpers" => go_json::texts(map, &mut self.cred_helpers),
            "credsstore" => go_json::text(map, &mut self.creds_store),
            "proxies" => go_json::structs(map, &mut self.proxies),
            _ => Ok(None),
        }
    }
}

impl Fields for Proxies {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<Option<()>, A::Error> {
        match name {
            "httpproxy" => go_json::text(map, &mut self.http_proxy),
            "httpsproxy" => go_json::text(map, &mut self.https_proxy),
            "ftpproxy" => go_json::text(map, &mut self.ftp_proxy),
            "noproxy" => go_json::text(map, &mut self.no_proxy),
            "allproxy" => go_json::text(map, &mut self.all_proxy),
            _ => Ok(None),
        }
    }
}

impl Fields for Entry {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<Option<()>, A::Error> {
        match name {
            "auth" => go_json::text(map, &mut self.auth),
            "username" => go_json::text(map, &mut self.username),
            "password" => go_json::text(map, &mut self.password),
            "identitytoken" => go_json::text(map, &mut self.identity_token),
            _ => Ok(None),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<entry>")
    }
}

// A proxy's URL may contain a password.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<proxies>")
    }
}

impl Config {
    /// Reads the file at `path`; a missing file counts as empty. So does a file that may not be read, since
    /// it may belong to another user (an agent's `HOME` may be root's), unless the user names it
    /// (`is_named`).
    pub(super) fn read(path: &Path, is_named: bool) -> Result<Self, Failure> {
        match Self::find(path, is_named)? {
            Found::Absent => Ok(Self::default()),
            Found::Closed(error) => {
                print::note(format_args!(
                    "WARNING: no credentials: cannot read the docker config {}: {error}",
                    path.display()
                ));
                Ok(Self::default())
            }
            Found::Read(config) => Ok(config),
        }
    }

    /// The same, without a word about a file that counts as empty.
    pub(super) fn find(path: &Path, is_named: bool) -> Result<Found, Failure> {
        match fs::read(path) {
            Ok(text) => Self::parse(path, &text).map(Found::Read),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Absent),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_named => {
                Ok(Found::Closed(error))
            }
            Err(error) => {
                Err(Failure::usage(format!("cannot read the docker config {}: {error}", path.display()))
                    .hint("make it readable, or set DOCKER_CONFIG to a directory with another"))
            }
        }
    }

    /// Reads the text of the file at `path`.
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, Failure> {
        let content = go_json::first_value(text).map_err(|error| malformed(path, &error))?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// Reads the logins of DOCKER_AUTH_CONFIG, which has the form of a docker config; only `auths` counts. Docker
    /// ignores the whole text if a part of it is wrong.
    pub(super) fn of_variable(text: &str) -> Result<Self, Failure> {
        let config = Self::parse(Path::new(DOCKER_AUTH_CONFIG.name), text.as_bytes())?;
        if let Some(broken) = config.hosts().find_map(|host| config.stored(host).err()) {
            return Err(broken);
        }
        Ok(Self { content: Content { auths: config.content.auths, ..Content::default() }, ..config })
    }

    /// The name of the helper that keeps the credentials of `host`, whose key is `key`. If a host's own entry
    /// has an empty name, the file itself keeps them, whatever `credsStore` says.
    pub(super) fn helper(&self, key: &str, host: &str) -> Option<&str> {
        let of_host = self.content.cred_helpers.get(key).or_else(|| self.content.cred_helpers.get(host));
        of_host.or(Some(&self.content.creds_store)).filter(|name| !name.is_empty()).map(String::as_str)
    }

    /// The registries that the file itself has an entry for.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.content.auths.keys().map(String::as_str)
    }

    /// The helpers, each with a registry; that of all other registries without one.
    pub(super) fn helpers(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let of_hosts =
            self.content.cred_helpers.iter().map(|(host, name)| (name.as_str(), Some(host.as_str())));
        let all = of_hosts.chain([(self.content.creds_store.as_str(), None)]);
        all.filter(|(name, _)| !name.is_empty())
    }

    /// The proxies for builds, as the variables that hold them.
    pub(super) fn proxies(&self) -> impl Iterator<Item = (&'static str, &str)> {
        // Docker also has proxies per daemon address; wharf ignores those, since there is only one wharfd.
        let proxies = self.content.proxies.get("default").into_iter();
        let variables = proxies.flat_map(|proxies| {
            [
                ("HTTP_PROXY", "http_proxy", &proxies.http_proxy),
                ("HTTPS_PROXY", "https_proxy", &proxies.https_proxy),
                ("FTP_PROXY", "ftp_proxy", &proxies.ftp_proxy),
                ("NO_PROXY", "no_proxy", &proxies.no_proxy),
                ("ALL_PROXY", "all_proxy", &proxies.all_proxy),
            ]
        });
        variables
            .filter(|(.., value)| !value.is_empty())
            .flat_map(|(upper, lower, value)| [(upper, value.as_str()), (lower, value.as_str())])
    }

    /// The credentials that the file itself contains under `key`.
    pub(super) fn stored(&self, key: &str) -> Result<Option<Credentials>, Failure> {
        let auths = &self.content.auths;
        let found = auths
            .get_key_value(key)
            // Old entries are URLs with arbitrary paths.
            .or_else(|| auths.iter().find(|(name, _)| hostname(name) == key));
        match found {
            Some((name, entry)) => entry.credentials().map_err(|()| {
                Failure::usage(format!(
                    "{}: `auth` of `{name}` is not base64 of `user:password`",
                    self.path.display()
                ))
                .hint("log in again with `wharf login`, or correct the entry")
            }),
            None => Ok(None),
        }
    }
}

/// Shows only the position of the error: the parser's own message can quote the file.
pub(super) fn malformed(path: &Path, error: &serde_json::Error) -> Failure {
    let what = if error.is_data() { "has a value of an unexpected type" } else { "is not JSON" };
    let place = format!("{}:{}:{}", path.display(), error.line(), error.column());
    Failure::usage(format!("{place}: the docker config {what} here"))
        .hint("correct it, or set DOCKER_CONFIG to a directory with another")
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, ()> {
        if !self.identity_token.is_empty() {
            return Ok(Some(Credentials::IdentityToken(Secret::new(self.identity_token.clone()))));
        }
        let (username, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            // Go skips line ends in base64, which `base64` without `-w0` writes.
            let auth = self.auth.replace(['\r', '\n'], "");
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| ())?;
            let text = String::from_utf8(decoded).map_err(|_| ())?;
            let (username, password) = text.split_once(':').ok_or(())?;
            // Older versions of docker pad the password with NULs.
            (username.to_owned(), password.trim_matches('\0').to_owned())
        };
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credentials::Password { username, password: Secret::new(password) }))
    }
}

/// The host of a key: `https://reg.example/v2/` gives `reg.example`. A user and a password before it are not of the host.
pub(super) fn hostname(name: &str) -> &str {
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let authority = name.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}
