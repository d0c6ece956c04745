//! An answer of the engine that all callers use for a while. All who need a new answer wait for the same
//! question, which belongs to none of them: if one leaves, the others still get the answer, and all learn at
//! once that the question has failed.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use crate::{
    fault::{Fault, causes},
    tasks::Group,
};

/// The last question, and when it was asked.
pub(super) struct Told<T>(Mutex<Option<(Instant, Question<T>)>>);

type Question<T> = Shared<BoxFuture<'static, Result<T, Arc<Fault>>>>;

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Told<T> {
    /// The answer to the last question if that is younger than `ttl` and has not failed, or else to `question`, which
    /// a task of `tasks` then asks. The question must have an end.
    pub(super) async fn get<F>(&self, ttl: Duration, tasks: &Group, question: F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let asked = {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let good = last
                .as_ref()
                .filter(|(since, asked)| since.elapsed() < ttl && !matches!(asked.peek(), Some(Err(_))));
            match good {
                Some((_, asked)) => asked.clone(),
                None => {
                    let task = tasks.spawn("question", question);
                    let asked = async move {
                        task.await.map_err(Fault::from).and_then(|answer| answer).map_err(Arc::new)
                    };
                    let asked = asked.boxed().shared();
                    // If all who wait leave, the answer is known all the same: `peek` returns only an answer
                    // that was awaited.
                    drop(tasks.spawn("answer", asked.clone().map(drop)));
                    *last = Some((Instant::now(), asked.clone()));
                    asked
                }
            }
        };
        asked.await.map_err(|fault| again(&fault))
    }
}

/// The fault of a question, for one more caller.
pub(super) fn again(fault: &Fault) -> Fault {
    let again = Fault::new(fault.reason(), fault.text().to_owned()).caused_by(causes(fault));
    match fault.hint_text() {
        Some(hint) => again.hint(hint.to_owned()),
        None => again,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;
    use crate::fault::Reason;

    const TTL: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn all_wait_for_one_question_which_is_nobodys() {
        let (told, tasks, questions) = (Told::default(), Group::root(), Arc::new(AtomicUsize::new(0)));
        let get = |answered: oneshot::Receiver<Result<u32, Fault>>| {
            let questions = Arc::clone(&questions);
            let question = async move {
                questions.fetch_add(1, Ordering::Relaxed);
                answered.await.map_err(Fault::internal)?
            };
            Box::pin(told.get(TTL, &tasks, question))
        };
        let (fails, failed) = oneshot::channel();
        let (answers, answered) = oneshot::channel();
        let (_keep, never) = oneshot::channel();
        // The call that asked leaves; the others keep waiting, and learn of the failure from one question.
        let mut asker = get(failed);
        assert!(asker.as_mut().now_or_never().is_none());
        let (mut second, mut third) = (get(never), get(oneshot::channel().1));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(asker);
        let hangs = Fault::new(Reason::EngineUnavailable, "it hangs").hint("wait");
        fails.send(Err(hangs)).unwrap();
        for waiting in [second, third] {
            let fault = waiting.await.unwrap_err();
            assert_eq!((fault.text(), fault.hint_text()), ("it hangs", Some("wait")));
        }
        assert_eq!(questions.load(Ordering::Relaxed), 1);
        // A failure is not an answer, and an answer is valid for a while.
        let mut asker = get(answered);
        assert!(asker.as_mut().now_or_never().is_none());
        answers.send(Ok(7)).unwrap();
        assert_eq!(asker.await.unwrap(), 7);
        assert_eq!(get(oneshot::channel().1).await.unwrap(), 7);
        assert_eq!(questions.load(Ordering::Relaxed), 2);
    }
}
