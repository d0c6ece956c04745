//! The test harness: engines, registries, daemons, the command line, and the clean-up.

pub(crate) mod authority;
pub(crate) mod cli;
pub(crate) mod engine;
pub(crate) mod files;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod issuer;
mod left;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod relay;
pub(crate) mod rpc;
pub(crate) mod run;
pub(crate) mod script;
pub(crate) mod sender;
pub(crate) mod session;
mod signer;
pub(crate) mod traces;
pub(crate) mod tree;
pub(crate) mod wharfd;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use cli::Wharf;
pub(crate) use engine::Engine;
pub(crate) use image::Image;
pub(crate) use issuer::Issuer;
use process::Output;
pub(crate) use registry::Registry;
use run::Kind;
pub(crate) use wharfd::Wharfd;

/// How long an engine may take to start.
const ENGINE_PATIENCE: Duration = Duration::from_secs(120);
/// How long a test waits for a state.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A test, before it has an engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// `subject::what_must_hold`.
    pub(crate) name: &'static str,
    pub(crate) run: fn(Arc<Test>) -> Running,
}

/// A running test.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()>>>;

/// The table of a file's tests.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// This file's tests.
        pub(crate) const CASES: &[$crate::harness::Case] = &[$($crate::harness::Case {
            name: $crate::harness::short(concat!(module_path!(), "::", stringify!($name))),
            run: |test| Box::pin($name(test)),
        }),*];
    };
}
pub(crate) use cases;

/// A test's name without the crate's.
pub(crate) const fn short(path: &'static str) -> &'static str {
    let (_, short) = path.split_at("wharf::".len());
    short
}

/// One test on one engine. Everything that it starts ends with it.
#[derive(Debug)]
pub(crate) struct Test {
    /// The engine that it runs on.
    pub(crate) engine: Arc<Engine>,
    dir: PathBuf,
    number: usize,
    registries: Mutex<Vec<Arc<Registry>>>,
    daemons: Mutex<Vec<Arc<Wharfd>>>,
    /// Throw-away engines, by name; `None` for one that is stopped.
    engines: Mutex<BTreeMap<String, Option<Arc<Engine>>>>,
}

impl Test {
    fn new(engine: Arc<Engine>) -> Arc<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("wharf-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // Other uids must reach the socket in it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Arc::new(Self {
            engine,
            dir,
            number,
            registries: Mutex::default(),
            daemons: Mutex::default(),
            engines: Mutex::default(),
        })
    }

    /// The test's own directory; it is removed with the test.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Text that is unique among all tests and runs.
    pub(crate) fn unique(&self, what: &str) -> String {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        format!("{what}-{}-{}-{}", since.as_nanos(), std::process::id(), self.number)
    }

    /// Writes a build context: files and their contents. Returns its directory.
    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let context = self.dir.join(name);
        fs::create_dir_all(&context).unwrap();
        for (path, content) in files {
            let path = context.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        context
    }

    /// A registry that everyone may use.
    pub(crate) async fn registry(&self) -> Arc<Registry> {
        self.keep(Registry::start(&self.new_dir("registry"), None).await)
    }

    /// Pushes a base image that no other test has to a registry; returns its reference.
    pub(crate) async fn base(&self, registry: &Registry) -> String {
        Image::base(&self.unique("base")).push(registry, "base", "1").await;
        registry.name("base:1")
    }

    /// A registry that needs a name and a password.
    pub(crate) async fn private_registry(&self, user: &str, password: &str) -> Arc<Registry> {
        self.keep(Registry::start(&self.new_dir("registry"), Some((user, password))).await)
    }

    /// A registry on the loopback of the engine `name`, with the content of `registry`.
    pub(crate) async fn registry_beside(&self, registry: &Registry, name: &str) -> Arc<Registry> {
        self.keep(Registry::start_in(registry.dir(), name).await)
    }

    fn keep(&self, registry: Registry) -> Arc<Registry> {
        let registry = Arc::new(registry);
        lock(&self.registries).push(Arc::clone(&registry));
        registry
    }

    /// A wharfd for this test alone, on the test's engine.
    pub(crate) async fn wharfd(&self) -> Arc<Wharfd> {
        self.wharfd_with(None, &[]).await
    }

    /// A wharfd with a configuration file and further flags. Unless the file says otherwise, root may act
    /// in every namespace, since most tests run their jobs as root.
    pub(crate) async fn wharfd_with(&self, config: Option<&str>, flags: &[&str]) -> Arc<Wharfd> {
        let daemon = self.wharfd_unstarted(config, flags);
        daemon.start().await;
        daemon
    }

    /// A wharfd with only this configuration, so that it serves root as by default.
    pub(crate) async fn wharfd_as_it_ships(&self, config: Option<&str>) -> Arc<Wharfd> {
        let daemon = Arc::new(Wharfd::new(&self.new_dir("wharfd"), &self.engine, config, &[]));
        lock(&self.daemons).push(Arc::clone(&daemon));
        daemon.start().await;
        daemon
    }

    /// A wharfd with a more detailed log than an operator's, for events that are visible nowhere else.
    pub(crate) async fn wharfd_in_detail(&self) -> Arc<Wharfd> {
        self.wharfd_with(None, &["--log-level", "info,wharf=debug"]).await
    }

    /// A wharfd on a throw-away engine.
    pub(crate) async fn wharfd_on(&self, engine: &Engine) -> Arc<Wharfd> {
        let daemon = self.unstarted(engine, None, &[]);
        daemon.start().await;
        daemon
    }

    /// A wharfd on a throw-away engine and in its network, so that it can pull and push.
    pub(crate) async fn wharfd_beside(&self, engine: &Engine) -> Arc<Wharfd> {
        self.wharfd_beside_with(engine, "[[serve]]\nuid = 0\nnamespaces = \"*\"\n").await
    }

    /// The same with only this configuration.
    pub(crate) async fn wharfd_beside_with(&self, engine: &Engine, config: &str) -> Arc<Wharfd> {
        let daemon = Wharfd::new(&self.new_dir("wharfd"), engine, Some(config), &[]);
        let daemon = Arc::new(daemon.in_network_of(engine));
        lock(&self.daemons).push(Arc::clone(&daemon));
        daemon.start().await;
        daemon
    }

    /// A wharfd on a throw-away engine that reads Dockerfiles in a container.
    pub(crate) async fn wharfd_with_frontend_on(&self, engine: &Engine) -> Arc<Wharfd> {
        let program = engine::tool("WHARF_FRONTEND");
        let daemon =
            self.unstarted(engine, Some("frontend = \"container\"\n"), &["--frontend-file", &program]);
        daemon.start().await;
        daemon
    }

    /// A wharfd that the test starts itself.
    pub(crate) fn wharfd_unstarted(&self, config: Option<&str>, flags: &[&str]) -> Arc<Wharfd> {
        self.unstarted(&self.engine, config, flags)
    }

    fn unstarted(&self, engine: &Engine, config: Option<&str>, flags: &[&str]) -> Arc<Wharfd> {
        let mut written = config.unwrap_or_default().to_owned();
        if !written.contains("uid = 0\n") {
            written.push_str("[[serve]]\nuid = 0\nnamespaces = \"*\"\n");
        }
        let daemon = Arc::new(Wharfd::new(&self.new_dir("wharfd"), engine, Some(&written), flags));
        lock(&self.daemons).push(Arc::clone(&daemon));
        daemon
    }

    /// A new, empty engine of the same kind, and its name.
    pub(crate) async fn throw_away_engine(&self) -> (String, Arc<Engine>) {
        self.throw_away_engine_of(self.engine.kind()).await
    }

    /// A new, empty engine of this kind, and its name.
    pub(crate) async fn throw_away_engine_of(&self, kind: Kind) -> (String, Arc<Engine>) {
        let name = format!("test-{}-{}-{}", kind.name, std::process::id(), self.number);
        let engine = self.start_engine(kind, &name).await;
        (name, engine)
    }

    /// A new, empty engine of the same kind, whose disk is small, and its name.
    pub(crate) async fn small_engine(&self, size: &str) -> (String, Arc<Engine>) {
        let kind = self.engine.kind();
        let name = format!("test-{}-{}-{}", kind.name, std::process::id(), self.number);
        lock(&self.engines).insert(name.clone(), None);
        let mut up = engine::env_script(&["up", kind.name, &name]);
        up.env("WHARF_ENGINE_SIZE", size);
        Output::of(up, b"", ENGINE_PATIENCE).await.ok();
        let engine = self.start_engine(kind, &name).await;
        (name, engine)
    }

    /// Starts a throw-away engine, even one that was stopped; it is empty, and its socket has the same path.
    pub(crate) async fn start_engine(&self, kind: Kind, name: &str) -> Arc<Engine> {
        lock(&self.engines).insert(name.to_owned(), None);
        Output::of(engine::env_script(&["up", kind.name, name]), b"", ENGINE_PATIENCE).await.ok();
        let paths = Output::of(engine::env_script(&["paths"]), b"", ENGINE_PATIENCE).await.ok().stdout;
        let variable = format!("WHARF_ENGINE_{}=", name.to_uppercase().replace('-', "_"));
        let socket = paths.lines().find_map(|line| line.strip_prefix(&variable)).unwrap();
        let engine = Arc::new(Engine::at(kind, socket));
        lock(&self.engines).insert(name.to_owned(), Some(Arc::clone(&engine)));
        engine
    }

    /// Stops a throw-away engine.
    pub(crate) async fn stop_engine(&self, name: &str) {
        lock(&self.engines).insert(name.to_owned(), None);
        Output::of(engine::env_script(&["down", name]), b"", ENGINE_PATIENCE).await.ok();
    }

    /// A new directory within the test's.
    pub(crate) fn new_dir(&self, name: &str) -> PathBuf {
        for number in 0.. {
            let dir = self.dir.join(format!("{name}{number}"));
            match fs::create_dir(&dir) {
                Ok(()) => return dir,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", dir.display()),
            }
        }
        unreachable!("a directory that is not there yet")
    }

    /// Ends everything that the test started. Returns failures to do so, and leftovers of wharfd.
    async fn clean_up(&self) -> Vec<String> {
        let mut left = Vec::new();
        let daemons = std::mem::take(&mut *lock(&self.daemons));
        for daemon in &daemons {
            left.extend(daemon.end().await);
        }
        let registries = std::mem::take(&mut *lock(&self.registries));
        for registry in &registries {
            let public = self.engine.names_with_prefix(&format!("{}/", registry.host())).await;
            if !public.is_empty() {
                left.push(format!("names left in the engine: {public:?}"));
            }
            for name in public {
                self.engine.remove_image(&name).await;
            }
            registry.end().await;
        }
        let nameless = self.engine.nameless_left().await;
        if !nameless.is_empty() {
            left.push(format!("images without a name that are left in the engine: {nameless:?}"));
        }
        let engines = std::mem::take(&mut *lock(&self.engines));
        for (name, engine) in engines {
            if let Some(engine) = engine {
                left.extend(engine.left_of_wharfds().await.into_iter().map(|left| format!("{name}: {left}")));
            }
            let down =
                Output::of(engine::env_script(&["down", "--purge", &name]), b"", ENGINE_PATIENCE).await;
            if down.status != 0 {
                left.push(down.to_string());
            }
        }
        // For `logs`.
        *lock(&self.daemons) = daemons;
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            left.push(format!("{}: {error}", self.dir.display()));
        }
        left
    }

    /// The last lines of the daemons' logs.
    fn logs(&self) -> String {
        lock(&self.daemons).iter().map(|daemon| daemon.log_tail()).collect()
    }
}

/// Locks a mutex even if a failed test has poisoned it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` returns something; fails after [`PATIENCE`].
pub(crate) async fn wait_for<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    wait_for_at_most(PATIENCE, what, condition).await
}

/// Waits until `condition` returns something; fails after `patience`.
pub(crate) async fn wait_for_at_most<T>(
    patience: Duration,
    what: &str,
    condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    within(patience, condition).await.unwrap_or_else(|| panic!("waited {patience:?} for {what}"))
}

/// Waits until `condition` returns something, for `patience` at most.
pub(crate) async fn within<T>(
    patience: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let begun = Instant::now();
    loop {
        let it = condition().await;
        if it.is_some() || begun.elapsed() >= patience {
            return it;
        }
        // The state belongs to another process, which does not notify us.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
