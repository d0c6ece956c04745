//! `--metadata-file`: the metadata of the built or pushed image, under buildx's keys and two keys of Wharf's own.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::json;
use crate::{
    client::{args::BuildArgs, checkouts::Checkouts, exit::Failure, files::Target, options::given},
    names::{Reference, reference::Digest},
};

/// The files of a build for the metadata of its image.
pub(super) struct Reports {
    pub(super) id: Option<Target>,
    pub(super) metadata: Option<Target>,
}

impl Reports {
    /// Those that the flags name.
    pub(super) fn prepare(args: &BuildArgs, checkouts: &Checkouts) -> Result<Self, Failure> {
        let prepare = |path: &Option<PathBuf>| {
            given(path.as_deref()).map(|path| Target::prepare(path, checkouts)).transpose()
        };
        Ok(Self { id: prepare(&args.iidfile)?, metadata: prepare(&args.metadata_file)? })
    }
}

/// Metadata of an image; empty fields are left out.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    /// The id by which other commands find the image.
    pub(super) id: &'a str,
    pub(super) config_digest: &'a str,
    pub(super) descriptor: &'a str,
    pub(super) digest: &'a str,
    pub(super) names: &'a [String],
    /// The first pushed name, in full, and its digest at the registry.
    pub(super) pushed: Option<(&'a str, &'a str)>,
}

impl Metadata<'_> {
    pub(super) fn write(&self, target: &Target) -> Result<(), Failure> {
        write(&self.to_json(), target)
    }

    fn to_json(&self) -> Value {
        let text = |value: &str| (!value.is_empty()).then(|| Value::from(value));
        let fields = [
            ("containerimage.config.digest", text(self.config_digest)),
            ("containerimage.descriptor", serde_json::from_str(self.descriptor).ok()),
            ("containerimage.digest", text(self.digest)),
            ("image.name", text(&self.names.join(","))),
            ("wharf.image.id", text(self.id)),
            ("wharf.image.ref", text(&self.reference())),
        ];
        fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// The name that keeps meaning this image, whatever is built later: the pushed name with its digest; else
    /// its first name, or its id.
    fn reference(&self) -> String {
        let pinned = |(name, digest): (&str, &str)| {
            Some(Reference::parse(name).ok()?.at(&Digest::parse(digest)?).to_string())
        };
        self.pushed
            .and_then(pinned)
            .or_else(|| self.names.first().cloned())
            .unwrap_or_else(|| self.config_digest.to_owned())
    }
}

/// Writes the metadata of several images, as a list.
pub(super) fn write_list(images: &[Metadata<'_>], target: &Target) -> Result<(), Failure> {
    write(&images.iter().map(Metadata::to_json).collect(), target)
}

fn write(metadata: &Value, target: &Target) -> Result<(), Failure> {
    let mut text = json::indented(&metadata.to_string(), "  ")?;
    text.push('\n');
    target.write(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_buildxs_and_two_of_ours() {
        let names = ["docker.io/library/app:1".to_owned(), "reg.example/app:1".to_owned()];
        let metadata = Metadata {
            id: "sha256:i",
            config_digest: "sha256:c",
            descriptor: r#"{"digest":"sha256:d","size":1}"#,
            digest: "sha256:d",
            names: &names,
            pushed: None,
        };
        assert_eq!(
            metadata.to_json().to_string(),
            r#"{"containerimage.config.digest":"sha256:c","containerimage.descriptor":{"digest":"sha256:d","size":1},"containerimage.digest":"sha256:d","image.name":"docker.io/library/app:1,reg.example/app:1","wharf.image.id":"sha256:i","wharf.image.ref":"docker.io/library/app:1"}"#
        );
        let digest = format!("sha256:{}", "d".repeat(64));
        let pushed = Metadata { pushed: Some(("reg.example:5000/app:1", &digest)), ..metadata };
        assert_eq!(pushed.reference(), format!("reg.example:5000/app@{digest}"));
        let nameless = Metadata { config_digest: "sha256:c", ..Metadata::default() };
        assert_eq!(nameless.reference(), "sha256:c");
        assert_eq!(Metadata::default().to_json().to_string(), "{}");
    }
}
