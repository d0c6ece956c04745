//! Runs the judgements of a build on threads of their own: those of the largest texts and graphs take some hundred
//! milliseconds of a processor, and wharfd's worker threads serve everybody's calls.

use std::sync::{Arc, OnceLock};

use tokio::task::block_in_place;
use tonic::Status;

use super::{AGAIN, ALL, Judge, State};
use crate::{
    build::input::Hear,
    fault::Fault,
    images::inherited::Inherited,
    names::CallerId,
    shares::Places,
    tasks::{Group, Panicked},
};

/// How many judgements run at once.
const AT_ONCE: usize = 8;
/// The most of these for one caller.
const OF_CALLER: usize = 4;

/// The places for judgements, of all callers.
pub fn places() -> Arc<Places> {
    Arc::new(Places::new(AT_ONCE, OF_CALLER))
}

/// The judge of one build's Dockerfile, and the places of its caller.
#[derive(Debug)]
pub struct Judging {
    judge: Arc<Judge>,
    places: Arc<Places>,
    caller: CallerId,
    /// The build's tasks.
    tasks: Group,
    /// Held while texts are judged, so that each is judged once.
    turn: tokio::sync::Mutex<()>,
    panicked: OnceLock<Panicked>,
}

/// The reason why something does not pass.
#[derive(Debug)]
pub enum NotPassed {
    /// It is refused: why.
    Refused(String),
    /// The judge has panicked.
    Panicked(Panicked),
}

impl NotPassed {
    /// The fault; `refused` makes that of a refusal.
    pub(in crate::build) fn fault(self, refused: impl FnOnce(String) -> Fault) -> Fault {
        match self {
            Self::Refused(why) => refused(why),
            Self::Panicked(panicked) => panicked.into(),
        }
    }
}

impl From<NotPassed> for Status {
    fn from(not: NotPassed) -> Self {
        match not {
            NotPassed::Refused(why) => Self::invalid_argument(why),
            NotPassed::Panicked(panicked) => Self::internal(Fault::from(panicked).text()),
        }
    }
}

impl Judging {
    /// The judgements of `judge` for a build of `caller`'s, in the build's `tasks`.
    pub fn new(judge: Arc<Judge>, places: Arc<Places>, caller: CallerId, tasks: Group) -> Self {
        let (turn, panicked) = Default::default();
        Self { judge, places, caller, tasks, turn, panicked }
    }

    /// The judge, which takes the texts.
    pub fn judge(&self) -> &Arc<Judge> {
        &self.judge
    }

    /// Judges something that may take long, at one of the caller's places. The judgement keeps the place to its end.
    pub(in crate::build) async fn run(
        &self,
        judge: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), NotPassed> {
        let place = self.places.take(&self.caller).await;
        let judged = self.tasks.spawn_blocking("judge", move || {
            let judged = judge();
            drop(place);
            judged
        });
        match judged.await {
            Ok(judged) => judged.map_err(NotPassed::Refused),
            Err(panicked) => {
                // The first counts.
                let _ = self.panicked.set(panicked);
                Err(NotPassed::Panicked(panicked))
            }
        }
    }

    /// Judges something else that may take long, such as a graph, at one of the caller's places. wharfd's other tasks go
    /// on on another thread meanwhile.
    pub async fn here<T>(&self, judge: impl FnOnce() -> T) -> T {
        let _place = self.places.take(&self.caller).await;
        block_in_place(judge)
    }

    /// A panic of the judge, whose words BuildKit may have passed on as the build's failure.
    pub(in crate::build) fn panicked(&self) -> Option<Panicked> {
        self.panicked.get().copied()
    }

    /// Judges the texts that have come, each with the images that are known. None may reach BuildKit before. The error
    /// contains the reason and the line.
    pub(in crate::build) async fn texts(&self) -> Result<(), NotPassed> {
        self.those(ALL).await
    }

    /// Judges the texts that have passed again, if more images are known.
    pub(in crate::build) async fn again(&self) -> Result<(), NotPassed> {
        self.those(AGAIN).await
    }

    async fn those(&self, states: &'static [State]) -> Result<(), NotPassed> {
        // Asked for every message of a sync.
        if !self.judge.has(states) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let judge = Arc::clone(&self.judge);
        self.run(move || judge.judge(states)).await
    }

    /// Judges the triggers of an image and remembers the image.
    pub(in crate::build) async fn admit(&self, base: Inherited) -> Result<(), NotPassed> {
        let judge = Arc::clone(&self.judge);
        self.run(move || judge.admit(&base)).await
    }

    /// Hears a message of a tar once its texts have passed.
    pub fn before(self: &Arc<Self>, hear: Hear) -> Hear {
        let judging = Arc::clone(self);
        Arc::new(move || {
            let (judging, hear) = (Arc::clone(&judging), Arc::clone(&hear));
            Box::pin(async move {
                judging.texts().await?;
                hear().await
            })
        })
    }
}

#[cfg(test)]
impl Judging {
    /// A judge that knows nothing yet, of a caller that is alone.
    pub(crate) fn alone() -> Self {
        Self::new(Arc::default(), places(), CallerId::Uid(1), Group::root())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::fault::Reason;

    const LONG: Duration = Duration::from_secs(60);

    /// On one worker thread, as for wharfd's other work.
    #[tokio::test]
    async fn judgements_of_one_caller_hold_up_no_other() {
        let places = places();
        let of = |uid| {
            Arc::new(Judging::new(Arc::default(), Arc::clone(&places), CallerId::Uid(uid), Group::root()))
        };
        let (many, one) = (of(1), of(2));
        let (end, ends) = mpsc::channel::<()>();
        let ends = Arc::new(std::sync::Mutex::new(ends));
        let long = |_| {
            let (many, ends) = (Arc::clone(&many), Arc::clone(&ends));
            // Each judgement lasts until the test lets it end.
            many.tasks.clone().spawn("build", async move {
                many.run(move || ends.lock().unwrap().recv_timeout(LONG).map_err(|error| error.to_string()))
                    .await
            })
        };
        let running: Vec<_> = (0..=OF_CALLER).map(long).collect();
        one.judge.take("Dockerfile", b"FROM scratch\n".to_vec());
        one.judge.take("dockerfile", b"FROM x\n".to_vec());
        timeout(LONG, one.texts()).await.expect("another caller's build goes on").unwrap();
        assert!(!one.judge.has(ALL));
        assert!(places.try_take(&CallerId::Uid(1)).is_none(), "a caller has places of its own");
        running.iter().for_each(|_| end.send(()).unwrap());
        for judgement in running {
            judgement.await.unwrap().unwrap();
        }
    }

    /// A refused one is the Dockerfile's fault, and not an image's.
    #[tokio::test]
    async fn a_pass_judges_again_only_texts_that_have_passed() {
        let judging = Judging::alone();
        let bad = format!("FROM x\nRUN {}", "${".repeat(1100));
        judging.judge.take("Dockerfile", bad.into_bytes());
        judging.again().await.unwrap();
        assert!(judging.texts().await.is_err());
        judging.judge.take("Dockerfile", format!("FROM x\nLABEL {}", "x=$a ".repeat(1000)).into_bytes());
        judging.texts().await.unwrap();
        let size = crate::images::inherited::Size { bytes: 100_000, dashes: 0 };
        let environment = vec![("a".to_owned(), size)];
        judging.admit(Inherited { environment, ..Inherited::default() }).await.unwrap();
        let not = Status::from(judging.again().await.unwrap_err());
        assert!(not.message().contains("line 2"));
    }

    #[tokio::test]
    async fn a_panic_is_no_refusal() {
        let judging = Judging::alone();
        let refused = |why: String| Fault::new(Reason::ImageUnsupported, why);
        let not = judging.run(|| Err("it is refused".to_owned())).await.unwrap_err();
        assert_eq!(not.fault(refused).reason(), Reason::ImageUnsupported);
        assert!(judging.panicked().is_none());
        let broken = || if AT_ONCE > 0 { panic!("on purpose") } else { Ok(()) };
        let not = judging.run(broken).await.unwrap_err();
        assert_eq!(not.fault(refused).reason(), Reason::Internal);
        assert!(judging.panicked().is_some(), "the build's end says so");
        assert!(judging.run(|| Ok(())).await.is_ok(), "its place is free again");
    }

    #[tokio::test]
    async fn a_text_is_judged_before_it_is_heard() {
        let judging = Arc::new(Judging::alone());
        let hear = judging.before(Arc::new(|| Box::pin(std::future::ready(Ok(())))));
        hear().await.unwrap();
        judging.judge.take("Dockerfile", b"FROM x\n".to_vec());
        hear().await.unwrap();
        judging.judge.take("Dockerfile", format!("FROM x\nRUN {}", "${".repeat(1100)).into_bytes());
        for _ in 0..2 {
            assert!(hear().await.unwrap_err().message().contains("line 2: more than 1024"));
        }
    }
}
