//! The list of all images. wharfd keeps only the parts that it needs. Jobs choose their images' labels, so
//! the whole list may be larger than wharfd's memory.

use std::fmt;

use bollard::errors::Error;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    engine::{ANSWER_TIMEOUT, docker::lines::Lines},
    go_json::zero,
};

/// An image in the list.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Listed {
    /// Its id.
    #[serde(deserialize_with = "zero")]
    pub(crate) id: String,
    /// Its names with a tag.
    #[serde(deserialize_with = "zero")]
    pub(crate) repo_tags: Vec<String>,
    /// Its names with a digest.
    #[serde(deserialize_with = "zero")]
    pub(crate) repo_digests: Vec<String>,
    /// When it was made, in seconds since 1970.
    #[serde(deserialize_with = "zero")]
    pub(crate) created: i64,
    /// Its size in bytes.
    #[serde(deserialize_with = "zero")]
    pub(crate) size: i64,
}

/// A container in the list, running or not.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListedContainer {
    /// The image's name, as the container's creator gave it.
    #[serde(deserialize_with = "zero")]
    pub(crate) image: String,
    /// The image's id.
    #[serde(rename = "ImageID", deserialize_with = "zero")]
    pub(crate) image_id: String,
}

impl Lines {
    /// All images, as the engine lists them in this version of the API.
    pub(in crate::engine) async fn images(&self, version: impl fmt::Display) -> Result<Vec<Listed>, Error> {
        self.list(format!("/v{version}/images/json")).await
    }

    /// All containers. They have their images' labels.
    pub(in crate::engine) async fn containers(
        &self,
        version: impl fmt::Display,
    ) -> Result<Vec<ListedContainer>, Error> {
        self.list(format!("/v{version}/containers/json?all=true")).await
    }

    async fn list<T: DeserializeOwned>(&self, path: String) -> Result<Vec<T>, Error> {
        let listing = async {
            let request = Request::get(path).body(Empty::<Bytes>::new())?;
            let mut body = self.ask(request).await?.into_body();
            let (mut elements, mut listed) = (Elements::default(), Vec::new());
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    elements.read(&data, &mut listed)?;
                }
            }
            Ok(listed)
        };
        timeout(ANSWER_TIMEOUT, listing).await.map_err(|_| Error::RequestTimeoutError)?
    }
}

/// The elements of a JSON array, as its bytes come.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// How many brackets are open.
    depth: u32,
    in_text: bool,
    is_escaped: bool,
    /// The bytes of the current element.
    element: Vec<u8>,
}

impl Elements {
    /// Reads more bytes and adds the elements that they complete to `listed`.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        bytes: &[u8],
        listed: &mut Vec<T>,
    ) -> serde_json::Result<()> {
        for byte in bytes {
            if self.in_text {
                self.in_text = self.is_escaped || *byte != b'"';
                self.is_escaped = !self.is_escaped && *byte == b'\\';
                self.element.push(*byte);
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth == 1 {
                        continue;
                    }
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth > 1 || (self.depth == 1 && *byte == b'}') {
                self.element.push(*byte);
            }
            if self.depth == 1 && *byte == b'}' {
                listed.push(serde_json::from_slice(&self.element)?);
                self.element.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, pieces: usize) -> serde_json::Result<Vec<Listed>> {
        let (mut elements, mut listed) = (Elements::default(), Vec::new());
        for piece in text.as_bytes().chunks(pieces) {
            elements.read(piece, &mut listed)?;
        }
        assert!(elements.element.is_empty());
        Ok(listed)
    }

    #[test]
    fn a_list_is_read_in_pieces() {
        let one = r#"{"Id":"sha256:1","RepoTags":["a:1","b:1"],"RepoDigests":null,"Created":7,"Size":9,"Labels":{"a":"}],\"\\","b":"{["}}"#;
        let two = r#"{"Id":"sha256:2","RepoTags":null,"Manifests":[{"Id":"x","Data":{"Size":1}}]}"#;
        let expected = [
            Listed {
                id: "sha256:1".to_owned(),
                repo_tags: vec!["a:1".to_owned(), "b:1".to_owned()],
                created: 7,
                size: 9,
                ..Listed::default()
            },
            Listed { id: "sha256:2".to_owned(), ..Listed::default() },
        ];
        for pieces in [1, 7, 4096] {
            assert_eq!(read(&format!("[{one}, {two}]\n"), pieces).unwrap(), expected);
            for none in ["[]", "[\n]\n", "null"] {
                assert_eq!(read(none, pieces).unwrap(), []);
            }
        }
        assert!(read(r#"[{"Id":7}]"#, 7).is_err());
    }
}
