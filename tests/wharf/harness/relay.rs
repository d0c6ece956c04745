//! An engine that can be taken away, or stands still: a socket that passes on to the real one.

use std::{fs, path::PathBuf, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

use super::Test;

/// The relay; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    tasks: JoinSet<()>,
    path: PathBuf,
    paused: Arc<watch::Sender<bool>>,
}

impl Relay {
    /// Starts one to the test's engine.
    pub(crate) fn start(test: &Test) -> Self {
        let path = test.dir().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let engine = test.engine.socket().to_owned();
        let paused = Arc::new(watch::Sender::new(false));
        let state = Arc::clone(&paused);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (engine, state) = (engine.clone(), Arc::clone(&state));
                relays.spawn(async move {
                    let engine = UnixStream::connect(engine).await.unwrap();
                    let (client, engine) = (client.into_split(), engine.into_split());
                    tokio::join!(
                        pass_on(client.0, engine.1, state.subscribe()),
                        pass_on(engine.0, client.1, state.subscribe()),
                    );
                });
            }
        });
        Self { tasks, path, paused }
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Passes nothing on.
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

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut paused: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if paused.wait_for(|paused| !paused).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
