//! Saves and removes logins in docker's configuration.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    Config, HUB_HOSTS, HUB_KEY, Secret,
    config::{hostname, malformed},
    helper,
};
use crate::client::{
    env::Env,
    exit::{Exit, Failure},
};

/// Keeps the login for one registry in the same place as docker: in docker's config, or with a credential
/// helper.
pub(crate) struct Keeper {
    path: PathBuf,
    config: Config,
    key: String,
    host: String,
}

impl Keeper {
    /// Makes a keeper for the registry at `host`, by default Docker Hub.
    pub(crate) fn of(host: Option<&str>, env: &Env) -> Result<Self, Failure> {
        let (directory, _) = super::directory(env);
        let Some(directory) = directory else {
            return Err(Failure::usage("docker's config has no place: there is no home directory")
                .hint("set DOCKER_CONFIG to a directory"));
        };
        let path = directory.join("config.json");
        let host = hostname(host.unwrap_or("docker.io")).to_owned();
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(Failure::usage("the registry is not a host name").hint("write it as `HOST[:PORT]`"));
        }
        let key = if HUB_HOSTS.contains(&host.as_str()) { HUB_KEY.to_owned() } else { host.clone() };
        Ok(Self { config: Config::read(&path, true)?, path, key, host })
    }

    /// The registry's host, as the user typed it.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Saves a login; returns the place where it is saved.
    pub(crate) async fn save(&self, username: &str, password: &Secret<String>) -> Result<String, Failure> {
        if username.contains(':') {
            return Err(Failure::usage("a username must not contain `:`: docker's config cannot keep it"));
        }
        let mut entry = Map::new();
        let place = match self.config.helper(&self.key, &self.host) {
            Some(helper) => {
                helper::store(helper, &self.key, username, password).await?;
                format!("the credential helper {helper}")
            }
            None => {
                let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
                entry.insert("auth".to_owned(), auth.into());
                self.path.display().to_string()
            }
        };
        self.change(|auths| {
            auths.insert(self.key.clone(), entry.into());
        })?;
        Ok(place)
    }

    /// Removes the login, if there is one.
    pub(crate) async fn remove(&self) -> Result<(), Failure> {
        if let Some(helper) = self.config.helper(&self.key, &self.host) {
            helper::erase(helper, &self.key).await?;
        }
        if !self.path.exists() {
            return Ok(());
        }
        self.change(|auths| auths.retain(|name, _| *name != self.key && hostname(name) != self.host))
    }

    /// Changes the logins in the file, and keeps everything else in it.
    fn change(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure::new(Exit::Failed, format!("cannot write {}: {error}", self.path.display()))
                .hint("set DOCKER_CONFIG to a directory that you may write to")
        };
        // Users share a config by a link, as docker allows: replace the link's target.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let text = match fs::read(&path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let first =
            serde_json::Deserializer::from_str(&text).into_iter::<Option<Map<String, Value>>>().next();
        let first = first.transpose().map_err(|error| malformed(&path, &error))?;
        let mut config = first.flatten().unwrap_or_default();
        let name = config.keys().find(|name| name.eq_ignore_ascii_case("auths")).cloned();
        let auths = config.entry(name.unwrap_or_else(|| "auths".to_owned())).or_insert(Value::Null);
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            change(auths);
        }
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut to = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(&config, &mut to).map_err(|error| failed(error.into()))?;
        replace(&path, &text).map_err(failed)
    }
}

/// Replaces the file atomically by one that only this user may read.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let beside = path.with_file_name(format!(".config.json.{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn env(name: &str) -> (PathBuf, Env) {
        let home = std::env::temp_dir().join(format!("wharf-keeper-{}-{name}", std::process::id()));
        let env = Env::of(&[("DOCKER_CONFIG", home.to_str().unwrap())]);
        (home, env)
    }

    async fn save(env: &Env, host: Option<&str>) {
        Keeper::of(host, env).unwrap().save("bob", &Secret::new("p:w".into())).await.unwrap();
    }

    #[tokio::test]
    async fn a_login_is_what_docker_writes() {
        let (home, env) = env("new");
        let path = home.join("config.json");
        save(&env, None).await;
        let text = "{\n\t\"auths\": {\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \"Ym9iOnA6dw==\"\n\t\t}\n\t}\n}";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
        fs::remove_dir_all(&home).unwrap();
    }

    #[tokio::test]
    async fn all_else_is_kept_and_a_logout_takes_what_is_the_registrys() {
        let (home, env) = env("old");
        fs::create_dir(&home).unwrap();
        let (path, target) = (home.join("config.json"), home.join("shared.json"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        fs::write(&target, r#"{"Auths": {"https://r.example/v2/": {"auth": "YTpi"}, "o.example": {}}, "detachKeys": "x"} more"#)
            .unwrap();
        save(&env, Some("https://r.example/v2/")).await;
        let read = || serde_json::from_slice::<Value>(&fs::read(&target).unwrap()).unwrap();
        assert_eq!(read()["Auths"]["r.example"]["auth"], "Ym9iOnA6dw==");
        assert_eq!(read()["detachKeys"], "x");
        assert!(path.is_symlink());
        Keeper::of(Some("r.example"), &env).unwrap().remove().await.unwrap();
        assert_eq!(read(), json!({"Auths": {"o.example": {}}, "detachKeys": "x"}));
        fs::remove_dir_all(&home).unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_refused() {
        let (home, env) = env("wrong");
        assert!(Keeper::of(Some("a b"), &env).is_err());
        let keeper = Keeper::of(Some("r.example"), &env).unwrap();
        assert!(keeper.save("a:b", &Secret::new("p".into())).await.is_err());
        keeper.remove().await.unwrap();
        assert!(!home.exists());
    }
}
