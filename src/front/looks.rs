//! Limits on the calls that look at images. A look is quick, but the engine needs memory for all images and
//! their labels in each of them, and wharfd needs memory for an answer that its client does not read.

use tokio::sync::OwnedSemaphorePermit;

use crate::{names::CallerId, shares::Own};

/// How many looks of one kind a caller may have at once; the others wait for their turn.
const LOOKS_AT_ONCE: usize = 16;

/// The purpose of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    /// An answer for the client, who may read it slowly.
    Answer,
    /// A change, a push or the end of a namespace, which ends without its client.
    Work,
}

/// A look of a caller; dropping it lets the caller's next one begin.
#[derive(Debug)]
pub struct Looking {
    _place: OwnedSemaphorePermit,
}

/// The looks of each caller.
#[derive(Debug)]
pub(super) struct Looks(Own<(CallerId, Look)>);

impl Default for Looks {
    fn default() -> Self {
        Self(Own::new(LOOKS_AT_ONCE))
    }
}

impl Looks {
    /// Waits until `caller` may look. Callers do not wait for one another.
    pub(super) async fn begin(&self, caller: &CallerId, look: Look) -> Looking {
        Looking { _place: self.0.take(&(caller.clone(), look)).await }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_caller_waits_for_its_own_looks_alone() {
        let looks = Looks::default();
        let [one, other] = [1, 2].map(CallerId::Uid);
        let mut held = Vec::new();
        for _ in 0..LOOKS_AT_ONCE {
            held.push(looks.begin(&one, Look::Answer).await);
        }
        assert!(looks.begin(&one, Look::Answer).now_or_never().is_none());
        assert!(looks.begin(&one, Look::Work).now_or_never().is_some(), "an unread answer stops no change");
        assert!(looks.begin(&other, Look::Answer).now_or_never().is_some());
        held.pop();
        assert!(looks.begin(&one, Look::Answer).now_or_never().is_some());
    }
}
