//! The body of an upload that wharfd passes on to the registry.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::super::{
    answer::Moving,
    meter::{Meter, Wait},
};

/// The wait for the registry since the last piece of a body. It outlasts the body, which hyper drops before the
/// answer comes: clear it when the answer is there.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Option<Wait>>>);

/// A body that notes when it moves, and for whom it waits.
pub(super) struct Sent {
    body: Incoming,
    moving: Moving,
    meter: Arc<Meter>,
    /// How many bytes of the blob have been sent.
    sent: Arc<AtomicU64>,
    waiting: Waiting,
}

impl Waiting {
    fn set(&self, wait: Option<Wait>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }

    pub(super) fn clear(&self) {
        self.set(None);
    }
}

impl Sent {
    pub(super) fn new(
        body: Incoming,
        moving: Moving,
        meter: Arc<Meter>,
        sent: Arc<AtomicU64>,
    ) -> (Self, Waiting) {
        let waiting = Waiting::default();
        (Self { body, moving, meter, sent, waiting: waiting.clone() }, waiting)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Hyper asks for the next piece when there is room for it: now it is the engine that is waited for.
        self.waiting.clear();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.moving.moved();
            self.meter.moved(bytes);
            self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.waiting.set(Some(self.meter.wait()));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
