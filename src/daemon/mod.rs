//! wharfd's life: start, serve, drain, end.

mod client_dir;
mod error;
mod kubelet;
mod notify;
mod reload;
mod said;

use std::{collections::BTreeMap, env, fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::{join_all, try_join_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    audit::{Destination, Event, EventKind, Trail},
    config::{BuiltLayers, Config, Flags, FrontendPlace},
    engines::{Handle, Means},
    fault::Fault,
    front::{Front, Queues, Work},
    identity::{Identities, Served},
    images::frontend,
    janitor,
    metrics::Metrics,
    naming::Keys,
    registry::{Lookups, Relay},
    scrape,
    service::{self, Health},
    store::Store,
    tasks::{Cause, Group, Task},
    transport::{BindError, ConnectionLimits, Http2, Listener, Server, StandingOf, Tls},
};
pub use error::StartError;
use notify::{State, notify};
use reload::Reload;
use said::{say_configured, say_who_is_served};

/// How long the start waits for engines to answer.
const ENGINES_START: Duration = Duration::from_secs(30);
/// How long cancelled work may take to clean up.
const CLEANUP: Duration = Duration::from_secs(15);
/// How long to wait for connections to close; each limits itself to 2 seconds.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long to wait for a disk that is slow to take the last events of the audit log.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// How wharfd ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// As requested.
    Asked,
    /// At once, on a second signal with this number.
    Aborted(i32),
}

/// Serves as `config` says, which `flags` have given, until SIGTERM or SIGINT.
pub async fn run(config: Config, flags: Flags) -> Result<Shutdown, StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let process = Group::root();
    // From now on a hangup ends nothing.
    let hangups = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    let started = tokio::select! {
        started = start(&config, &process) => started?,
        _ = signals.next() => return Ok(Shutdown::Asked),
    };
    let grace_period = config.grace_period;
    let (served, trail) = (Arc::clone(&started.served), started.trail.clone());
    let current = config.clone();
    let reload = Reload { flags, config, current, served, trail };
    drop(process.spawn("hangups", reload.at_hangups(hangups, process.clone())));
    notify(State::Ready);
    signals.next().await;
    notify(State::Stopping);
    let trail = started.trail.clone();
    tokio::select! {
        () = started.end(grace_period) => {}
        signal = signals.next() => return Ok(Shutdown::Aborted(signal)),
    }
    process.cancel(Cause::ShuttingDown);
    // Interrupted pushes and pulls still remove their names.
    if tokio::time::timeout(CLEANUP, process.close_and_wait()).await.is_err() {
        tracing::error!(running = ?process.names(), "some tasks have not ended");
    }
    trail.record(Event::new(EventKind::Stopped));
    if tokio::time::timeout(LAST_EVENTS, trail.close()).await.is_err() {
        tracing::error!("the audit log's disk has not taken the last events");
    }
    tracing::info!("ended");
    Ok(Shutdown::Asked)
}

/// A running wharfd.
struct Started {
    served: Arc<Served>,
    front: Arc<Front>,
    health: Health,
    connections: Group,
    accepting: Task<()>,
    trail: Trail,
}

async fn start(config: &Config, process: &Group) -> Result<Started, StartError> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "wharfd starts");
    raise_open_files();
    let trail = trail(config.audit_log.clone(), process).await?;
    let event = Event::new(EventKind::Started).text("version", env!("CARGO_PKG_VERSION"));
    trail.record(event.number("pid", u64::from(std::process::id())));
    let (store, keys) = state(config.state_dir.clone(), process).await?;
    // A mistake in its files is reported before wharfd waits for the engines.
    let tls = tls(config, process).await?;
    janitor::tidy(&store, config.engines.iter().map(|(name, _)| name.clone()).collect(), process);
    let relay = Relay::bind(process).await.map_err(StartError::Relay)?;
    let metrics = Metrics::new(config.engines.iter().map(|(name, _)| name));
    let (kept, pods, counted, hashes) = (store.clone(), store.clone(), store.clone(), keys.clone());
    let (lookups, frontend) = (Lookups::new(process), frontend(config)?);
    let own_layers = own_layers(config);
    let means = Means { keys, store, relay, lookups, frontend, own_layers, metrics: metrics.clone() };
    let engines: BTreeMap<_, _> = config
        .engines
        .iter()
        .map(|(name, socket)| {
            let socket = socket.as_path().to_owned();
            let firewall = config.engines.firewall(name).map(ToOwned::to_owned);
            let engine = Handle::open(name.clone(), socket, firewall, means.clone(), process);
            janitor::look_after(engine.clone(), process);
            (name.clone(), engine)
        })
        .collect();
    // Wait for the engines, so that they are usable once the socket exists; an engine that is down or hangs
    // does not prevent the start.
    join_all(engines.values().map(|engine| engine.within(ENGINES_START))).await;
    let identities = Identities::new(config)?;
    say_configured(None, config, &[], &trail);
    say_who_is_served(&identities, &trail);
    let served = Served::new(identities);
    let (work, asked) = (Work::new(process.child("work"), hashes), Arc::clone(&served));
    let who: StandingOf = Arc::new(move |peer| asked.now().standing(peer));
    let limits = ConnectionLimits::default();
    for engine in engines.values() {
        janitor::end_unused(engine, &work, config, &trail, process);
    }
    let (calls, queues) = (limits.calls_per_caller, Queues::new(config, &metrics));
    let (asked, told) = (Arc::clone(&served), trail.clone());
    let front = Front::new(asked, engines, work, kept, queues, calls, told, metrics.clone());
    let (services, health) =
        service::services(Arc::clone(&front), config.engines.default_name(), process).await?;
    // Install the client before the socket exists: an agent that finds the socket finds the client too.
    if let Some(directory) = &config.client_dir {
        let client = client_dir::put(directory)?;
        tracing::info!(client = %client.display(), "the client for agents");
    }
    let connections = process.child("connections");
    let server = Server::new(who, limits, Http2::new(services, limits)).counted_by(metrics.connections());
    if let Some(address) = config.metrics {
        let scraped = scrape::serve(address, metrics, Arc::clone(&front), counted, tls.clone(), &connections);
        scraped.await.map_err(StartError::Metrics)?;
    }
    // The pods first: when a socket of wharfd exists, its pods are served.
    if let Some(csi) = &config.csi {
        let parts = kubelet::Parts { served: &served, front: &front, store: pods, trail: &trail, limits };
        kubelet::serve(csi, parts, &server, &connections, process).await?;
    }
    let listeners = listeners(config, tls.as_ref()).await?;
    if let Some(tls) = &tls {
        tls.follow(process);
    }
    let owner = connections.clone();
    let accepting = process.spawn("accept", server.serve(listeners, owner));
    Ok(Started { served, front, health, connections, accepting, trail })
}

/// Opens the audit log on a thread of its own: its file may lie on a file system that hangs.
async fn trail(destination: Option<Destination>, process: &Group) -> Result<Trail, StartError> {
    let Some(destination) = destination else { return Ok(Trail::off()) };
    let opening = process.spawn_blocking("audit", move || Trail::open(&destination));
    Ok(opening.await.map_err(Fault::from)??)
}

/// Binds every address, and logs each.
async fn listeners(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Vec<Listener>, BindError> {
    let mode = config.listen_mode.bits();
    let binding = config.listen.iter().map(|address| Listener::bind(address, mode, config.listen_group, tls));
    let listeners = try_join_all(binding).await?;
    for listener in &listeners {
        match listener {
            Listener::Unix(_) | Listener::Pod(_) => {
                tracing::info!(socket = %listener, mode = format_args!("{mode:04o}"), "listening");
            }
            Listener::Tcp { tls, .. } => {
                tracing::info!(address = %listener, tls = tls.is_some(), "listening");
                if tls.is_none() {
                    tracing::warn!(
                        address = %listener,
                        "listening without TLS: anyone on the network path can read and change everything, \
                         the tokens included (--dangerous-plain-tcp)"
                    );
                }
            }
        }
    }
    Ok(listeners)
}

/// Opens the store and the keys on a thread of their own: SQLite checks the whole file, which can take a
/// while when it is large, and signals must be handled meanwhile.
async fn state(directory: PathBuf, process: &Group) -> Result<(Store, Keys), StartError> {
    let opening = process.spawn_blocking("state", move || (Store::open(&directory), Keys::load(&directory)));
    let (store, keys) = opening.await.map_err(Fault::from)?;
    Ok((store?, keys?))
}

/// Reads the files of TLS on a thread of their own: they may lie on a file system that hangs.
async fn tls(config: &Config, process: &Group) -> Result<Option<Arc<Tls>>, StartError> {
    let Some(files) = config.tls.clone() else { return Ok(None) };
    let reading = process.spawn_blocking("certificates", move || Tls::new(&files));
    Ok(Some(Arc::new(reading.await.map_err(Fault::from)??)))
}

impl Started {
    /// Refuses new work, waits for running work, cancels the rest after `grace`, and closes.
    async fn end(self, grace: Duration) {
        let (running, work) = (self.front.work(), self.front.work().group());
        self.front.drain();
        self.health.draining().await;
        let builds = running.builds();
        tracing::info!(builds, ?grace, "shutting down: waiting for running work");
        self.trail.record(Event::new(EventKind::Stopping).number("builds", u64::from(builds)));
        if tokio::time::timeout(grace, work.close_and_wait()).await.is_err() {
            tracing::warn!(builds = running.builds(), "the grace period is over: cancelling running work");
            work.cancel(Cause::ShuttingDown);
            if tokio::time::timeout(CLEANUP, work.close_and_wait()).await.is_err() {
                tracing::error!(running = ?work.names(), "not everything could be cleaned up");
            }
        }
        self.connections.cancel(Cause::ShuttingDown);
        // This also removes the sockets' files.
        let _ = self.accepting.await;
        let _ = tokio::time::timeout(GOODBYE, self.connections.close_and_wait()).await;
    }
}

/// The program that reads Dockerfiles in a container; `None` if the engine reads them itself, which is then
/// logged.
fn frontend(config: &Config) -> Result<Option<PathBuf>, Fault> {
    let program =
        config.frontend_file.clone().or_else(beside_wharfd).unwrap_or_else(|| "wharf-frontend".into());
    match config.frontend() {
        FrontendPlace::Container => {
            // Fail now rather than for each engine that connects. Without the program each served job could end
            // the engine: that is for the operator to choose, not for a file that was forgotten.
            File::open(&program).map_err(|error| {
                frontend::unreadable(&program, error).hint(
                    "build it with `make package` or set --frontend-file; `frontend = \"builtin\"` does not \
                     need it, but lets a Dockerfile crash the engine",
                )
            })?;
            return Ok(Some(program));
        }
        FrontendPlace::Builtin if !config.serve.is_empty() => tracing::warn!(
            "Dockerfiles are read inside the engine, and a Dockerfile can crash it: `frontend = \"builtin\"`"
        ),
        FrontendPlace::Builtin => tracing::info!(
            "Dockerfiles are read inside the engine, since only root and wharfd's own uid are served"
        ),
    }
    Ok(None)
}

/// Whether each job's layers are its own. It is logged if they are not, but should be.
fn own_layers(config: &Config) -> bool {
    let own = config.layers == BuiltLayers::Own;
    if !own && !config.serve.is_empty() {
        tracing::warn!(
            "the engine may use a layer that one job has built for another job's images: `layers = \"own\"` keeps \
             them apart"
        );
    }
    own
}

fn beside_wharfd() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.with_file_name("wharf-frontend"))
}

/// Raises the limit on open files: every connection and every build needs descriptors, and the default of
/// 1024 is meant for programs that use select(2).
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and returns its number.
    async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        kind.as_raw_value()
    }
}
