//! The parts of a base image that a Dockerfile inherits.

use bollard::models::ImageInspect;

/// The parts of an image's configuration that BuildKit's frontend reads or copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The instructions of its ONBUILD triggers.
    pub triggers: Vec<String>,
    /// The size of each variable's value.
    pub environment: Vec<(String, Size)>,
    /// The number of bytes of its other settings.
    pub settings: u64,
    /// The number of bytes of its history. The engine tells it apart from the rest: 0 as long as nobody has asked.
    pub history: u64,
}

/// The size of a text, as far as a Dockerfile's cost depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The number of its bytes.
    pub bytes: u64,
    /// The number of its dashes, each of which may make a range of ports.
    pub dashes: u64,
}

impl Size {
    /// The size of `text`.
    pub fn of(text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let dashes = text.iter().filter(|byte| **byte == b'-').count();
        Self { bytes: text.len() as u64, dashes: dashes as u64 }
    }

    /// The larger of both in each respect.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), dashes: self.dashes.max(other.dashes) }
    }
}

impl Inherited {
    /// The parts of an image as the engine describes it.
    pub(super) fn of(image: &ImageInspect) -> Self {
        let Some(config) = &image.config else { return Self::default() };
        let environment = config.env.iter().flatten().map(|variable| {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            (name.to_owned(), Size::of(value))
        });
        let lists = [&config.shell, &config.cmd, &config.entrypoint];
        let texts = lists.into_iter().flatten().flatten().chain(&config.working_dir).chain(&config.user);
        Self {
            triggers: config.on_build.clone().unwrap_or_default(),
            environment: environment.collect(),
            settings: texts.map(|text| text.len() as u64).sum(),
            history: 0,
        }
    }
}
