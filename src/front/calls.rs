//! Limits on the calls of one caller that run at once, over all its connections. Each may cost a stream's window
//! and an incomplete message.

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    fault::{Fault, Reason},
    names::CallerId,
    shares::Own,
};

/// The running calls of each caller.
#[derive(Debug)]
pub(super) struct Calls(Own<CallerId>);

/// The place of a running call; dropping it frees it.
pub type Running = OwnedSemaphorePermit;

impl Calls {
    pub(super) fn new(max: usize) -> Self {
        Self(Own::new(max))
    }

    /// A place for one more call of `caller`, if one is free.
    pub(super) fn take(&self, caller: &CallerId) -> Result<Running, Fault> {
        self.0.try_take(caller).ok_or_else(|| {
            let text = format!("{caller} has {} running calls, which is the limit", self.0.each());
            Fault::new(Reason::LimitReached, text).hint("try again when some calls have ended")
        })
    }
}
