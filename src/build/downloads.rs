//! The files that a build fetches by URL, with `ADD`.
//!
//! wharfd fetches them, and BuildKit gets them from the build's session, like an uploaded tar: BuildKit would follow
//! redirects wherever they lead, look up names again after policy has judged their addresses, and keep for good what a
//! server says in its headers (`source/http`).
//!
//! A file is asked for as soon as its URL is admitted: only the head of the answer says when it was modified, and whether
//! BuildKit has it already. The content waits at the server until BuildKit asks for it.

mod known;
mod reading;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use futures_util::StreamExt as _;
use tokio::sync::SetOnce;
use tonic::Status;

use super::{add, gate::Needed, limits::Used};
use crate::{
    buildkit::session::Messages,
    fault::{Fault, Reason},
    images::Images,
    names::{CallerId, Namespace, printable_url, random_id},
    policy::Permit,
    registry::{Error, File, Files, Got, Kind, NotGot, Validators},
    shares::{Place, Places},
};
use known::{Known, KnownFile};
use reading::Reading;

/// How many files are asked for or read at once, of all callers and of one. The others wait for these.
const RUNNING_MAX: usize = 512;
const RUNNING_OF_CALLER: usize = 16;
/// How many answers may wait for BuildKit. Of a file beyond these the server is asked again when BuildKit asks.
const HELD_MAX: usize = 512;
const HELD_OF_CALLER: usize = 32;

/// What the downloads of all builds share.
#[derive(Debug)]
pub struct Shared {
    running: Places,
    held: Places,
    known: Known,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            running: Places::new(RUNNING_MAX, RUNNING_OF_CALLER),
            held: Places::new(HELD_MAX, HELD_OF_CALLER),
            known: Known::default(),
        }
    }
}

/// The downloads of one build.
#[derive(Debug)]
pub struct Downloads {
    shared: Arc<Shared>,
    used: Arc<Used>,
    /// By the paths of their URLs in the session.
    begun: Mutex<BTreeMap<String, Arc<Download>>>,
    /// The first that failed after its admission.
    failed: Arc<SetOnce<NotFetched>>,
    /// Ends those that BuildKit still reads: it does not stop by itself when the build does (`source/http/transport.go`).
    over: Arc<SetOnce<()>>,
}

/// A file whose URL policy has permitted, and whose server has answered.
pub struct Download {
    /// The URL, as it stands in the graph.
    url: String,
    /// The path of its URL in the session.
    path: String,
    caller: CallerId,
    /// The name under which what is known of it is remembered.
    name: String,
    needed: Needed,
    files: Option<Files>,
    /// The file that it is, if that is known already.
    file: Option<KnownFile>,
    modified: Option<i64>,
    /// The answer, until BuildKit asks for the content.
    held: Mutex<Option<(Box<File>, Place)>>,
}

/// The reason why a file is not there.
#[derive(Debug)]
pub(super) enum NotFetched {
    /// It is not allowed, or not available for now.
    Fault(Fault),
    /// The build fails.
    Failed(String),
}

impl From<Fault> for NotFetched {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Downloads {
    /// None yet. What they bring counts as `used`.
    pub fn new(shared: Arc<Shared>, used: Arc<Used>) -> Self {
        let (failed, over) = (Arc::default(), Arc::default());
        Self { shared, used, begun: Mutex::default(), failed, over }
    }

    /// Asks for the file at `url`, which the build's graph names as `needed`.
    pub(super) async fn begin(
        &self,
        images: &Images,
        namespace: &Permit<Namespace>,
        url: &str,
        needed: Needed,
    ) -> Result<Arc<Download>, NotFetched> {
        let permitted = namespace.fetch_from(url).and_then(|_| not_the_session(url));
        permitted.map_err(|denied| denied.at_line(needed.line))?;
        let (caller, shared) = (namespace.caller().clone(), &self.shared);
        let path = format!("/{}", random_id().map_err(Fault::from)?);
        let name = format!("{} {url}", images.keys().job(namespace.subject().job()));
        let files = images.files(namespace).await?;
        let known = shared.known.of(&name);
        let mut download = Download {
            url: url.to_owned(),
            path: path.clone(),
            caller,
            name,
            needed,
            files: Some(files),
            file: None,
            modified: None,
            held: Mutex::default(),
        };
        match known {
            // Whatever the server has by now.
            Some(known) if download.needed.is_only(known.digest.as_str()) => download.file = Some(known),
            known => download.ask(shared, known).await?,
        }
        if let Some(known) = &download.file {
            download.modified = nanoseconds(&known.validators);
        }
        let download = Arc::new(download);
        lock(&self.begun).insert(path, Arc::clone(&download));
        Ok(download)
    }

    /// The content at a path of the session.
    pub(super) fn read(&self, path: &str) -> Result<Messages, Status> {
        let download = lock(&self.begun).get(path).cloned();
        let download = download.ok_or_else(|| Status::not_found("there is no such upload"))?;
        let (shared, used) = (Arc::clone(&self.shared), Arc::clone(&self.used));
        let (failed, over) = (Arc::clone(&self.failed), Arc::clone(&self.over));
        Ok(Reading::new(download, shared, used).messages(failed, over).boxed())
    }

    /// Why a file did not come that BuildKit has asked for.
    pub(super) fn failed(&self) -> Option<NotFetched> {
        Some(match self.failed.get()? {
            NotFetched::Failed(text) => NotFetched::Failed(text.clone()),
            NotFetched::Fault(fault) => NotFetched::Fault(fault.reworded(fault.text().to_owned())),
        })
    }

    /// Ends all of them.
    pub(super) fn end(&self) {
        let _ = self.over.set(());
    }
}

/// When the file was modified, in nanoseconds since 1970.
fn nanoseconds(validators: &Validators) -> Option<i64> {
    let since = validators.modified()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

/// Refuses the host that means the session of a build.
fn not_the_session(url: &str) -> Result<(), Fault> {
    if !add::host(url).is_some_and(|host| host.eq_ignore_ascii_case(add::SESSION_HOST)) {
        return Ok(());
    }
    let text = format!("`ADD {}` is not allowed: it names the builder's own session", printable_url(url));
    Err(Fault::new(Reason::SourceDenied, text))
}

impl Download {
    /// Asks the server, unless it has still the known file.
    async fn ask(&mut self, shared: &Shared, known: Option<KnownFile>) -> Result<(), NotFetched> {
        let place = shared.running.take(&self.caller).await;
        let before = known.as_ref().map(|known| &known.validators).filter(|before| before.are_some());
        let file = match self.get(before).await? {
            Got::Unchanged => {
                self.file = known;
                return Ok(());
            }
            Got::File(file) => file,
        };
        drop(place);
        self.modified = nanoseconds(file.validators());
        if let Some(place) = shared.held.try_take(&self.caller) {
            *lock(&self.held) = Some((file, place));
        }
        Ok(())
    }

    async fn get(&self, before: Option<&Validators>) -> Result<Got, NotFetched> {
        let Some(files) = &self.files else { return Err(self.error("it has no server", None)) };
        files.get(&self.url, before).await.map_err(|not| match not {
            NotGot::Denied(fault) => fault.at_line(self.needed.line).into(),
            NotGot::Error(error) => self.not_got(error),
        })
    }

    /// The failure of a request.
    fn not_got(&self, error: Error) -> NotFetched {
        let text = error.text().to_owned();
        match error.kind() {
            Kind::Unreachable | Kind::Unavailable | Kind::Busy => self.error(&text, Some(error)),
            _ => NotFetched::Failed(self.told(&text)),
        }
    }

    /// The failure of a file that may be there later.
    fn error(&self, why: &str, cause: Option<Error>) -> NotFetched {
        let fault = Fault::new(Reason::SourceUnavailable, self.told(why))
            .hint("check the URL; if it is right, try again");
        match cause {
            Some(cause) => fault.caused_by(cause).into(),
            None => fault.into(),
        }
    }

    fn told(&self, why: &str) -> String {
        let line = self.needed.line.map(|line| format!("Dockerfile:{line}: ")).unwrap_or_default();
        format!("{line}cannot fetch `{}`: {why}", printable_url(&self.url))
    }

    /// The URL, as it stands in the graph.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The URL that BuildKit gets it from.
    pub(super) fn session_url(&self) -> String {
        format!("http://{}{}", add::SESSION_HOST, self.path)
    }

    /// The digest of its content, if that is known: `sha256:…`.
    pub(super) fn digest(&self) -> Option<&str> {
        self.file.as_ref().map(|file| file.digest.as_str())
    }

    /// When it was modified, in nanoseconds since 1970, as far as its server says so.
    pub(super) fn modified(&self) -> Option<i64> {
        self.modified
    }

    /// A file at a URL that is permitted, of which nothing comes.
    #[cfg(test)]
    pub(super) fn any(url: &str, path: &str, modified: Option<i64>) -> Self {
        Self {
            url: url.to_owned(),
            path: path.to_owned(),
            caller: CallerId::Uid(1),
            name: String::new(),
            needed: Needed::default(),
            files: None,
            file: None,
            modified,
            held: Mutex::default(),
        }
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its URL may have a login.
        f.debug_struct("Download").field("path", &self.path).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
