//! Registry credentials, from `--login`, WHARF_LOGIN and the docker config of the user who runs the command.

mod config;
mod helper;
mod keeper;
mod logins;
mod look;

use std::{collections::HashMap, path::PathBuf};

use crate::{
    client::{
        env::{self, Env},
        exit::Failure,
        print,
    },
    names::{Reference, Secret},
    wire::v1,
};

use config::Config;
pub(crate) use keeper::Keeper;
pub(crate) use logins::LoginFlag;
use logins::Logins;
pub(crate) use look::{Helper, Look, of_blocks, of_variable as of_docker_variable};

/// Docker Hub's key in docker's config.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Docker Hub's names: in references, in requests to it, and in hand-written configs.
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Credentials for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// A username and a password.
    Password {
        /// The username.
        username: String,
        /// The password, or a token in place of a password.
        password: Secret<String>,
    },
    /// An OAuth2 refresh token.
    IdentityToken(Secret<String>),
}

/// Reads a docker config, and asks it for logins.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(text: &[u8]) {
    let Ok(config) = Config::parse(std::path::Path::new("config.json"), text) else { return };
    for key in [HUB_KEY, "reg.example"] {
        let _ = (config.stored(key), config.helper(key, key));
    }
    let _ = config.proxies().count();
}

/// The docker config, read once for each command.
#[derive(Clone, Debug)]
pub(crate) struct DockerConfig {
    config: Config,
    /// The logins of DOCKER_AUTH_CONFIG.
    variable: Config,
    logins: Logins,
}

impl DockerConfig {
    /// Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, and DOCKER_AUTH_CONFIG; without them there
    /// are no credentials.
    pub(crate) fn read(env: &Env) -> Result<Self, Failure> {
        let (directory, is_named) = directory(env);
        let config = match directory {
            Some(directory) => Config::read(&directory.join("config.json"), is_named)?,
            None => Config::default(),
        };
        let variable = of_variable(env).unwrap_or_else(|failure| {
            // Like docker.
            print::note(format_args!("WARNING: DOCKER_AUTH_CONFIG is not used: {}", failure.text));
            None
        });
        Ok(Self { config, variable: variable.unwrap_or_default(), logins: Logins::default() })
    }

    /// Adds the logins of `--login` and WHARF_LOGIN for this call. A flag without a registry applies to the registry in
    /// `named`, the hosts of the images that the call names.
    pub(crate) fn with_logins(
        mut self,
        flags: &[LoginFlag],
        named: &[Reference],
        env: &Env,
    ) -> Result<Self, Failure> {
        let hosts: Vec<_> = named.iter().map(Reference::host).collect();
        self.logins = Logins::read(flags, &hosts, env)?;
        Ok(self)
    }

    /// The proxies for builds, as the build arguments that docker makes from them; without those that are
    /// `given` in capitals or in small letters. BuildKit takes them for one, and of two values uses either.
    pub(crate) fn proxies_beside(&self, given: &HashMap<String, String>) -> Vec<(String, String)> {
        let is_given = |name: &str| given.keys().any(|given| given.eq_ignore_ascii_case(name));
        let proxies = self.config.proxies().filter(|(name, _)| !is_given(name));
        proxies.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The credentials for the registry at `host`, as in an image reference.
    pub(crate) async fn of(&self, host: &str) -> Result<Option<Credentials>, Failure> {
        if let Some(credentials) = self.logins.of(host) {
            return Ok(Some(credentials.clone()));
        }
        let hub = HUB_HOSTS.contains(&host);
        let key = if hub { HUB_KEY } else { host };
        if let Some(credentials) = stored(&self.variable, key, hub)? {
            return Ok(Some(credentials));
        }
        if let Some(helper) = self.config.helper(key, host)
            && let Some(credentials) = helper::get(helper, key).await?
        {
            return Ok(Some(credentials));
        }
        // `docker login` leaves an empty entry here for credentials that a helper keeps.
        stored(&self.config, key, hub)
    }
}

/// The credentials in `config` itself under `key`, or under another name of Docker Hub.
fn stored(config: &Config, key: &str, hub: bool) -> Result<Option<Credentials>, Failure> {
    let others = if hub { &HUB_HOSTS[..] } else { &[] };
    for key in [key].iter().chain(others) {
        if let Some(credentials) = config.stored(key)? {
            return Ok(Some(credentials));
        }
    }
    Ok(None)
}

/// The logins of DOCKER_AUTH_CONFIG, if it is set.
fn of_variable(env: &Env) -> Result<Option<Config>, Failure> {
    env.get(env::DOCKER_AUTH_CONFIG)?.map(|text| Config::of_variable(&text)).transpose()
}

/// The directory of docker's config, and whether a variable names it.
fn directory(env: &Env) -> (Option<PathBuf>, bool) {
    match env.path(env::DOCKER_CONFIG) {
        Some(named) => (Some(named), true),
        None => (env.home().map(|home| home.join(".docker")), false),
    }
}

/// The host of a registry, with one name for Docker Hub.
fn hub(host: &str) -> &str {
    if HUB_HOSTS.contains(&host) { "docker.io" } else { host }
}

impl Credentials {
    /// The credentials in their wire form.
    pub(crate) fn to_wire(&self, host: &str) -> v1::RegistryCredentials {
        let mut wire = v1::RegistryCredentials { host: host.to_owned(), ..Default::default() };
        match self {
            Self::Password { username, password } => {
                wire.username.clone_from(username);
                wire.password.clone_from(password.expose());
            }
            Self::IdentityToken(token) => wire.identity_token.clone_from(token.expose()),
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::{helper::Helper, *};

    /// A docker config in a directory of its own.
    struct Home(PathBuf);

    impl Home {
        fn of(name: &str, config: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("wharf-creds-{}-{name}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("config.json"), config).unwrap();
            Self(directory)
        }

        fn read(&self) -> Result<DockerConfig, Failure> {
            DockerConfig::read(&Env::of(&[("DOCKER_CONFIG", self.0.to_str().unwrap())]))
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn password(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { username: username.into(), password: Secret::new(password.into()) })
    }

    #[tokio::test]
    async fn hosts_match_as_in_docker() {
        // YTpi is `a:b`, YzpkOmU= is `c:d:e`.
        let home = Home::of(
            "hosts",
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "YTpi"},
                "https://reg.example/v2/": {"auth": "YzpkOmU="},
                "127.0.0.1:5000": {"username": "u", "password": "p"},
                "token.example": {"auth": "YTpi", "identitytoken": "t"},
                "empty.example": {}
            }, "HttpHeaders": {"x": "y"}}"#,
        );
        let config = home.read().unwrap();
        for hub in HUB_HOSTS {
            assert_eq!(config.of(hub).await.unwrap(), password("a", "b"), "{hub}");
        }
        assert_eq!(config.of("reg.example").await.unwrap(), password("c", "d:e"));
        assert_eq!(config.of("127.0.0.1:5000").await.unwrap(), password("u", "p"));
        let token = Some(Credentials::IdentityToken(Secret::new("t".into())));
        assert_eq!(config.of("token.example").await.unwrap(), token);
        for none in ["empty.example", "reg.example:5000", "127.0.0.1", "other.example"] {
            assert_eq!(config.of(none).await.unwrap(), None, "{none}");
        }
    }

    #[tokio::test]
    async fn a_plain_entry_serves_the_hub() {
        let home = Home::of("plain", r#"{"auths": {"docker.io": {"auth": "YTpi"}}}"#);
        assert_eq!(home.read().unwrap().of("docker.io").await.unwrap(), password("a", "b"));
    }

    #[tokio::test]
    async fn a_login_adds_to_the_config() {
        let home = Home::of(
            "logins",
            r#"{"auths": {"r.example": {"auth": "YTpi"}, "o.example": {"auth": "YTpi"}},
                "credHelpers": {"h.example": "absent"}, "proxies": {"default": {"noProxy": "x"}}}"#,
        );
        let env = Env::of(&[("U", "u"), ("P", "p")]);
        let flags = ["r.example=U:P", "h.example=U:P"].map(LoginFlag::from);
        let config = home.read().unwrap().with_logins(&flags, &[], &env).unwrap();
        assert_eq!(config.of("r.example").await.unwrap(), password("u", "p"));
        assert_eq!(config.of("h.example").await.unwrap(), password("u", "p"));
        assert_eq!(config.of("o.example").await.unwrap(), password("a", "b"));
        assert_eq!(config.proxies_beside(&HashMap::new()).len(), 2);
    }

    #[tokio::test]
    async fn a_config_is_read_as_docker_reads_it() {
        for (name, text) in [
            ("case", r#"{"AUTHS": {"r.example": {"Auth": "YTpi"}}}"#),
            ("after", r#"{"auths": {"r.example": {"auth": "YTpi"}}} }"#),
            (
                "null",
                r#"{"credHelpers": null, "credsStore": null, "proxies": {"default": null}, "auths":
                {"r.example": {"auth": "YTpi", "identitytoken": null}, "o.example": null}}"#,
            ),
            ("ends", r#"{"auths": {"r.example": {"auth": "YT\r\npi\n"}}}"#),
            (
                "no-helper",
                r#"{"credsStore": "absent", "credHelpers": {"r.example": ""},
                "auths": {"r.example": {"auth": "YTpi"}}}"#,
            ),
        ] {
            let home = Home::of(name, text);
            assert_eq!(home.read().unwrap().of("r.example").await.unwrap(), password("a", "b"), "{name}");
        }
        for (name, text) in [("nothing", ""), ("lines", "\n"), ("only-null", "null")] {
            let home = Home::of(name, text);
            assert_eq!(home.read().unwrap().of("r.example").await.unwrap(), None, "{name}");
        }
    }

    #[tokio::test]
    async fn dockers_variable_precedes_its_config() {
        let file = r#"{"auths": {"r.example": {"auth": "YTpi"}}, "credHelpers": {"h.example": "absent"}}"#;
        let home = Home::of("variable", file);
        let of = async |text: &str, host: &str| {
            let variables = [("DOCKER_CONFIG", home.0.to_str().unwrap()), ("DOCKER_AUTH_CONFIG", text)];
            DockerConfig::read(&Env::of(&variables)).unwrap().of(host).await.unwrap()
        };
        // YzpkOmU= is `c:d:e`.
        let entry = |host: &str| format!(r#"{{"auths": {{"{host}": {{"auth": "YzpkOmU="}}}}}}"#);
        for (text, host, expected) in [
            (entry("r.example"), "r.example", password("c", "d:e")),
            (entry("h.example"), "h.example", password("c", "d:e")),
            (entry("https://r.example/v1/"), "r.example", password("c", "d:e")),
            (entry(HUB_KEY), "docker.io", password("c", "d:e")),
            (entry("docker.io"), "docker.io", password("c", "d:e")),
            (entry("o.example"), "r.example", password("a", "b")),
            ("{}".to_owned(), "r.example", password("a", "b")),
            (
                r#"{"auths": {"r.example": {}}, "credsStore": "absent"}"#.to_owned(),
                "r.example",
                password("a", "b"),
            ),
            // Docker says so, and goes on without it.
            ("no JSON".to_owned(), "r.example", password("a", "b")),
            (r#"{"auths": {"o.example": {"auth": "hunter2!"}}}"#.to_owned(), "r.example", password("a", "b")),
        ] {
            assert_eq!(of(&text, host).await, expected, "{text}");
        }
        let failure = Config::of_variable(r#"{"auths": {"o.example": {"auth": "hunter2!"}}}"#).unwrap_err();
        assert!(failure.text.contains("DOCKER_AUTH_CONFIG: `auth` of `o.example`"), "{failure}");
        assert!(!failure.to_string().contains("hunter2"), "{failure}");
    }

    #[test]
    fn proxies_are_dockers_args() {
        let home = Home::of(
            "proxies",
            r#"{"proxies": {"default": {"httpProxy": "http://proxy:1", "noProxy": "x"}, "tcp://h": {"ftpProxy": "y"}}}"#,
        );
        let config = home.read().unwrap();
        let proxies = |given: &[&str]| {
            let given = given.iter().map(|name| ((*name).to_owned(), "given".to_owned())).collect();
            let proxies = config.proxies_beside(&given);
            proxies.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let http = ["HTTP_PROXY=http://proxy:1", "http_proxy=http://proxy:1"];
        assert_eq!(proxies(&["HTTPS_PROXY", "x"]), [&http[..], &["NO_PROXY=x", "no_proxy=x"]].concat());
        for given in ["no_proxy", "NO_PROXY", "No_Proxy"] {
            assert_eq!(proxies(&[given]), http);
        }
    }

    #[tokio::test]
    async fn no_config_is_no_credentials() {
        let env = Env::of(&[("DOCKER_CONFIG", "/nonexistent/wharf")]);
        assert_eq!(DockerConfig::read(&env).unwrap().of("docker.io").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_malformed_config_says_where_and_not_what() {
        let home = Home::of("malformed", "{\"auths\": {\n  \"a\": \"hunter2\"}}");
        let failure = home.read().unwrap_err();
        assert!(failure.text.contains("config.json:2"), "{failure}");
        assert!(!failure.text.contains("hunter2"), "{failure}");

        let home = Home::of("base64", r#"{"auths": {"reg.example": {"auth": "hunter2!"}}}"#);
        let failure = home.read().unwrap().of("reg.example").await.unwrap_err();
        assert!(failure.text.contains("reg.example") && !failure.text.contains("hunter2"), "{failure}");
    }

    #[tokio::test]
    async fn helpers_answer_for_their_hosts() {
        let home = Home::of(
            "helpers",
            r#"{"auths": {"stored.example": {"auth": "YTpi"}},
                "credHelpers": {"reg.example": "HELPER", "broken.example": "absent-helper"},
                "credsStore": "STORE"}"#,
        );
        let script = |name: &str, body: &str| {
            let path = home.0.join(name);
            let text = format!(
                "#!/bin/sh\n[ \"$1\" = get ] || exit 3\nserver=$(cat; echo .)\nserver=${{server%.}}\n{body}\n"
            );
            // Written by another process: a test in another thread that forks now would hold the file open
            // for writing, and then the file could not be executed.
            let write = r#"printf %s "$2" > "$1" && chmod +x "$1""#;
            let arguments = ["-c", write, "sh", path.to_str().unwrap(), &text];
            assert!(process::Command::new("sh").args(arguments).status().unwrap().success());
            path
        };
        let helper = script(
            "helper",
            r#"printf '{"ServerURL":"%s","Username":"<token>","Secret":"for %s"}' "$server" "$server""#,
        );
        let store = script(
            "store",
            r#"case $server in
            odd.example) printf '{"secret":"p","USERNAME":"u","more":null} and more' ;;
            none.example) printf '{"Username":null}' ;;
            locked.example) echo 'the store is locked'; exit 1 ;;
            https://index.docker.io/v1/) printf '{"Username":"u","Secret":"p"}' ;;
            *) echo 'credentials not found in native keychain'; exit 1 ;;
            esac"#,
        );
        let run = async |program: &PathBuf, key: &str| {
            helper::get_by(&Helper { program: program.clone(), name: "test".into() }, key).await
        };
        let token = Some(Credentials::IdentityToken(Secret::new("for reg.example".into())));
        assert_eq!(run(&helper, "reg.example").await.unwrap(), token);
        assert_eq!(run(&store, HUB_KEY).await.unwrap(), password("u", "p"));
        assert_eq!(run(&store, "other.example").await.unwrap(), None);
        assert_eq!(run(&store, "odd.example").await.unwrap(), password("u", "p"));
        assert_eq!(run(&store, "none.example").await.unwrap(), None);
        let failure = run(&store, "locked.example").await.unwrap_err();
        assert!(failure.text.contains("the store is locked"), "{failure}");

        let config = home.read().unwrap();
        assert_eq!(config.config.helper("reg.example", "reg.example"), Some("HELPER"));
        assert_eq!(config.config.helper(HUB_KEY, "docker.io"), Some("STORE"));
        let failure = config.of("broken.example").await.unwrap_err();
        assert!(failure.text.contains("docker-credential-absent-helper"), "{failure}");
    }
}
