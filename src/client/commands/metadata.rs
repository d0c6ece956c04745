//! `--metadata-file`: what was built or pushed, under buildx's keys.

use std::path::Path;

use serde_json::{Map, Value};

use super::json;
use crate::client::{exit::Failure, files};

/// What is known about an image; what is empty is left out.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    pub(super) config_digest: &'a str,
    pub(super) descriptor: &'a str,
    pub(super) digest: &'a str,
    pub(super) names: &'a [String],
}

impl Metadata<'_> {
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = json::indented(&self.to_json().to_string(), "  ")?;
        text.push('\n');
        files::write(path, text.as_bytes())
    }

    fn to_json(&self) -> Value {
        let text = |value: &str| (!value.is_empty()).then(|| Value::from(value));
        let fields = [
            ("containerimage.config.digest", text(self.config_digest)),
            ("containerimage.descriptor", serde_json::from_str(self.descriptor).ok()),
            ("containerimage.digest", text(self.digest)),
            ("image.name", text(&self.names.join(","))),
        ];
        fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect::<Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_buildxs() {
        let names = ["docker.io/library/app:1".to_owned(), "reg.example/app:1".to_owned()];
        let metadata = Metadata {
            config_digest: "sha256:c",
            descriptor: r#"{"digest":"sha256:d","size":1}"#,
            digest: "sha256:d",
            names: &names,
        };
        assert_eq!(
            metadata.to_json().to_string(),
            r#"{"containerimage.config.digest":"sha256:c","containerimage.descriptor":{"digest":"sha256:d","size":1},"containerimage.digest":"sha256:d","image.name":"docker.io/library/app:1,reg.example/app:1"}"#
        );
        assert_eq!(Metadata::default().to_json().to_string(), "{}");
    }
}
