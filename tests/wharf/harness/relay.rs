//! An engine that can be cut off or paused: a socket that passes everything on to the real one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{Engine, Test, lock};

/// The relays that have ended, and the engine that each led to.
static ENDED: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());

/// Starts those relays at `paths` again that have ended with their test.
pub(super) fn restore(paths: &[PathBuf]) -> Vec<Relay> {
    let restored = paths.iter().filter_map(|path| {
        let engine = lock(&ENDED).remove(path)?;
        // The listener of the old one may be open for another moment.
        let _ = fs::remove_file(path);
        Some(Relay::start_with(path, &engine, None))
    });
    restored.collect()
}

/// The relay. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Relay {
    tasks: JoinSet<()>,
    path: PathBuf,
    engine: PathBuf,
    paused: Arc<watch::Sender<bool>>,
    passed: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    asked: Arc<Asked>,
}

/// The requests to the engine.
#[derive(Debug)]
struct Asked {
    /// A text of requests that the engine does not know by another.
    lost: Mutex<Option<Replaced>>,
    /// The texts of a request that is held, and how many such requests pass before.
    held: Mutex<Option<(Vec<&'static str>, usize)>>,
    /// Whether a request is held.
    holds: AtomicBool,
    go: Notify,
    /// Connections to BuildKit: those that are open, and those that ever were.
    builders: [AtomicUsize; 2],
}

impl Relay {
    /// Starts a relay to the test's engine.
    pub(crate) fn start(test: &Test) -> Self {
        Self::to(&test.dir().join("engine.sock"), &test.engine)
    }

    /// Starts a relay at `path` to an engine.
    pub(crate) fn to(path: &Path, engine: &Engine) -> Self {
        Self::start_with(path, engine.socket(), None)
    }

    /// Starts a relay to the test's engine that claims an API before 1.53, in which an engine with
    /// containerd's store cannot tell where its images come from.
    pub(crate) async fn start_with_an_older_api(test: &Test) -> Self {
        let version = test.engine.get("/version").send().await.ok().json();
        let said = |version: &str| format!("\"ApiVersion\":\"{version}\"").into_bytes();
        let api = version["ApiVersion"].as_str().unwrap();
        let newer = api.len() == 4 && api > "1.52";
        let replaced = newer.then(|| Replaced::times(usize::MAX, &said(api), &said("1.52")));
        Self::start_with(&test.dir().join("engine.sock"), test.engine.socket(), replaced)
    }

    /// Replaces a text in the engine's answers.
    fn start_with(path: &Path, engine: &Path, answered: Option<Replaced>) -> Self {
        let asked = Arc::new(Asked {
            lost: Mutex::default(),
            held: Mutex::default(),
            holds: AtomicBool::new(false),
            go: Notify::new(),
            builders: Default::default(),
        });
        let answered = Arc::new(answered);
        let path = path.to_owned();
        let listener = UnixListener::bind(&path).unwrap();
        let engine = engine.to_owned();
        lock(&ENDED).remove(&path);
        let to = engine.clone();
        let paused = Arc::new(watch::Sender::new(false));
        let (passed, accepted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let number = Arc::clone(&accepted);
        let (state, count, requests) = (Arc::clone(&paused), Arc::clone(&passed), Arc::clone(&asked));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                number.fetch_add(1, Ordering::Relaxed);
                let (engine, state, count) = (engine.clone(), Arc::clone(&state), Arc::clone(&count));
                let (asked, answered) = (Arc::clone(&requests), Arc::clone(&answered));
                relays.spawn(async move {
                    let engine = UnixStream::connect(engine).await.unwrap();
                    let (client, engine) = (client.into_split(), engine.into_split());
                    let (questions, answers) =
                        (Way::Asked(&asked), Way::Answered(answered.as_ref().as_ref()));
                    tokio::join!(
                        pass_on(client.0, engine.1, state.subscribe(), &count, questions),
                        pass_on(engine.0, client.1, state.subscribe(), &count, answers),
                    );
                });
            }
        });
        Self { tasks, path, engine: to, paused, passed, accepted, asked }
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// The number of bytes passed on, in both directions.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The engine answers so many listings of images with 404 from now on, as one with the containerd store does
    /// if an image goes while it lists them.
    pub(crate) fn lose_listings(&self, times: usize) {
        *lock(&self.asked.lost) = Some(Replaced::times(times, b"/images/json", b"/images/none"));
    }

    /// The engine answers a request to name an image with 404, after `others` that it hears.
    pub(crate) fn lose_tag(&self, others: usize) {
        let lost = Replaced { others: AtomicUsize::new(others), ..Replaced::times(1, b"/tag?", b"/gat?") };
        *lock(&self.asked.lost) = Some(lost);
    }

    /// Holds the next request that has all of these texts, after `others` that pass. A request that was held
    /// before never passes.
    pub(crate) fn hold(&self, texts: &[&'static str], others: usize) {
        *lock(&self.asked.held) = Some((texts.to_vec(), others));
        self.asked.holds.store(false, Ordering::Relaxed);
    }

    /// Whether a request is held.
    pub(crate) fn holds(&self) -> bool {
        self.asked.holds.load(Ordering::Relaxed)
    }

    /// Passes on the request that is held, and holds none from now on.
    pub(crate) fn let_go(&self) {
        *lock(&self.asked.held) = None;
        self.asked.holds.store(false, Ordering::Relaxed);
        self.asked.go.notify_waiters();
    }

    /// The number of connections to BuildKit: of those that are open, and of those that ever were.
    pub(crate) fn builders(&self) -> (usize, usize) {
        let [open, ever] = &self.asked.builders;
        (open.load(Ordering::Relaxed), ever.load(Ordering::Relaxed))
    }

    /// Stops passing anything on.
    pub(crate) fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Passes on again.
    pub(crate) fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Cuts all connections; nobody listens any more.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        fs::remove_file(&self.path).unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        lock(&ENDED).insert(self.path.clone(), self.engine.clone());
    }
}

/// One way of a connection.
#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    Asked(&'a Asked),
    Answered(Option<&'a Replaced>),
}

/// A connection to BuildKit, counted until it ends.
#[derive(Debug)]
struct Builder<'a>(&'a Asked);

impl<'a> Builder<'a> {
    /// By the first bytes on the connection.
    fn of(asked: &'a Asked, first: &[u8]) -> Option<Self> {
        let begins = ["PRI * HTTP/2.0", "POST /grpc "];
        begins.iter().any(|begin| first.starts_with(begin.as_bytes())).then(|| {
            for count in &asked.builders {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Self(asked)
        })
    }
}

impl Drop for Builder<'_> {
    fn drop(&mut self) {
        self.0.builders[0].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Asked {
    /// Looks at a request, and returns once it may pass.
    async fn pass(&self, bytes: &mut [u8]) {
        if let Some(lost) = &*lock(&self.lost) {
            lost.replace(bytes);
        }
        let is_held = {
            let mut held = lock(&self.held);
            match &mut *held {
                Some((texts, others)) if texts.iter().all(|text| contains(bytes, text.as_bytes())) => {
                    let is_held = *others == 0;
                    *others = others.wrapping_sub(1);
                    is_held
                }
                Some(_) | None => false,
            }
        };
        if is_held {
            let mut go = std::pin::pin!(self.go.notified());
            go.as_mut().enable();
            self.holds.store(true, Ordering::Relaxed);
            go.await;
        }
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// A text that is replaced by another of the same length, so many times, after others that stay.
#[derive(Debug)]
struct Replaced {
    text: Vec<u8>,
    by: Vec<u8>,
    others: AtomicUsize,
    left: AtomicUsize,
}

impl Replaced {
    fn times(times: usize, text: &[u8], by: &[u8]) -> Self {
        let (text, by) = (text.to_vec(), by.to_vec());
        Self { text, by, others: AtomicUsize::new(0), left: AtomicUsize::new(times) }
    }

    fn replace(&self, bytes: &mut [u8]) {
        let Some(at) = bytes.windows(self.text.len()).position(|window| window == self.text) else { return };
        let takes = |count: &AtomicUsize| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        };
        if !takes(&self.others) && takes(&self.left) {
            bytes[at..at + self.by.len()].copy_from_slice(&self.by);
        }
    }
}

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut paused: watch::Receiver<bool>,
    passed: &AtomicUsize,
    way: Way<'_>,
) {
    let mut buffer = vec![0; 32 << 10];
    let mut builder = None;
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        match way {
            Way::Asked(asked) => {
                builder = builder.or_else(|| Builder::of(asked, &buffer[..read]));
                asked.pass(&mut buffer[..read]).await;
            }
            Way::Answered(Some(replaced)) => replaced.replace(&mut buffer[..read]),
            Way::Answered(None) => {}
        }
        if paused.wait_for(|paused| !paused).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        passed.fetch_add(read, Ordering::Relaxed);
    }
    let _ = to.shutdown().await;
}
