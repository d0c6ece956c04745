//! Limits how long a client's stream may be silent, and how long it may last.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::Status;

/// A client that walks a large tree on a slow disk still sends something now and then.
const IDLE: Duration = Duration::from_secs(300);
/// A stream that lasts longer is not a context.
const WHOLE: Duration = Duration::from_secs(2 * 3600);

/// The patience with one stream of a client. It runs only while wharfd waits for the client, so the client
/// does not pay for a BuildKit that does not read.
#[derive(Debug)]
pub struct Patience {
    idle: Duration,
    whole: Duration,
    begun: Instant,
}

impl Patience {
    /// For a stream that begins now.
    pub fn begin() -> Self {
        Self::with(IDLE, WHOLE)
    }

    /// Tests have shorter limits.
    pub(crate) fn with(idle: Duration, whole: Duration) -> Self {
        Self { idle, whole, begun: Instant::now() }
    }

    /// The client's next message, or the reason why wharfd no longer waits for it.
    pub async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, Status> {
        let left = self.whole.saturating_sub(self.begun.elapsed());
        tokio::time::timeout(left.min(self.idle), next).await.map_err(|_| {
            Status::deadline_exceeded(if left < self.idle {
                format!("the client has not ended its stream within {}", minutes(self.whole))
            } else {
                format!("the client has sent nothing for {}", minutes(self.idle))
            })
        })
    }
}

/// A time for a message: `5 minutes`, `30 seconds`.
pub fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        convert::Infallible,
        future::{pending, ready},
    };

    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use prost::Message;
    use tonic::{Streaming, codec::Codec as _};
    use tonic_prost::ProstCodec;

    use super::*;

    /// Waits for `ends`, which a test expects to end by itself.
    pub(crate) async fn soon<T>(ends: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), ends).await.expect("it ends by itself")
    }

    /// The stream of a client that sends these messages, and then nothing more.
    pub(crate) fn silent_after<T: Message + Default + 'static>(messages: &[T]) -> Streaming<T> {
        let framed = messages.iter().map(|message| {
            let message = message.encode_to_vec();
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            Ok::<_, Infallible>(Frame::data(Bytes::from([&[0][..], &length, &message].concat())))
        });
        let framed: Vec<_> = framed.collect();
        let body = StreamBody::new(stream::iter(framed).chain(stream::pending()));
        Streaming::new_request(ProstCodec::<T, T>::default().decoder(), body, None, None)
    }

    pub(crate) const LONG: Duration = Duration::from_secs(3600);
    pub(crate) const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_is_silent_is_waited_for_so_long() {
        let patience = Patience::with(SHORT, LONG);
        assert_eq!(patience.wait(ready(1)).await.unwrap(), 1);
        let silent = patience.wait(pending::<()>()).await.unwrap_err();
        assert_eq!(silent.code(), tonic::Code::DeadlineExceeded);
        assert!(silent.message().contains("sent nothing"), "{silent}");
    }

    #[tokio::test]
    async fn who_never_ends_is_waited_for_so_long() {
        let patience = Patience::with(LONG, SHORT);
        let endless = loop {
            // A word shortly before each limit, for ever.
            let word = tokio::time::sleep(SHORT / 4);
            if let Err(status) = patience.wait(word).await {
                break status;
            }
        };
        assert!(endless.message().contains("has not ended"), "{endless}");
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        assert_eq!(minutes(IDLE), "5 minutes");
        assert_eq!(minutes(Duration::from_secs(30)), "30 seconds");
    }
}
