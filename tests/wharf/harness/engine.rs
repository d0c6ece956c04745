//! The engine under test, through its bare socket, which no job ever has.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{net::UnixStream, process::Command};
use wharf::naming::{self, Room};

use super::{
    PATIENCE,
    http::{Answer, Call, Server},
    lock,
    process::{Output, command},
    run::Kind,
    wait_for, within,
};

/// The label of images that builds on the bare socket make: those may be left without a name.
const BARE: &str = "wharf-test.bare";

/// A running engine.
#[derive(Debug)]
pub(crate) struct Engine {
    kind: Kind,
    socket: PathBuf,
    server: Server,
    /// Nameless images that were there before the tests, or that a test has already failed for.
    known: Mutex<BTreeSet<String>>,
}

impl Engine {
    /// The engine of this process, from the variables of `scripts/env paths`.
    pub(crate) fn of_environment(kind: Kind) -> Self {
        Self::at(kind, tool(&format!("WHARF_ENGINE_{}", kind.name)))
    }

    /// The engine at a socket.
    pub(crate) fn at(kind: Kind, socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        Self { kind, server: Server::Unix(socket.clone()), socket, known: Mutex::default() }
    }

    /// `26` or `29`.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it keeps images in containerd's store.
    pub(crate) fn is_containerd(&self) -> bool {
        self.kind.store == "containerd"
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The network namespace that `scripts/env` made for it, for `setns`.
    pub(crate) fn network(&self) -> PathBuf {
        let pid = fs::read_to_string(self.socket.with_file_name("pid")).unwrap();
        PathBuf::from(format!("/proc/{}/ns/net", pid.split_whitespace().next().unwrap()))
    }

    /// The first process of a throw-away engine.
    pub(crate) fn pid(&self) -> i32 {
        let pid = fs::read_to_string(self.socket.with_file_name("pid")).unwrap();
        pid.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Ends it without notice, as a panic does.
    pub(crate) async fn crash(&self) {
        let pid = self.pid();
        // It is the first process of its pid namespace, and all others end with it. While it is still there, it does not
        // start again.
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let is_there = || PathBuf::from(format!("/proc/{pid}")).exists();
        let is_gone = async || UnixStream::connect(&self.socket).await.is_err() && !is_there();
        wait_for("the engine to end", async || is_gone().await.then_some(())).await;
    }

    /// The address of its socket.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        self.server.call(method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.server.get(path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.server.post(path)
    }

    /// Every name of every image.
    pub(crate) async fn names(&self) -> BTreeSet<String> {
        let images = listed(&self.server).await;
        let names = images.as_array().unwrap().iter().flat_map(|image| {
            let of = |key: &str| image[key].as_array().cloned().unwrap_or_default();
            of("RepoTags").into_iter().chain(of("RepoDigests"))
        });
        names
            .filter_map(|name| name.as_str().map(str::to_owned))
            .filter(|name| !name.contains("<none>"))
            .collect()
    }

    /// The ids of images that have no name: those of builds on the bare socket, or all others.
    async fn nameless(&self, are_bare: bool) -> BTreeSet<String> {
        let images = self.get("/images/json?filters=%7B%22dangling%22%3A%7B%22true%22%3Atrue%7D%7D");
        let images = images.send().await.ok().json();
        let images = images.as_array().into_iter().flatten();
        let ids = images.filter(|image| image["Labels"].get(BARE).is_some() == are_bare);
        ids.filter_map(|image| image["Id"].as_str().map(str::to_owned)).collect()
    }

    /// Takes the nameless images of now as the operator's.
    pub(crate) async fn keep_nameless(&self) {
        let nameless = self.nameless(false).await;
        lock(&self.known).extend(nameless);
    }

    /// The nameless images that stay although no build on the bare socket has made them. Other tests' images have no
    /// name for a moment, too.
    pub(crate) async fn nameless_left(&self) -> Vec<String> {
        let mut left = self.nameless(false).await;
        let gone = async || {
            let now = self.nameless(false).await;
            let known = lock(&self.known);
            left.retain(|id| now.contains(id) && !known.contains(id));
            left.is_empty().then_some(())
        };
        within(PATIENCE, gone).await;
        lock(&self.known).extend(left.iter().cloned());
        left.into_iter().collect()
    }

    /// What wharfds have left on a throw-away engine, where nothing runs any more. An engine that the test has ended has
    /// nothing.
    pub(super) async fn left_of_wharfds(&self) -> Vec<String> {
        if UnixStream::connect(&self.socket).await.is_err() {
            return Vec::new();
        }
        let is_left = |name: &String| match naming::room(name) {
            Some((_, room)) => room != Room::Frontend,
            None => naming::relay_instance(name).is_some(),
        };
        let names = self.names().await.into_iter().filter(is_left).map(|name| format!("{name} is left"));
        let nameless = self.nameless_left().await.into_iter().map(|id| format!("{id} has no name"));
        names.chain(nameless).collect()
    }

    /// Removes the nameless images of builds on the bare socket.
    pub(crate) async fn forget_bare(&self) {
        for id in self.nameless(true).await {
            // A parent of another image stays until that image is removed.
            self.call(Method::DELETE, &format!("/images/{id}")).send().await;
        }
    }

    /// The names that begin with `prefix`.
    pub(crate) async fn names_with_prefix(&self, prefix: &str) -> Vec<String> {
        self.names().await.into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    /// The output of `docker inspect` for an image.
    pub(crate) async fn inspect(&self, name: &str) -> Option<Value> {
        let answer = self.get(&format!("/images/{name}/json")).send().await;
        (answer.status != 404).then(|| answer.ok().json())
    }

    /// The id of an existing image.
    pub(crate) async fn id(&self, name: &str) -> String {
        let image = self.inspect(name).await.unwrap_or_else(|| panic!("the engine has no image {name}"));
        image["Id"].as_str().unwrap().to_owned()
    }

    /// Removes a name, and the image with its last name; a missing name is no error.
    pub(crate) async fn remove_image(&self, name: &str) {
        let answer = self.call(Method::DELETE, &format!("/images/{name}?force=1")).send().await;
        assert!(answer.status.is_success() || answer.status == 404, "{answer}");
    }

    /// `docker pull` through the API.
    pub(crate) async fn pull(&self, name: &str, login: Option<&(String, String)>) -> Answer {
        let mut call = self.post(&format!("/images/create?fromImage={name}"));
        if let Some((user, password)) = login {
            call = call.header("x-registry-auth", registry_auth(user, password));
        }
        call.send().await
    }

    /// Makes an image from a tar, under one of the operator's names.
    pub(crate) async fn import(&self, repository: &str, tag: &str, tar: impl Into<Bytes>) -> String {
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        let answer = self.post(&path).body("application/x-tar", tar).send().await.ok();
        assert!(!answer.text().contains("\"error\""), "{answer}");
        self.id(&format!("{repository}:{tag}")).await
    }

    /// A file of an image.
    pub(crate) async fn file(&self, image: &str, path: &str) -> Option<Vec<u8>> {
        self.entry(image, path).await.map(|(_, content)| content)
    }

    /// Makes a container of an image, which does not run; returns its id.
    pub(crate) async fn create_container(&self, image: &str) -> String {
        let body = json!({"Image": image, "Cmd": ["nothing"], "Labels": {"wharf-test": "read"}});
        let created = self.post("/containers/create").json(&body).send().await.ok().json();
        created["Id"].as_str().unwrap().to_owned()
    }

    /// Removes a container.
    pub(crate) async fn remove_container(&self, id: &str) {
        self.call(Method::DELETE, &format!("/containers/{id}?force=1&v=1")).send().await.ok();
    }

    /// The mode of a file or a directory of an image, and the content of a file.
    pub(crate) async fn entry(&self, image: &str, path: &str) -> Option<(u32, Vec<u8>)> {
        let id = self.create_container(image).await;
        let answer = self.get(&format!("/containers/{id}/archive?path={path}")).send().await;
        self.remove_container(&id).await;
        if answer.status == 404 {
            return None;
        }
        let body = answer.ok().body;
        let mut archive = tar::Archive::new(&*body);
        let mut content = Vec::new();
        let mut entry = archive.entries().unwrap().next()?.unwrap();
        entry.read_to_end(&mut content).unwrap();
        Some((entry.header().mode().unwrap(), content))
    }

    /// A file of an image, as text.
    pub(crate) async fn text(&self, image: &str, path: &str) -> String {
        let content = self.file(image, path).await.unwrap_or_else(|| panic!("{image} has no {path}"));
        String::from_utf8(content).unwrap()
    }

    /// `buildx build` on the bare socket, as it runs without Wharf, with plain progress.
    pub(crate) fn buildx(&self, home: &Path) -> Command {
        let mut command = command(tool("WHARF_BUILDX"));
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("DOCKER_HOST", self.address())
            .env("BUILDX_CONFIG", home.join("buildx"))
            .env("DOCKER_CONFIG", home.join("docker"))
            .args(["build", "--progress=plain", "--label", BARE]);
        command
    }

    /// The same for a directory, to its end.
    pub(crate) async fn buildx_build(&self, home: &Path, context: &Path, flags: &[&str]) -> Output {
        let mut command = self.buildx(home);
        command.args(flags).arg(context);
        Output::of(command, b"", Duration::from_secs(120)).await
    }

    /// Large build caches: contexts of 16 MiB and more.
    pub(crate) async fn large_caches(&self) -> BTreeSet<String> {
        let usage = self.get("/system/df?type=build-cache").send().await.ok().json();
        let caches = usage["BuildCache"].as_array().cloned().unwrap_or_default();
        caches
            .iter()
            .filter(|cache| cache["Size"].as_u64().unwrap_or(0) >= 16 << 20)
            .filter(|cache| cache["Type"] == "source.local" || cache["Type"] == "regular")
            .filter(|cache| cache["InUse"] != true)
            .filter_map(|cache| cache["ID"].as_str().map(str::to_owned))
            .collect()
    }

    /// Removes large caches that are not in `before`: the tests' contexts would fill the disk.
    pub(crate) async fn forget_large_caches(&self, before: &BTreeSet<String>) {
        for id in self.large_caches().await.difference(before) {
            let filters = json!({"id": {id: true}}).to_string();
            let filters: String = filters.bytes().map(|byte| format!("%{byte:02x}")).collect();
            self.post(&format!("/build/prune?all=1&filters={filters}")).send().await.ok();
        }
    }

    /// Processes anywhere below the engine's init that have `text` as a word of their command line.
    pub(crate) fn processes_with(text: &str) -> Vec<u32> {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<_> = command.split(|byte| *byte == 0).collect();
            // In a shell that runs the command, it is a part of a longer word.
            words.contains(&text.as_bytes()).then_some(pid)
        });
        processes.collect()
    }
}

/// `scripts/env`, which starts and stops engines.
pub(super) fn env_script(arguments: &[&str]) -> Command {
    let mut script = command(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/env"));
    script.args(arguments);
    script
}

/// The value of X-Registry-Auth.
pub(crate) fn registry_auth(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let auth = json!({"username": user, "password": password});
    base64::engine::general_purpose::URL_SAFE.encode(auth.to_string())
}

/// A program from `scripts/env paths`.
pub(crate) fn tool(name: &str) -> String {
    env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: tests are started by `cargo test --test wharf`"))
}

/// All images, as `GET /images/json` lists them. The containerd store cannot list an image that another
/// test removes meanwhile.
pub(super) async fn listed(server: &Server) -> Value {
    let answer = wait_for("the images to be listed", async || {
        let answer = server.get("/images/json?all=1").send().await;
        (answer.status != StatusCode::NOT_FOUND).then_some(answer)
    });
    answer.await.ok().json()
}
