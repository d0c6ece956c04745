//! One Docker Engine, reached over the socket that only wharfd can open.

pub mod builder;
pub mod disk;
pub(crate) mod docker;
pub mod image_store;

#[cfg(feature = "fuzzing")]
pub use docker::fuzz;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::{BollardRequest, Docker, models::SystemInfo};
use builder::Builder;
use docker::{fault, lines::Lines, presence::Presence};
use image_store::ImageStore;

use crate::{
    buildkit::connection::Connection,
    fault::{Fault, Reason},
    names::{EngineName, NormalPlatform, printable},
    tasks::Group,
};

/// Engine 26.1 is the oldest whose BuildKit enforces everything that wharfd relies on.
const API_OLDEST: (u16, u16) = (1, 45);
const ENGINE_OLDEST: &str = "26.1";
/// How long the engine may take to begin its answer. Long, since a removal waits for the disk and a pull
/// for its registry.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long connecting to an engine may take. Long, since a starting engine accepts connections before it
/// answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// A pull or push without progress for this long is stuck at its registry, as is every call that waits for
/// the same image or name. Long, since the engine reports nothing while it unpacks a large layer. An image that is saved
/// has as long, too: the classic store copies it to its disk before it sends the first byte.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// An engine as it was found; the value never changes. A restarted engine is found again, as another
/// value. It is cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    name: EngineName,
    socket: PathBuf,
    docker: Docker,
    version: String,
    api_version: (u16, u16),
    presence: Presence,
    platform: Platform,
    /// The directory in which it keeps its files.
    root: String,
    /// The name that it has given itself, which it keeps in that directory.
    id: String,
    processors: usize,
    image_store: ImageStore,
    builder: Builder,
    tasks: Group,
}

/// An operating system and a processor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Go's name for the operating system: `linux`.
    pub os: String,
    /// Go's name for the processor: `amd64`.
    pub architecture: String,
    /// `v7` of `linux/arm/v7`.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform in containerd's words.
    pub(crate) fn normal(&self) -> NormalPlatform {
        NormalPlatform::of(&self.os, &self.architecture, self.variant.as_deref().unwrap_or_default())
    }
}

impl Engine {
    /// Connects to the engine at `socket`, called `name` in the configuration, and determines its version,
    /// platform and image store. Refuses an engine that is too old. Work that must not stop half-way runs
    /// in a group below `tasks`.
    pub async fn connect(name: &EngineName, socket: &Path, tasks: &Group) -> Result<Self, Fault> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, Self::find(name, socket, tasks)).await;
        connected.unwrap_or_else(|elapsed| Err(unreachable(name, socket).caused_by(elapsed)))
    }

    async fn find(name: &EngineName, socket: &Path, tasks: &Group) -> Result<Self, Fault> {
        let unreachable = |cause| unreachable(name, socket).caused_by(fault::no_answer(cause));
        let path = socket.to_str().ok_or_else(|| {
            let text = format!("the path of the engine's socket is not UTF-8: {}", socket.display());
            Fault::new(Reason::EngineUnavailable, text)
        })?;
        let tasks = tasks.child("engine");
        // This comes first, so that all later answers are known to be the same engine's.
        let presence = Presence::find(socket, &tasks).await;
        let presence = presence.map_err(|error| self::unreachable(name, socket).caused_by(error))?;
        let docker = Docker::connect_with_unix(path, ANSWER_TIMEOUT.as_secs(), bollard::API_DEFAULT_VERSION)
            .map_err(unreachable)?
            .with_request_modifier(url_safe_login)
            .negotiate_version()
            .await
            .map_err(unreachable)?;
        let version = docker.version().await.map_err(unreachable)?;
        let shown = version.version.unwrap_or_default();
        let api_version = check_version(name, &shown, version.api_version.as_deref().unwrap_or_default())?;
        let info = docker.info().await.map_err(unreachable)?;
        let builder = Builder::find(name, &shown, socket, &tasks).await?;

        let platform = Platform {
            os: version.os.unwrap_or_else(|| "linux".to_owned()),
            variant: variant(info.architecture.as_deref().unwrap_or_default()),
            architecture: version.arch.unwrap_or_default(),
        };
        if platform.os != "linux" || platform.architecture.is_empty() {
            let text = format!("the engine `{name}` runs on {platform}: wharfd serves Linux engines");
            return Err(Fault::new(Reason::EngineLacks, text));
        }
        let kind = image_store::kind(&info, api_version);
        let lines = Lines::new(socket.to_owned(), tasks.clone());
        let engine = Self {
            inner: Arc::new(Inner {
                name: name.clone(),
                socket: socket.to_owned(),
                image_store: ImageStore::new(kind, docker.clone(), lines, platform.clone()),
                builder,
                docker,
                version: shown,
                api_version,
                presence,
                platform,
                root: info.docker_root_dir.unwrap_or_default(),
                id: info.id.unwrap_or_default(),
                processors: info.ncpu.and_then(|count| usize::try_from(count).ok()).unwrap_or(1),
                tasks,
            }),
        };
        engine.ensure_there()?;
        tracing::info!(engine = ?engine, "connected");
        Ok(engine)
    }

    /// How many processors it has.
    pub fn processors(&self) -> usize {
        self.inner.processors
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &EngineName {
        &self.inner.name
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// Its version, such as `26.1.5`.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// The newest version of the Docker API that it supports, major and minor.
    pub fn api_version(&self) -> (u16, u16) {
        self.inner.api_version
    }

    /// The platform that it builds for.
    pub fn platform(&self) -> &Platform {
        &self.inner.platform
    }

    /// The directory on the node in which it keeps its files.
    pub fn root(&self) -> &str {
        &self.inner.root
    }

    /// The name that it has given itself.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Its BuildKit's version, major and minor, if that is known.
    pub fn buildkit(&self) -> Option<(u32, u32)> {
        self.inner.builder.version()
    }

    /// Whether its BuildKit frees the memory in which it has unpacked an archive of Zstandard: 0.13 does not (Engine
    /// 26.1), 0.22 does (`DecompressStream`).
    pub fn frees_decoders(&self) -> bool {
        self.buildkit().is_some_and(|version| version >= (0, 22))
    }

    /// Where it keeps images.
    pub fn image_store(&self) -> &ImageStore {
        &self.inner.image_store
    }

    /// How it makes images.
    pub fn builder(&self) -> &Builder {
        &self.inner.builder
    }

    /// A connection to its BuildKit; `tasks` owns the connection's tasks.
    pub async fn dial(&self, tasks: &Group) -> Result<Connection, Fault> {
        let connection = self.inner.builder.connect(tasks).await?;
        self.check().await?;
        Ok(connection)
    }

    /// The group for work that must not stop half-way.
    pub(crate) fn tasks(&self) -> &Group {
        &self.inner.tasks
    }

    /// Checks that it answers and is still the engine that was found: another engine may use another image
    /// store, or be too old for wharfd.
    pub async fn check(&self) -> Result<(), Fault> {
        self.ensure_there()?;
        let inner = &self.inner;
        match inner.presence.is_same(&inner.socket, &inner.tasks).await {
            Ok(true) => self.ensure_there(),
            Ok(false) => {
                inner.presence.leave();
                Err(self.lost())
            }
            Err(error) => Err(self.silent().caused_by(error)),
        }
    }

    /// Fails once the engine has ended or another one has taken its place.
    pub fn ensure_there(&self) -> Result<(), Fault> {
        if self.inner.presence.is_gone() { Err(self.lost()) } else { Ok(()) }
    }

    /// When it crashed or was killed, if that is how it ended.
    pub(crate) fn crashed(&self) -> Option<Instant> {
        self.inner.presence.crashed()
    }

    /// Waits until the engine has ended or another one has taken its place, and returns that as a fault.
    pub async fn gone(&self) -> Fault {
        self.inner.presence.gone().await;
        self.lost()
    }

    fn lost(&self) -> Fault {
        let text = format!("the engine `{}` has been stopped or restarted", self.name());
        Fault::new(Reason::EngineUnavailable, text).hint("try again in a moment")
    }

    /// The fault of an engine that takes too long for an answer.
    pub(crate) fn silent(&self) -> Fault {
        let text = format!("the engine `{}` does not answer", self.name());
        Fault::new(Reason::EngineUnavailable, text).hint("it may be restarting; try again")
    }

    /// How it describes itself now: it can reload its configuration.
    pub(crate) async fn info(&self) -> Result<SystemInfo, Fault> {
        let info = self.inner.docker.info().await;
        info.map_err(|error| fault::unexpected("describe itself", error))
    }
}

fn unreachable(name: &EngineName, socket: &Path) -> Fault {
    let text = format!("cannot reach the engine `{name}` at unix://{}", socket.display());
    Fault::new(Reason::EngineUnavailable, text)
        .hint("check that it is running, and that wharfd's user may open the socket")
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.inner.api_version;
        f.debug_struct("Engine")
            .field("name", &self.inner.name)
            .field("socket", &self.inner.socket)
            .field("version", &self.inner.version)
            .field("api", &format_args!("{major}.{minor}"))
            .field("platform", &format_args!("{}", self.inner.platform))
            .field("store", &format_args!("{}", self.inner.image_store.name()))
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Rewrites the login header. The engine reads it as URL-safe base64 (RFC 4648, section 5) and treats an
/// unreadable header as no login at all; bollard writes ordinary base64.
fn url_safe_login(mut request: BollardRequest) -> BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("x-registry-auth") {
        let safe: Vec<u8> = value
            .as_bytes()
            .iter()
            .map(|byte| match byte {
                b'+' => b'-',
                b'/' => b'_',
                other => *other,
            })
            .collect();
        if let Ok(mut safe) = http::HeaderValue::from_bytes(&safe) {
            safe.set_sensitive(true);
            *value = safe;
        }
    }
    request
}

fn check_version(name: &EngineName, version: &str, api: &str) -> Result<(u16, u16), Fault> {
    let parsed =
        api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match parsed {
        Some(parsed) if parsed >= API_OLDEST => Ok(parsed),
        _ => {
            let (major, minor) = API_OLDEST;
            let text = format!(
                "the engine `{name}` is Docker Engine {} (API {}): wharfd needs {ENGINE_OLDEST} (API {major}.{minor}) or newer",
                printable(version),
                printable(api)
            );
            Err(Fault::new(Reason::EngineLacks, text).hint("upgrade the engine, or let wharfd use another"))
        }
    }
}

/// The processor's variant, from the output of `uname -m`; here only 32-bit ARM has variants.
fn variant(machine: &str) -> Option<String> {
    let version = machine.strip_prefix("armv")?.chars().next().filter(|digit| matches!(digit, '5'..='7'))?;
    Some(format!("v{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_too_old_is_told_what_is_needed() {
        assert_eq!(check_version(&"main".into(), "26.1.5", "1.45").unwrap(), (1, 45));
        for api in ["1.41", "1.9", "", "x"] {
            let fault = check_version(&"main".into(), "20.10.24", api).unwrap_err();
            assert_eq!(fault.reason(), Reason::EngineLacks);
            assert!(fault.text().contains("20.10.24") && fault.text().contains("26.1"), "{fault}");
        }
    }

    #[test]
    fn only_arm_has_variants() {
        assert_eq!(variant("armv7l").as_deref(), Some("v7"));
        assert_eq!(variant("aarch64"), None);
        assert_eq!(variant("x86_64"), None);
    }
}
