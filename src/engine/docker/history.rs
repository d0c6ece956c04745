//! The length of an image's history. A job chooses it, so it is counted and not kept.

use std::fmt;

use bollard::errors::Error;
use bytes::{Buf as _, Bytes};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use tokio::time::timeout;

use crate::engine::{ANSWER_TIMEOUT, docker::lines::Lines};

impl Lines {
    /// The number of bytes in which the engine tells the history of an image, in this version of the API. An entry
    /// that says nothing has some eighty, as many as BuildKit keeps of it.
    pub(in crate::engine) async fn history_bytes(
        &self,
        version: impl fmt::Display,
        image: &str,
    ) -> Result<u64, Error> {
        let counting = async {
            let request =
                Request::get(format!("/v{version}/images/{image}/history")).body(Empty::<Bytes>::new())?;
            let mut body = self.ask(request).await?.into_body();
            let mut count = 0;
            while let Some(frame) = body.frame().await {
                count += frame?.into_data().map_or(0, |data| data.remaining() as u64);
            }
            Ok(count)
        };
        timeout(ANSWER_TIMEOUT, counting).await.map_err(|_| Error::RequestTimeoutError)?
    }
}
