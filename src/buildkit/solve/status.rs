//! BuildKit's status of a pass on its way to the listener.

use std::{future::ready, pin::Pin, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tonic::{Status, Streaming};

use super::PassListener;
use crate::telemetry::each_second;

/// BuildKit's status, until the stream ends or breaks off with an error.
pub(super) fn status_of(
    opening: impl Future<Output = Result<Streaming<StatusResponse>, Status>>,
) -> impl Stream<Item = Result<StatusResponse, Status>> {
    until_error(stream::once(opening).try_flatten())
}

/// A stream that ends with its first error: after a message that is too large, tonic reads the message's own bytes as the
/// heads of further messages, each of which is an error.
fn until_error<T>(messages: impl Stream<Item = Result<T, Status>>) -> impl Stream<Item = Result<T, Status>> {
    let read = messages.scan(false, |is_broken, message| {
        let message = (!*is_broken).then_some(message);
        *is_broken |= matches!(message, Some(Err(_)));
        ready(message)
    });
    read.fuse()
}

/// Passes on status.
pub(super) fn tell<F: PassListener>(listener: &mut F, answer: Result<StatusResponse, Status>) {
    match answer {
        Ok(response) => listener.report(response),
        Err(status) => listener.broke_off(status),
    }
}

/// Passes on the last status, such as the failed step's output, which comes after the solve's answer. BuildKit may not
/// take longer than `within` to send the next.
pub(super) async fn last_status<F: PassListener>(
    listener: &mut F,
    mut told: Pin<&mut (impl Stream<Item = Result<StatusResponse, Status>> + Send)>,
    within: Duration,
) {
    loop {
        match tokio::time::timeout(within, told.next()).await {
            Ok(Some(answer)) => tell(listener, answer),
            Ok(None) => break,
            Err(_) => {
                each_second!(warn, "BuildKit did not end its status after the build");
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_read_after_an_error() {
        let broken = || Err(Status::internal("invalid compression flag: 120"));
        let messages = stream::iter([Ok(1), broken(), broken(), Ok(2)]).chain(stream::pending());
        let read: Vec<_> = until_error(messages).map(|message| message.is_ok()).collect().await;
        assert_eq!(read, [true, false]);
    }
}
