//! Waiting within a build that may be stopped.

use std::pin::Pin;

use crate::fault::Fault;

/// Awaits `future` unless the build is stopped.
pub(super) async fn unless_stopped<T>(
    stop: Pin<&mut (impl Future<Output = Fault> + Send)>,
    future: impl Future<Output = T>,
) -> Result<T, Fault> {
    tokio::select! {
        biased;
        fault = stop => Err(fault),
        output = future => Ok(output),
    }
}
