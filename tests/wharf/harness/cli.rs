//! Runs the command line as a job would.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::process::Command;

use super::{
    Registry, Test, Wharfd, lock,
    process::{Background, Output, command, install},
};

/// Long, since a build waits for others on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A job: its own home directory, its namespace, and its wharfd.
#[derive(Clone, Debug)]
pub(crate) struct Wharf {
    address: String,
    namespace: String,
    home: PathBuf,
    uid: Option<u32>,
    token: Option<String>,
    contained: bool,
    /// Further variables of its environment.
    variables: BTreeMap<String, String>,
    /// Of this wharfd, those that jobs of the test act in.
    namespaces: Arc<Mutex<BTreeSet<String>>>,
}

impl Wharf {
    /// A job that acts in `namespace`, `JOB#RUN`.
    pub(crate) fn new(test: &Test, wharfd: &Wharfd, namespace: &str) -> Self {
        let job = Self {
            address: wharfd.address(),
            namespace: String::new(),
            home: test.new_dir("home"),
            uid: None,
            token: None,
            contained: false,
            variables: BTreeMap::new(),
            namespaces: wharfd.namespaces(),
        };
        job.in_namespace(namespace)
    }

    /// The same job as if in a container: with its own view of the node's files.
    pub(crate) fn in_container(&self) -> Self {
        Self { contained: true, ..self.clone() }
    }

    /// The same job in another namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Self {
        lock(&self.namespaces).insert(namespace.to_owned());
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The same job as another user.
    pub(crate) fn as_uid(&self, uid: u32) -> Self {
        // The build's own directory may be closed to others.
        let program = self.home.join("wharf");
        if !program.exists() {
            install(env!("CARGO_BIN_EXE_wharf").as_ref(), &program);
        }
        Self { uid: Some(uid), ..self.clone() }
    }

    /// The same job with a token, in the namespace that the token proves.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), namespace: String::new(), ..self.clone() }
    }

    /// The same job, which leaves its namespace to what proves it.
    pub(crate) fn without_namespace(&self) -> Self {
        Self { namespace: String::new(), ..self.clone() }
    }

    /// The same job at another address.
    pub(crate) fn at(&self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self.clone() }
    }

    /// The same job with a further variable in its environment.
    pub(crate) fn with_variable(&self, name: &str, value: &str) -> Self {
        let mut variables = self.variables.clone();
        variables.insert(name.to_owned(), value.to_owned());
        Self { variables, ..self.clone() }
    }

    /// Its home directory, with its docker configuration in `docker/config.json`.
    pub(crate) fn home(&self) -> &PathBuf {
        &self.home
    }

    /// Logs in to a registry as `docker login` does; `None` logs out of all.
    pub(crate) fn login(&self, registry: &Registry, login: Option<(&str, &str)>) {
        use base64::Engine as _;
        let auths = match login {
            None => serde_json::json!({}),
            Some((user, password)) => {
                let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                serde_json::json!({registry.host(): {"auth": auth}})
            }
        };
        fs::create_dir_all(self.home.join("docker")).unwrap();
        fs::write(self.home.join("docker/config.json"), serde_json::json!({"auths": auths}).to_string())
            .unwrap();
    }

    /// A command, not yet started.
    pub(crate) fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut run = match self.uid {
            None if self.contained => {
                let mut run = command("unshare");
                run.args(["--mount", "--", env!("CARGO_BIN_EXE_wharf")]);
                run
            }
            None => command(env!("CARGO_BIN_EXE_wharf")),
            Some(uid) => {
                let mut run = command("setpriv");
                run.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]);
                run.arg("--").arg(self.home.join("wharf"));
                run
            }
        };
        run.env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("DOCKER_CONFIG", self.home.join("docker"))
            .env("WHARF_ADDR", &self.address)
            .env("WHARF_NAMESPACE", &self.namespace)
            .envs(&self.variables)
            .current_dir(&self.home)
            .args(args);
        if let Some(token) = &self.token {
            run.env("WHARF_TOKEN", token);
        }
        run
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        Output::of(self.command(args), b"", TIMEOUT).await
    }

    /// Runs a command to its end, with standard input.
    pub(crate) async fn run_with(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
    ) -> Output {
        Output::of(self.command(args), input, TIMEOUT).await
    }

    /// Starts a command beside the test.
    pub(crate) fn start(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Background {
        Background::start(self.command(args))
    }

    /// Builds a directory, with plain progress.
    pub(crate) async fn build(&self, context: impl AsRef<OsStr>, flags: &[&str]) -> Output {
        let mut args: Vec<&OsStr> = vec!["build".as_ref(), "--progress=plain".as_ref()];
        args.extend(flags.iter().map(OsStr::new));
        args.push(context.as_ref());
        self.run(args).await
    }

    /// The names and ids that `wharf images` lists.
    pub(crate) async fn images(&self) -> Vec<(String, String)> {
        let listed = self.run(["images", "--no-trunc", "--format=json"]).await.ok().stdout;
        let rows = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        rows.map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            (format!("{}:{}", text("Repository"), text("Tag")), text("ID"))
        })
        .collect()
    }

    /// The description of one image.
    pub(crate) async fn inspect(&self, image: &str) -> serde_json::Value {
        let described = self.run(["inspect", image]).await.ok().stdout;
        serde_json::from_str::<serde_json::Value>(&described).unwrap()[0].take()
    }

    /// Builds a directory and returns the image's id.
    pub(crate) async fn build_id(&self, context: impl AsRef<OsStr>, flags: &[&str]) -> String {
        let mut args: Vec<&OsStr> = vec!["build".as_ref(), "--quiet".as_ref()];
        args.extend(flags.iter().map(OsStr::new));
        args.push(context.as_ref());
        self.run(args).await.ok().stdout.trim().to_owned()
    }
}
