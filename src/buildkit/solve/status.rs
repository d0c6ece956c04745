//! BuildKit's status of a pass on its way to the listener.

use std::{pin::Pin, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::PassListener;
use crate::telemetry::each_second;

/// BuildKit's status, until the stream ends or breaks off with an error.
pub(super) fn status_of(
    opening: impl Future<Output = Result<Streaming<StatusResponse>, Status>>,
) -> impl Stream<Item = Result<StatusResponse, Status>> {
    stream::once(opening).try_flatten().fuse()
}

/// Passes on status, until the pass is being stopped.
pub(super) async fn tell<F: PassListener>(
    listener: &mut F,
    answer: Result<StatusResponse, Status>,
    stopping: &CancellationToken,
) {
    let telling = async {
        match answer {
            Ok(response) => listener.report(response).await,
            Err(status) => listener.broke_off(status).await,
        }
    };
    // A reader that takes its time does not delay a stop.
    let _ = stopping.run_until_cancelled(telling).await;
}

/// Passes on the last status, such as the failed step's output, which comes after the solve's answer. The
/// reader may take as long as it likes to read them; BuildKit may not take longer than `within` to send the
/// next.
pub(super) async fn last_status<F: PassListener>(
    listener: &mut F,
    mut told: Pin<&mut (impl Stream<Item = Result<StatusResponse, Status>> + Send)>,
    within: Duration,
    stopping: &CancellationToken,
) {
    loop {
        match tokio::time::timeout(within, told.next()).await {
            Ok(Some(answer)) => tell(listener, answer, stopping).await,
            Ok(None) => break,
            Err(_) => {
                each_second!(warn, "BuildKit did not end its status after the build");
                break;
            }
        }
    }
}
