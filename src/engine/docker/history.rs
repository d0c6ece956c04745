//! The length of an image's history. A job chooses it, so it is counted and not kept.

use std::fmt;

use bollard::errors::Error;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use serde::Deserialize;
use tokio::time::timeout;

use super::listing::Elements;
use crate::{
    engine::{ANSWER_TIMEOUT, docker::lines::Lines},
    go_json::zero,
};

/// The bytes that BuildKit keeps for each entry, apart from its texts.
const ENTRY_BYTES: u64 = 80;

/// An entry of the history. It also contains the names of the image, which do not count: other jobs give
/// them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    #[serde(deserialize_with = "zero")]
    created_by: String,
    #[serde(deserialize_with = "zero")]
    comment: String,
}

impl Entry {
    fn bytes(&self) -> u64 {
        ENTRY_BYTES + (self.created_by.len() + self.comment.len()) as u64
    }
}

impl Lines {
    /// The number of bytes of an image's history, as the engine reports it in this version of the API.
    pub(in crate::engine) async fn history_bytes(
        &self,
        version: impl fmt::Display,
        image: &str,
    ) -> Result<u64, Error> {
        let counting = async {
            let request =
                Request::get(format!("/v{version}/images/{image}/history")).body(Empty::<Bytes>::new())?;
            let mut body = self.ask(request).await?.into_body();
            let (mut elements, mut entries, mut count) = (Elements::default(), Vec::<Entry>::new(), 0);
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    elements.read(&data, &mut entries)?;
                    count += entries.drain(..).map(|entry| entry.bytes()).sum::<u64>();
                }
            }
            Ok(count)
        };
        timeout(ANSWER_TIMEOUT, counting).await.map_err(|_| Error::RequestTimeoutError)?
    }
}

/// For `fuzz/`: the number of bytes of a history that comes in these pieces.
#[cfg(feature = "fuzzing")]
pub(super) fn bytes_of<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> serde_json::Result<u64> {
    let (mut elements, mut entries) = (Elements::default(), Vec::<Entry>::new());
    pieces.try_for_each(|piece| elements.read(piece, &mut entries))?;
    Ok(entries.iter().map(Entry::bytes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_names_are_no_part_of_it() {
        let text = r#"[{"Id":"sha256:1","Created":1,"CreatedBy":"RUN a","Tags":["wharf.invalid/a/b:1"],"Size":9,"Comment":null},
            {"Id":"<missing>","CreatedBy":"","Tags":null,"Comment":"made"}]"#;
        let mut entries = Vec::<Entry>::new();
        Elements::default().read(text.as_bytes(), &mut entries).unwrap();
        let bytes: Vec<_> = entries.iter().map(Entry::bytes).collect();
        assert_eq!(bytes, [ENTRY_BYTES + 5, ENTRY_BYTES + 4]);
    }
}
