//! The input of a build: the Dockerfile, the arguments and the bases from which BuildKit's frontend makes a
//! graph. The same input has the same effect on an engine.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use tonic::Status;

use super::{gate::Refusal, spec::BuildSpec};
use crate::{
    buildkit::solve::Ended,
    fault::Fault,
    images::{Images, suspects::Entered},
    names::{CallerId, reference::Digest},
};

/// The texts that BuildKit reads itself, as far as they have come: a Dockerfile, and the ignore file beside it.
#[derive(Debug, Default)]
pub struct Texts(Mutex<BTreeSet<String>>);

impl Texts {
    /// Adds a text.
    pub(super) fn add(&self, text: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_string());
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Lets the texts of a build that have come into BuildKit, or refuses them.
pub type Hear = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Status>> + Send + Sync>;

/// The input of a build, and whether it is in BuildKit.
pub struct Input {
    images: Images,
    caller: CallerId,
    /// The parts that never change.
    given: Vec<String>,
    /// It is held while the store is asked and while a suspect waits, so that no text passes by meanwhile.
    state: tokio::sync::Mutex<State>,
    refused: Mutex<Option<Fault>>,
}

#[derive(Default)]
struct State {
    /// The images of the running pass.
    bases: Option<Vec<String>>,
    /// How many texts are in BuildKit.
    texts: usize,
    entered: Option<Entered>,
}

impl Input {
    /// The input of a build of `caller`'s.
    pub fn new(images: &Images, caller: &CallerId, spec: &BuildSpec) -> Self {
        let arguments = spec.build_args.iter().flat_map(|(name, value)| [name, value]).cloned();
        let frontend = images.frontend().map(ToString::to_string).unwrap_or_default();
        let given = [caller.key(), frontend, spec.target.clone()];
        Self {
            images: images.clone(),
            caller: caller.clone(),
            given: given.into_iter().chain(arguments).collect(),
            state: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Begins a pass with these bases. Fails if BuildKit may not have the input.
    pub(super) async fn begin(&self, bases: Vec<String>, texts: &Texts) -> Result<(), Fault> {
        let mut state = self.state.lock().await;
        *state = State { bases: Some(bases), ..State::default() };
        self.enter(&mut state, texts).await
    }

    /// Also receives the texts that arrive later.
    pub fn hearing(input: &Arc<Self>, texts: &Arc<Texts>) -> Hear {
        let (input, texts) = (Arc::clone(input), Arc::clone(texts));
        Arc::new(move || {
            let (input, texts) = (Arc::clone(&input), Arc::clone(&texts));
            Box::pin(async move { input.hear(&texts).await })
        })
    }

    /// Lets the texts that have come into BuildKit, or refuses them.
    async fn hear(&self, texts: &Texts) -> Result<(), Status> {
        let mut state = self.state.lock().await;
        let entered = self.enter(&mut state, texts).await;
        entered.map_err(|fault| {
            let status = Status::failed_precondition(fault.text().to_owned());
            *self.told() = Some(fault);
            status
        })
    }

    async fn enter(&self, state: &mut State, texts: &Texts) -> Result<(), Fault> {
        let Some(bases) = &state.bases else { return Ok(()) };
        // Asked for every message of a sync.
        if texts.count() == state.texts {
            return Ok(());
        }
        let texts = texts.list();
        if let Some(earlier) = state.entered.take() {
            earlier.leave();
        }
        let parts = [&self.given, bases, &texts];
        let counts = parts.map(|part| part.len().to_string());
        let parts = counts.iter().chain(parts.into_iter().flatten()).map(String::as_str);
        let input = self.images.keys().input(parts);
        state.entered = Some(self.images.enter(&self.caller, input).await?);
        // Not before: each stream that asks about a refused text is refused.
        state.texts = texts.len();
        Ok(())
    }

    /// BuildKit gets the graph that the frontend has made of it.
    pub(super) fn handed(&self) {
        if let Ok(state) = self.state.try_lock()
            && let Some(entered) = &state.entered
        {
            entered.handed();
        }
    }

    /// Ends a pass. Without an answer of BuildKit's, its engine may have crashed.
    pub(super) async fn end(&self, end: PassEnd) {
        let State { entered: Some(entered), .. } = std::mem::take(&mut *self.state.lock().await) else {
            return;
        };
        match end {
            PassEnd::Made => entered.made().await,
            PassEnd::Answered => entered.leave(),
            PassEnd::Lost => drop(entered),
        }
    }

    /// Why BuildKit did not get it.
    pub(super) fn refused(&self) -> Option<Fault> {
        self.told().take()
    }

    fn told(&self) -> MutexGuard<'_, Option<Fault>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassEnd {
    /// With an image.
    Made,
    /// With another answer of BuildKit's.
    Answered,
    /// Without an answer.
    Lost,
}

impl PassEnd {
    /// How BuildKit has left the input.
    pub(super) fn of(ended: &Ended<Refusal>) -> Self {
        match ended {
            Ended::Exported(_) => Self::Made,
            ended if ended.is_over() => Self::Answered,
            Ended::Frontend(_) | Ended::Failed(_) | Ended::Refused(_) | Ended::Stopped { .. } => Self::Lost,
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}
