//! A test's own wharfd, with its own state and socket.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tokio::net::UnixStream;
use wharf::{
    names::RESERVED_HOST,
    naming::{self, Keys, Room},
};

use super::{
    Engine, PATIENCE, lock,
    process::{Background, command, shell_status},
};

/// How many lines of its log a failure shows.
const LOG_LINES: usize = 60;
/// wharfd ends within its grace period and a little more.
const END: Duration = Duration::from_secs(60);

/// A daemon; it can be ended, killed and started again.
#[derive(Debug)]
pub(crate) struct Wharfd {
    dir: PathBuf,
    /// `None` if the configuration names engines.
    engine: Option<String>,
    engine_socket: PathBuf,
    flags: Vec<String>,
    /// Its network namespace, if it is not that of the tests.
    network: Option<PathBuf>,
    process: Mutex<Option<Arc<Background>>>,
    earlier: Mutex<Vec<String>>,
    namespaces: Arc<Mutex<BTreeSet<String>>>,
    killed: AtomicBool,
    /// Whether an engine is down at the test's end.
    abandoned: AtomicBool,
}

impl Wharfd {
    pub(super) fn new(dir: &Path, engine: &Engine, config: Option<&str>, flags: &[&str]) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let named = config.is_some_and(|config| config.contains("[engines")) || flags.contains(&"--engine");
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        if let Some(config) = config {
            let file = dir.join("wharfd.toml");
            // Faster, and enough for most tests. The program lies beside no wharfd of the tests.
            let builtin = if config.contains("frontend") { "" } else { "frontend = \"builtin\"\n" };
            fs::write(&file, format!("{builtin}{config}")).unwrap();
            flags.extend(["--config".to_owned(), file.display().to_string()]);
        }
        Self {
            dir: dir.to_owned(),
            engine: (!named).then(|| engine.address()),
            engine_socket: engine.socket().to_owned(),
            flags,
            network: None,
            process: Mutex::default(),
            earlier: Mutex::default(),
            namespaces: Arc::default(),
            killed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Runs it in the network of a throw-away engine, so that the engine reaches its relay.
    pub(super) fn in_network_of(self, engine: &Engine) -> Self {
        Self { network: Some(engine.network()), ..self }
    }

    /// The path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("wharf.sock")
    }

    /// Its address for `--addr`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The namespaces that jobs of the test act in.
    pub(super) fn namespaces(&self) -> Arc<Mutex<BTreeSet<String>>> {
        Arc::clone(&self.namespaces)
    }

    /// Writes another configuration file, which it reads when it next starts or reloads; it serves root as the first one does.
    pub(crate) fn configure(&self, config: &str) {
        let serve = "[[serve]]\nuid = 0\nnamespaces = \"*\"\n";
        let builtin = if config.contains("frontend") { "" } else { "frontend = \"builtin\"\n" };
        fs::write(self.dir.join("wharfd.toml"), format!("{builtin}{config}{serve}")).unwrap();
    }

    /// Its state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The prefix of its images' names in the engine.
    pub(crate) fn prefix(&self) -> String {
        format!("{RESERVED_HOST}/{}/", self.keys().instance())
    }

    /// The node's keyed hashes.
    pub(crate) fn keys(&self) -> Keys {
        Keys::load(&self.state_dir()).unwrap()
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&self) {
        let process = self.spawn();
        let socket = self.socket();
        process.while_running("wharfd to listen", async || UnixStream::connect(&socket).await.ok()).await;
    }

    /// Starts it and does not wait for it to answer.
    pub(crate) fn spawn(&self) -> Arc<Background> {
        let program = env!("CARGO_BIN_EXE_wharfd");
        let mut serve = match &self.network {
            None => command(program),
            Some(network) => {
                let mut serve = command("nsenter");
                serve.arg(format!("--net={}", network.display())).arg("--").arg(program);
                serve
            }
        };
        serve
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .arg("--listen")
            .arg(self.address())
            .args(["--listen-mode", "0666"])
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(&self.flags);
        if let Some(engine) = &self.engine {
            serve.arg("--engine").arg(engine);
        }
        let process = Arc::new(Background::start(serve));
        if let Some(earlier) = lock(&self.process).replace(Arc::clone(&process)) {
            lock(&self.earlier).extend(earlier.lines());
        }
        process
    }

    /// Its process.
    pub(crate) fn process(&self) -> Arc<Background> {
        lock(&self.process).clone().expect("wharfd was started")
    }

    /// The lines of its log.
    pub(crate) fn log(&self) -> Vec<String> {
        let mut lines = lock(&self.earlier).clone();
        lines.extend(lock(&self.process).iter().flat_map(|process| process.lines()));
        lines
    }

    /// Sends SIGKILL and waits for its end.
    pub(crate) async fn kill(&self) {
        let process = self.process();
        self.killed.store(true, Ordering::Relaxed);
        process.signal(Signal::KILL);
        process.wait(PATIENCE).await.unwrap();
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) async fn terminate(&self) -> i32 {
        let process = self.process();
        process.signal(Signal::TERM);
        shell_status(process.wait(END).await.unwrap())
    }

    /// The namespaces that the test's jobs have acted in.
    pub(super) fn named(&self) -> BTreeSet<String> {
        let mut namespaces = lock(&self.namespaces).clone();
        // Those of the direct clients, too; most of them are one of this job. Not every build is a line of the log.
        namespaces.insert("job#1".to_owned());
        namespaces.extend(self.claimed());
        for line in self.log() {
            let named = line.split("namespace=\"").skip(1).filter_map(|rest| rest.split('"').next());
            namespaces.extend(named.map(str::to_owned));
        }
        namespaces
    }

    /// wharfd's own names in the engine, but the frontend's.
    pub(crate) async fn own_names(&self) -> Vec<String> {
        let engine = super::http::Server::Unix(self.engine_socket.clone());
        let keys = self.keys();
        let mut names = names_below(&engine, "").await;
        names.retain(|name| match naming::room(name) {
            Some((instance, room)) => instance == keys.instance() && !matches!(room, Room::Frontend),
            None => naming::relay_instance(name) == Some(keys.instance()),
        });
        names
    }

    /// Says that the test leaves an engine down, so that nothing of wharfd's can be removed there.
    pub(crate) fn leaves_an_engine_down(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Whether it was ever killed.
    pub(super) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// The sockets of the engines that it was given by name.
    pub(super) fn engines(&self) -> Vec<PathBuf> {
        let config = fs::read_to_string(self.dir.join("wharfd.toml")).unwrap_or_default();
        let text = format!("{} {config}", self.flags.join(" "));
        let sockets = text.split("unix://").skip(1).filter_map(|rest| rest.split(['"', ' ', '\n']).next());
        sockets.map(PathBuf::from).collect()
    }

    /// Ends it after its namespaces; returns everything that went wrong, and all that is left of them.
    pub(super) async fn end(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let Some(process) = lock(&self.process).clone() else { return wrong };
        // Without a key it has never come as far as to an engine.
        let has_key = Keys::load(&self.state_dir()).is_ok();
        if has_key && !self.abandoned.load(Ordering::Relaxed) {
            wrong.extend(self.leave(&process).await);
        }
        let process = self.process();
        if process.ended().await.is_none() {
            process.signal(Signal::TERM);
            match process.wait(END).await {
                Ok(status) if shell_status(status) == 0 => {}
                Ok(status) => wrong.push(format!("wharfd ended with {}", shell_status(status))),
                Err(error) => {
                    wrong.push(format!("wharfd: {error}"));
                    process.signal(Signal::KILL);
                    let _ = process.wait(PATIENCE).await;
                }
            }
        }
        if has_key {
            // The next tests do not suffer from what is left.
            let engine = super::http::Server::Unix(self.engine_socket.clone());
            remove_all(&engine, &self.prefix()).await;
        }
        wrong
    }

    /// The warnings and errors in its log, followed by the end of the log.
    pub(super) fn log_tail(&self) -> String {
        let log = self.log();
        let (head, tail) = log.split_at(log.len().saturating_sub(LOG_LINES));
        let complains =
            |line: &&String| [" WARN ", " ERROR ", "reason="].iter().any(|word| line.contains(word));
        let complaints: Vec<&str> = head.iter().filter(complains).map(String::as_str).collect();
        format!(
            "-- wharfd, {} lines; what it complained about, and the last of them:\n{}\n…\n{}\n",
            log.len(),
            complaints.join("\n"),
            tail.join("\n")
        )
    }
}

async fn remove_all(engine: &super::http::Server, prefix: &str) {
    for name in names_below(engine, prefix).await {
        engine.call(http::Method::DELETE, &format!("/images/{name}?force=1")).send().await;
    }
}

/// The names in the engine that begin with `prefix`.
async fn names_below(engine: &super::http::Server, prefix: &str) -> Vec<String> {
    let images = super::engine::listed(engine).await;
    let tags =
        images.as_array().into_iter().flatten().flat_map(|image| image["RepoTags"].as_array().cloned());
    let names = tags.flatten().filter_map(|tag| tag.as_str().map(str::to_owned));
    names.filter(|name| name.starts_with(prefix)).collect()
}
