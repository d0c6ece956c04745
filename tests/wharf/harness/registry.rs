//! A real registry on the engine's loopback, and the requests to it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::TcpListener, process::Command};

use super::{
    engine::{env_script, tool},
    http::{Call, Server},
    process::{Background, command},
};

/// The media types that a client accepts for a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Background,
    dir: PathBuf,
    host: String,
    server: Server,
    login: Option<(String, String)>,
}

impl Registry {
    pub(super) async fn start(dir: &Path, login: Option<(&str, &str)>) -> Self {
        Self::serve(dir, login, command(tool("WHARF_REGISTRY_BIN"))).await
    }

    /// Serves the content that another registry stored in `dir`, on the loopback of the engine `name`.
    pub(super) async fn start_in(dir: &Path, name: &str) -> Self {
        let serve = env_script(&["exec-net", name, &tool("WHARF_REGISTRY_BIN")]);
        Self::serve(dir, None, serve).await
    }

    async fn serve(dir: &Path, login: Option<(&str, &str)>, mut serve: Command) -> Self {
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": dir.join("data")},
                "delete": {"enabled": true},
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": {"addr": "127.0.0.1:0"},
        });
        if let Some((user, password)) = login {
            let passwords = dir.join("htpasswd");
            // -B: the registry reads only bcrypt.
            let made = command(tool("WHARF_HTPASSWD")).args(["-Bbn", user, password]).output().await.unwrap();
            assert!(made.status.success(), "{made:?}");
            fs::write(&passwords, made.stdout).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": passwords}});
        }
        // YAML is a superset of JSON.
        let file = dir.join("config.yml");
        fs::write(&file, config.to_string()).unwrap();
        serve.arg("serve").arg(&file);
        let process = Background::start(serve);
        let host = process
            .says("the registry's address", |line| {
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split(['"', ',']).next()?.to_owned())
            })
            .await;
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Self { process, dir: dir.to_owned(), server: Server::Tcp(host.clone()), host, login }
    }

    /// The directory of its content.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its host and port, as in references.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// `HOST/NAME`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// The user and the password that it accepts.
    pub(crate) fn login(&self) -> Option<&(String, String)> {
        self.login.as_ref()
    }

    pub(crate) fn call(&self, method: http::Method, path: &str) -> Call {
        self.server.call(method, path).login(self.login())
    }

    /// The digest of `repository:tag`, if there is such a tag.
    pub(crate) async fn digest(&self, repository: &str, tag: &str) -> Option<String> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.call(http::Method::HEAD, &path).header("accept", MANIFESTS).send().await;
        (answer.status != 404).then(|| answer.ok().header("docker-content-digest").unwrap())
    }

    /// A manifest, as JSON.
    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> serde_json::Value {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.call(http::Method::GET, &path).header("accept", MANIFESTS).send().await.ok().json()
    }

    /// Marks this moment, for [`requests_since`](Self::requests_since).
    pub(crate) async fn mark(&self) -> Mark {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        // The log is written in the order of the answers, so a request of our own separates the earlier
        // ones.
        let path = format!("/mark-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.server.get(&path).send().await;
        self.process.says("its own log", |line| line.contains(&path).then_some(())).await;
        Mark(path)
    }

    /// The requests since `mark`: `GET /v2/app/manifests/1 200`.
    pub(crate) async fn requests_since(&self, mark: &Mark) -> Vec<String> {
        self.mark().await;
        let mut requests = Vec::new();
        let mut since = false;
        for line in self.process.lines() {
            let Some(request) = access(&line) else { continue };
            if request.contains(&mark.0) {
                since = true;
            } else if since && !request.contains("/mark-") {
                requests.push(request);
            }
        }
        requests
    }

    /// Every request so far.
    pub(crate) fn all_requests(&self) -> Vec<String> {
        self.process.lines().iter().filter_map(|line| access(line)).collect()
    }

    /// The digests of all manifests that were ever pushed to a repository.
    pub(crate) fn stored_manifests(&self, repository: &str) -> Vec<String> {
        let revisions =
            format!("data/docker/registry/v2/repositories/{repository}/_manifests/revisions/sha256");
        let entries = fs::read_dir(self.dir.join(revisions)).unwrap();
        entries.map(|entry| format!("sha256:{}", entry.unwrap().file_name().to_str().unwrap())).collect()
    }

    /// Stops it; nobody answers at its address then.
    pub(crate) async fn end(&self) {
        if self.process.ended().await.is_none() {
            self.process.signal(Signal::KILL);
        }
        let _ = self.process.wait(Duration::from_secs(10)).await;
    }
}

/// A moment in a registry's log.
#[derive(Debug)]
pub(crate) struct Mark(String);

/// Reads a line of Apache's combined log: `127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`.
fn access(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once(" HTTP/1.1\" ")?;
    let status = rest.split(' ').next()?;
    Some(format!("{request} {status}"))
}

/// The ways in which a broken registry is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    /// It answers 503 to everything.
    Unavailable,
    /// It answers as a registry to the first question, and to no other.
    Greeting,
}

/// A broken registry. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct BrokenRegistry {
    host: String,
    task: tokio::task::JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

impl BrokenRegistry {
    pub(crate) async fn start(how: Broken) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(async move {
                    use tokio::io::AsyncWriteExt as _;
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        let greets = buffer[..length].starts_with(b"GET /v2/ ");
                        // The first byte of TLS.
                        if matches!(how, Broken::Greeting) && buffer.first() == Some(&0x16) {
                            return;
                        }
                        if matches!(how, Broken::Greeting) && greets {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                        }
                        if matches!(how, Broken::Unavailable) {
                            let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { host, task, connections }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for BrokenRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}
