//! Answers that all callers use. All who need a new one wait for the same question, which belongs to none of them: if
//! one leaves, the others still get the answer, and all learn at once that the question has failed.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
pub struct Told<T>(Mutex<Last<T>>);

type Last<T> = Option<(Instant, Question<T>)>;
type Question<T> = Shared<BoxFuture<'static, Result<T, Arc<Fault>>>>;

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Told<T> {
    /// The answer to the last question if nobody knows it yet, or if it has not failed and its question is younger than
    /// `ttl`; or else to `question`, which a task of `tasks` then asks. The question must have an end.
    pub async fn recent<F>(&self, ttl: Duration, tasks: &Group, question: F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let asked = {
            let mut last = self.last();
            let good = last.as_ref().filter(|(since, asked)| match asked.peek() {
                None => true,
                Some(answer) => answer.is_ok() && since.elapsed() < ttl,
            });
            match good {
                Some((_, asked)) => asked.clone(),
                None => ask(&mut last, tasks, question),
            }
        };
        asked.await.map_err(|fault| again(&fault))
    }

    /// The answer to a question that was asked after this call: to `question`, which a task of `tasks` asks once the
    /// last one has its answer, or to the same one of another caller. So there is one question at a time, and nobody
    /// waits for more than two. The question must have an end.
    pub async fn fresh<F>(&self, tasks: &Group, question: F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let called = Instant::now();
        let asked = loop {
            let running = {
                let mut last = self.last();
                match last.as_ref() {
                    Some((since, asked)) if *since > called => break asked.clone(),
                    Some((_, asked)) if asked.peek().is_none() => asked.clone(),
                    Some(_) | None => break ask(&mut last, tasks, question),
                }
            };
            // Its answer may be too old.
            let _ = running.await;
        };
        asked.await.map_err(|fault| again(&fault))
    }

    fn last(&self) -> MutexGuard<'_, Last<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks `question` in a task: a caller that leaves does not end it.
fn ask<T, F>(last: &mut Last<T>, tasks: &Group, question: F) -> Question<T>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<T, Fault>> + Send + 'static,
{
    let since = Instant::now();
    let task = tasks.spawn("question", question);
    let asked = async move { task.await.map_err(Fault::from).flatten().map_err(Arc::new) };
    let asked = asked.boxed().shared();
    // If all who wait leave, the answer is known all the same: `peek` returns only an answer that was awaited.
    drop(tasks.spawn("answer", asked.clone().map(drop)));
    *last = Some((since, asked.clone()));
    asked
}

/// The fault of a question, for one more caller.
fn again(fault: &Fault) -> Fault {
    fault.reworded(fault.text().to_owned()).caused_by(causes(fault))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;
    use crate::fault::Reason;

    const TTL: Duration = Duration::from_secs(60);

    /// A question that is counted when it is asked, and has this answer.
    fn question(
        questions: &Arc<AtomicUsize>,
        answered: oneshot::Receiver<Result<u32, Fault>>,
    ) -> impl Future<Output = Result<u32, Fault>> + Send + use<> {
        let questions = Arc::clone(questions);
        async move {
            questions.fetch_add(1, Ordering::Relaxed);
            answered.await.map_err(Fault::internal)?
        }
    }

    #[tokio::test]
    async fn all_wait_for_one_question_which_is_nobodys() {
        let (told, tasks, questions) = (Told::default(), Group::root(), Arc::new(AtomicUsize::new(0)));
        let get = |answered| Box::pin(told.recent(TTL, &tasks, question(&questions, answered)));
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

    #[tokio::test]
    async fn an_answer_is_recent_for_a_while_and_for_as_long_as_nobody_knows_it() {
        let (told, tasks) = (Told::default(), Group::root());
        let get = |answered: oneshot::Receiver<u32>| {
            Box::pin(told.recent(Duration::ZERO, &tasks, async { answered.await.map_err(Fault::internal) }))
        };
        let (answers, answered) = oneshot::channel();
        let (mut asks, mut shares) = (get(answered), get(oneshot::channel().1));
        assert!(asks.as_mut().now_or_never().is_none() && shares.as_mut().now_or_never().is_none());
        answers.send(1).unwrap();
        assert_eq!((asks.await.unwrap(), shares.await.unwrap()), (1, 1));
        let (answers, answered) = oneshot::channel();
        answers.send(2).unwrap();
        assert_eq!(get(answered).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn who_asks_meanwhile_shares_the_next_answer_whoever_leaves() {
        let (told, tasks, questions) = (Told::default(), Group::root(), Arc::new(AtomicUsize::new(0)));
        let get = |answered| Box::pin(told.fresh(&tasks, question(&questions, answered)));
        let ((first, answered), (second, fails)) = (oneshot::channel(), oneshot::channel());
        let mut asks = get(answered);
        assert!(asks.as_mut().now_or_never().is_none());
        // These have asked after the first question: its answer may be too old for them.
        let (mut leaves, mut waits, mut shares) =
            (get(fails), get(oneshot::channel().1), get(oneshot::channel().1));
        for waiting in [&mut leaves, &mut waits, &mut shares] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        // Whoever leaves in the middle of a question, the others neither begin it anew nor a second one beside it.
        drop(asks);
        first.send(Ok(1)).unwrap();
        tokio::task::yield_now().await;
        while questions.load(Ordering::Relaxed) < 2 {
            assert!(leaves.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        drop(leaves);
        for waiting in [&mut waits, &mut shares] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        second.send(Err(Fault::new(Reason::EngineUnavailable, "it hangs"))).unwrap();
        for waiting in [waits, shares] {
            assert_eq!(waiting.await.unwrap_err().text(), "it hangs");
        }
        assert_eq!(questions.load(Ordering::Relaxed), 2);
        let (again, answered) = oneshot::channel();
        again.send(Ok(3)).unwrap();
        assert_eq!(get(answered).await.unwrap(), 3, "an old answer is not an answer");
    }
}
