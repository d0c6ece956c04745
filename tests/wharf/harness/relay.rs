//! An engine that can be cut off or paused: a socket that passes everything on to the real one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

use super::{Engine, Test};

/// The relay. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Relay {
    tasks: JoinSet<()>,
    path: PathBuf,
    paused: Arc<watch::Sender<bool>>,
    passed: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    lost: Arc<Replaced>,
}

impl Relay {
    /// Starts a relay to the test's engine.
    pub(crate) fn start(test: &Test) -> Self {
        Self::to(&test.dir().join("engine.sock"), &test.engine)
    }

    /// Starts a relay at `path` to an engine.
    pub(crate) fn to(path: &Path, engine: &Engine) -> Self {
        Self::start_with(path, engine, None)
    }

    /// Starts a relay to the test's engine that claims an API before 1.53, in which an engine with
    /// containerd's store cannot tell where its images come from.
    pub(crate) async fn start_with_an_older_api(test: &Test) -> Self {
        let version = test.engine.get("/version").send().await.ok().json();
        let said = |version: &str| format!("\"ApiVersion\":\"{version}\"").into_bytes();
        let api = version["ApiVersion"].as_str().unwrap();
        let newer = api.len() == 4 && api > "1.52";
        let replaced = newer.then(|| Replaced::times(usize::MAX, &said(api), &said("1.52")));
        Self::start_with(&test.dir().join("engine.sock"), &test.engine, replaced)
    }

    /// Replaces a text in the engine's answers.
    fn start_with(path: &Path, engine: &Engine, answered: Option<Replaced>) -> Self {
        let lost = Arc::new(Replaced::times(0, b"/images/json", b"/images/none"));
        let answered = Arc::new(answered);
        let path = path.to_owned();
        let listener = UnixListener::bind(&path).unwrap();
        let engine = engine.socket().to_owned();
        let paused = Arc::new(watch::Sender::new(false));
        let (passed, accepted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let number = Arc::clone(&accepted);
        let (state, count, listings) = (Arc::clone(&paused), Arc::clone(&passed), Arc::clone(&lost));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                number.fetch_add(1, Ordering::Relaxed);
                let (engine, state, count) = (engine.clone(), Arc::clone(&state), Arc::clone(&count));
                let (lost, answered) = (Arc::clone(&listings), Arc::clone(&answered));
                relays.spawn(async move {
                    let engine = UnixStream::connect(engine).await.unwrap();
                    let (client, engine) = (client.into_split(), engine.into_split());
                    tokio::join!(
                        pass_on(client.0, engine.1, state.subscribe(), &count, Some(&lost)),
                        pass_on(engine.0, client.1, state.subscribe(), &count, answered.as_ref().as_ref()),
                    );
                });
            }
        });
        Self { tasks, path, paused, passed, accepted, lost }
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
        self.lost.left.store(times, Ordering::Relaxed);
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

/// A text that is replaced by another of the same length, so many times.
#[derive(Debug)]
struct Replaced {
    text: Vec<u8>,
    by: Vec<u8>,
    left: AtomicUsize,
}

impl Replaced {
    fn times(times: usize, text: &[u8], by: &[u8]) -> Self {
        Self { text: text.to_vec(), by: by.to_vec(), left: AtomicUsize::new(times) }
    }

    fn replace(&self, bytes: &mut [u8]) {
        let Some(at) = bytes.windows(self.text.len()).position(|window| window == self.text) else { return };
        let one_less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            bytes[at..at + self.by.len()].copy_from_slice(&self.by);
        }
    }
}

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut paused: watch::Receiver<bool>,
    passed: &AtomicUsize,
    replaced: Option<&Replaced>,
) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if let Some(replaced) = replaced {
            replaced.replace(&mut buffer[..read]);
        }
        if paused.wait_for(|paused| !paused).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        passed.fetch_add(read, Ordering::Relaxed);
    }
    let _ = to.shutdown().await;
}
