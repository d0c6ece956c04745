//! The list of an engine's images. For each listing an engine holds all images in its memory with their
//! labels, which jobs choose, several times over. So an engine makes one listing at a time, and all calls
//! that asked before it began share its result.

use std::{sync::Arc, time::Instant};

use tokio::sync::Mutex;

use super::{Images, told::again};
use crate::{engine::docker::listing::Listed, fault::Fault};

/// The last answer of an engine, and when its question was asked.
#[derive(Default)]
pub(super) struct LastAnswer<T>(Mutex<Option<(Instant, Answer<T>)>>);

type Answer<T> = Result<Arc<T>, Arc<Fault>>;

impl<T> LastAnswer<T> {
    /// The answer to a question that was asked after this call: to `question`, or to the same one of another caller.
    /// Waits for two questions at most.
    pub(super) async fn get(
        &self,
        question: impl Future<Output = Result<T, Fault>>,
    ) -> Result<Arc<T>, Fault> {
        let called = Instant::now();
        let mut last = self.0.lock().await;
        let answer = match last.as_ref().filter(|(asked, _)| *asked > called) {
            Some((_, answer)) => answer.clone(),
            None => {
                let asked = Instant::now();
                let answer = question.await.map(Arc::new).map_err(Arc::new);
                *last = Some((asked, answer.clone()));
                answer
            }
        };
        answer.map_err(|fault| again(&fault))
    }
}

impl Images {
    /// All images of the engine.
    pub(super) async fn listed(&self) -> Result<Arc<Vec<Listed>>, Fault> {
        let listing = Box::pin(self.engine().image_store().list());
        self.found.listing.get(listing).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::fault::Reason;

    #[tokio::test]
    async fn who_asks_meanwhile_shares_the_next_answer() {
        let (last, asked) = (LastAnswer::default(), AtomicUsize::new(0));
        let get = |answered: oneshot::Receiver<Result<u32, Fault>>| {
            Box::pin(last.get(async {
                asked.fetch_add(1, Ordering::Relaxed);
                answered.await.map_err(Fault::internal)?
            }))
        };
        let ((first, answered), (second, fails)) = (oneshot::channel(), oneshot::channel());
        let (_keep, never) = oneshot::channel();
        let mut asks = get(answered);
        assert!(asks.as_mut().now_or_never().is_none());
        // These have asked after the first question: its answer may be too old for them.
        let (mut leaves, mut waits, mut shares) = (get(never), get(fails), get(oneshot::channel().1));
        for waiting in [&mut leaves, &mut waits, &mut shares] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        first.send(Ok(1)).unwrap();
        assert_eq!(*asks.await.unwrap(), 1);
        // A call that leaves in the middle of its question does not end it for others.
        assert!(leaves.as_mut().now_or_never().is_none());
        drop(leaves);
        second.send(Err(Fault::new(Reason::EngineUnavailable, "it hangs"))).unwrap();
        for waiting in [waits, shares] {
            assert_eq!(waiting.await.unwrap_err().text(), "it hangs");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        let (again, answered) = oneshot::channel();
        again.send(Ok(2)).unwrap();
        assert_eq!(*get(answered).await.unwrap(), 2, "an old answer is no answer");
    }
}
