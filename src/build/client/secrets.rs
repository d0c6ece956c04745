//! Limits the secrets that a build asks its client for.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

use crate::names::{printable, secret::SECRET_BYTES_MAX, shortened};

/// The limit on all secrets of a build together, each as often as a step asks for it. BuildKit holds them in the engine's
/// memory: those of variables several times, as text, in the step's specification and in that as JSON.
const ALL_BYTES_MAX: usize = 16 << 20;

/// How many questions a client has at once: wharfd holds an answer of up to 2 MiB for each.
const AT_ONCE: usize = 4;

/// The error shows so much of an id.
const ID_SHOWN_MAX: usize = 100;

/// The questions to the client of one build, and the secrets that it has given.
#[derive(Debug)]
pub struct Asked {
    turns: Semaphore,
    bytes: AtomicUsize,
}

impl Default for Asked {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), bytes: AtomicUsize::new(0) }
    }
}

impl Asked {
    /// Waits until a question may be asked; until it is answered, the permit is kept.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Status> {
        // It is never closed.
        self.turns.acquire().await.map_err(|_| Status::cancelled("the build has ended"))
    }

    /// Counts a secret with so many bytes.
    ///
    /// # Errors
    /// Why the build may not have it.
    pub(super) fn add(&self, id: &str, bytes: usize) -> Result<(), Status> {
        let id = || shortened(printable(id), ID_SHOWN_MAX);
        if bytes > SECRET_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "the secret `{}` is too large: the limit is {} KiB",
                id(),
                SECRET_BYTES_MAX >> 10
            )));
        }
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > ALL_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "with `{}` the secrets of the build's steps have more than {} MiB, each counted for each step that \
                 mounts it: mount large files in fewer steps",
                id(),
                ALL_BYTES_MAX >> 20
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_small_alone_and_together() {
        let asked = Asked::default();
        let why = asked.add("npm", SECRET_BYTES_MAX + 1).unwrap_err();
        assert!(why.message().contains("the secret `npm` is too large: the limit is 500 KiB"), "{why}");
        for _ in 0..ALL_BYTES_MAX / SECRET_BYTES_MAX {
            asked.add("npm", SECRET_BYTES_MAX).unwrap();
        }
        let why = asked.add("npm", SECRET_BYTES_MAX).unwrap_err();
        assert!(why.message().contains("with `npm` the secrets of the build's steps have more than 16 MiB"));
        assert!(asked.add("npm", 1).is_err(), "it stays so");
    }

    #[tokio::test]
    async fn few_questions_are_asked_at_once() {
        let asked = Asked::default();
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(asked.turn().await.unwrap());
        }
        assert!(asked.turns.try_acquire().is_err());
        turns.pop();
        drop(asked.turn().await.unwrap());
    }
}
