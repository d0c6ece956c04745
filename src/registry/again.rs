//! When the same request is sent again to a registry that fails.

use std::time::Duration;

use tokio::time::sleep;

/// How often a request is sent, with the first time.
const TRIES_MAX: u32 = 3;
/// The wait before the second time; before the third it is twice as long.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Counts how often a request has failed.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Counts a failure of the registry's own. Whether the request is to be sent again: then some time has passed.
    pub(super) async fn again(&mut self) -> bool {
        self.0 += 1;
        let again = self.0 < TRIES_MAX;
        if again {
            sleep(TRY_AGAIN_AFTER * self.0).await;
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_request_is_sent_three_times_with_growing_pauses() {
        let (mut tries, begun) = (Tries::default(), Instant::now());
        assert!(tries.again().await && tries.again().await && !tries.again().await);
        assert!(begun.elapsed() >= TRY_AGAIN_AFTER * 3);
    }
}
