//! What a Dockerfile gets from the image on which it builds.

use bollard::models::ImageInspect;

/// The parts of an image's configuration that BuildKit's frontend reads or copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The instructions of its ONBUILD triggers.
    pub triggers: Vec<String>,
    /// The length of each variable's value.
    pub environment: Vec<(String, u64)>,
    /// The number of bytes of its other settings.
    pub settings: u64,
}

impl Inherited {
    /// Of an image as the engine describes it.
    pub(super) fn of(image: &ImageInspect) -> Self {
        let Some(config) = &image.config else { return Self::default() };
        let environment = config.env.iter().flatten().map(|variable| {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            (name.to_owned(), value.len() as u64)
        });
        let lists = [&config.shell, &config.cmd, &config.entrypoint];
        let texts = lists.into_iter().flatten().flatten().chain(&config.working_dir).chain(&config.user);
        Self {
            triggers: config.on_build.clone().unwrap_or_default(),
            environment: environment.collect(),
            settings: texts.map(|text| text.len() as u64).sum(),
        }
    }
}
