//! The platform of a graph's operations and of its image must be the engine's own.

use bollard_buildkit_proto::pb::Platform;

use super::{Gate, Refusal, refuse};
use crate::{
    engine::Engine,
    fault::{Fault, Reason},
    go_json::zero,
    names::{NormalPlatform, printable},
    registry::CONFIG_BYTES_MAX,
};

/// The hint for a platform that is not the engine's.
pub const PLATFORM_HINT: &str = "build for the engine's platform; in the Dockerfile, write `FROM --platform=$BUILDPLATFORM` for a stage that only \
     compiles";

/// The fault of a build for another platform than the engine's.
fn foreign_platform(asked: &str, own: &str) -> Fault {
    let text = format!("the platform `{}` is not the engine's, which is `{own}`", printable(asked));
    Fault::new(Reason::GraphDenied, text).hint(PLATFORM_HINT)
}

/// Judges the platforms that a build asks for.
pub fn own_platforms(engine: &Engine, asked: &[String]) -> Result<(), Fault> {
    let own = engine.platform().to_string();
    if let Some(foreign) = asked.iter().find(|platform| !platform.is_empty() && **platform != own) {
        return Err(foreign_platform(foreign, &own));
    }
    engine.image_store().check_platforms(asked)
}

impl Gate<'_> {
    /// Judges the config of the resulting image: `FROM --platform=… scratch` appears only there.
    pub(super) fn config(&self, json: &[u8]) -> Result<(), Refusal> {
        #[derive(serde::Deserialize)]
        struct Config {
            os: String,
            architecture: String,
            #[serde(default, deserialize_with = "zero")]
            variant: String,
        }
        // As of an image that is pulled.
        if json.len() > CONFIG_BYTES_MAX {
            let text = format!(
                "the image's config would be larger than {} MiB: its labels, variables and history are too long",
                CONFIG_BYTES_MAX >> 20
            );
            return Err(Fault::new(Reason::GraphDenied, text)
                .hint("put long texts into a file of the image")
                .into());
        }
        let Config { os, architecture, variant } =
            serde_json::from_slice(json).map_err(|_| refuse("the image's config cannot be read"))?;
        self.on_platform(Some(&Platform { os, architecture, variant, ..Platform::default() }))
    }

    pub(super) fn on_platform(&self, platform: Option<&Platform>) -> Result<(), Refusal> {
        let Some(platform) = platform else { return Ok(()) };
        let mut own = self.platform.split('/');
        let mut next = || own.next().unwrap_or_default();
        let own = NormalPlatform::of(next(), next(), next());
        let (os, variant) = (platform.os.as_str(), platform.variant.as_str());
        // An image that names no processor is for each.
        let architecture = Some(platform.architecture.as_str()).filter(|name| !name.is_empty());
        let asked = NormalPlatform::of(os, architecture.unwrap_or(&own.architecture), variant);
        // The variant may be omitted.
        let is_any =
            platform.variant.is_empty() && asked.os == own.os && asked.architecture == own.architecture;
        if is_any || asked.rank_on(&own).is_some() {
            return Ok(());
        }
        let name = asked.to_string();
        Err(foreign_platform(&name, self.platform).into())
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::{
        moby::buildkit::v1::frontend,
        pb::{Op, op},
    };

    use super::{
        super::tests::{exec, judge, judge_result, op},
        *,
    };

    #[test]
    fn an_image_for_another_platform_is_refused() {
        let judge = |config: &str| {
            let metadata = [("containerimage.config".to_owned(), config.as_bytes().to_vec())].into();
            judge_result(frontend::Result { metadata, ..frontend::Result::default() })
        };
        assert!(judge(r#"{"os":"linux","architecture":"amd64","rootfs":{}}"#).is_ok());
        assert!(judge(r#"{"os":"linux","architecture":"s390x"}"#).is_err());
        assert!(judge("{}").is_err());
    }

    #[test]
    fn another_platform_is_refused() {
        let on = |os: &str, architecture: &str, variant: &str| {
            let platform = Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
                ..Platform::default()
            };
            judge(&[Op { platform: Some(platform), ..op(op::Op::Exec(exec())) }])
        };
        for same in [("linux", "amd64", ""), ("Linux", "x86_64", ""), ("", "amd64", "v1"), ("linux", "", "")]
        {
            assert!(on(same.0, same.1, same.2).is_ok(), "{same:?}");
        }
        assert!(on("linux", "arm64", "").is_err());
        assert!(on("linux", "amd", "").is_err());
        assert!(on("linux", "amd64", "v3").is_err());
    }

    #[test]
    fn a_config_that_is_too_large_is_refused() {
        let judge = |label: usize| {
            let config = serde_json::json!({
                "os": "linux", "architecture": "amd64", "config": {"Labels": {"a": "x".repeat(label)}},
            });
            let metadata = [("containerimage.config".to_owned(), config.to_string().into_bytes())].into();
            judge_result(frontend::Result { metadata, ..frontend::Result::default() })
        };
        assert!(judge(CONFIG_BYTES_MAX / 2).is_ok());
        assert!(judge(CONFIG_BYTES_MAX).is_err());
    }
}
