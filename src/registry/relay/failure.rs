//! Why a transfer failed, as far as the real registry caused it.

use std::sync::{Mutex, PoisonError};

use http::{Response, StatusCode};
use tokio::sync::watch;

use super::{
    super::error::{Error, Kind},
    Body, answers,
};

/// The failure of the real registry in a transfer.
#[derive(Default)]
pub(super) struct LastFailure {
    /// The engine's last failed request, as a path within the repository, and the error.
    last: Mutex<Option<(String, Error)>>,
    /// Whether the transfer cannot succeed any more.
    is_final: watch::Sender<bool>,
}

impl LastFailure {
    /// Takes the last failure.
    pub(super) fn take(&self) -> Option<Error> {
        Some(self.last.lock().unwrap_or_else(PoisonError::into_inner).take()?.1)
    }

    /// Says that the transfer is over.
    pub(super) fn over(&self) {
        self.is_final.send_replace(true);
    }

    /// Notes why the real registry does not deliver or accept `what`, and answers the engine accordingly.
    pub(super) fn note(&self, what: String, error: Error) -> Response<Body> {
        let status = match error.kind() {
            Kind::Unauthorized | Kind::Denied | Kind::Misled | Kind::Forged => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Unsupported | Kind::Other => StatusCode::BAD_REQUEST,
            Kind::Unreachable | Kind::Unavailable | Kind::Busy => StatusCode::BAD_GATEWAY,
        };
        let is_final = status == StatusCode::FORBIDDEN || error.kind() == Kind::Unsupported;
        self.set(what, error, is_final);
        answers::refusal(status)
    }

    /// Returns once the transfer cannot succeed any more, or is over.
    pub(super) async fn is_final(&self) {
        // Waiting cannot fail: the sender is in `self`.
        let _ = self.is_final.subscribe().wait_for(|is_final| *is_final).await;
    }

    /// Whether the transfer cannot succeed any more, or is over.
    pub(super) fn is_over(&self) -> bool {
        *self.is_final.borrow()
    }

    /// Ends the transfer.
    pub(super) fn end(&self, error: Error) {
        self.set(String::new(), error, true);
    }

    /// Forgets the failure of `what`: the engine has tried again with success.
    pub(super) fn forget(&self, what: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !*self.is_final.borrow() {
            last.take_if(|(failed, _)| failed == what);
        }
    }

    /// Later errors do not replace a final refusal: they say less.
    fn set(&self, what: String, error: Error, is_final: bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !*self.is_final.borrow() {
            *last = Some((what, error));
            self.is_final.send_replace(is_final);
        }
    }
}
