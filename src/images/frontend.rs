//! BuildKit's own Dockerfile frontend in a container: a program that wharfd loads into the engine as an
//! image. Inside the engine's process, a Dockerfile that crashes the frontend would crash the engine and end
//! every build of the node.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use super::Images;
use crate::{
    engine::{Platform, docker::fault},
    fault::{Fault, Reason, causes},
    names::reference::Digest,
    naming::{ImageName, Room},
    telemetry::each_second,
};

/// The program's path in its image.
const PROGRAM: &str = "frontend";
/// The labels that BuildKit reads from a frontend's image before it starts the frontend: no network, and its
/// capabilities.
const LABELS: [(&str, &str); 2] = [
    ("moby.buildkit.frontend.network.none", "true"),
    (
        "moby.buildkit.frontend.caps",
        "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts",
    ),
];
/// A larger program is certainly another file.
const PROGRAM_BYTES_MAX: usize = 256 << 20;

/// An error about the frontend's end, if `status` means that it ended without an answer: at its limits, or by
/// a fault that would have ended the engine. For a frontend, BuildKit's error contains only the exit code;
/// for a step, it contains the command too. Older BuildKits have a race (`gateway.go`): they cancel the call
/// when the frontend's pipe closes, and answer with whichever error comes first. So the caller must not have
/// cancelled anything.
pub(crate) fn own_end(status: &Status) -> Option<Status> {
    let exit_code = status.message().strip_prefix("exit code: ");
    let is_cancelled = status.code() == Code::Cancelled && status.source().is_none();
    let is_closed = status.message() == "frontend grpc server closed unexpectedly";
    if exit_code.is_none() && !is_cancelled && !is_closed {
        return None;
    }
    let code = exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
    Some(Status::unknown(format!(
        "the Dockerfile cannot be read: it exceeds the memory or time of BuildKit's Dockerfile frontend, or \
         crashes it{code}"
    )))
}

/// The newest minor version of `docker/dockerfile` that the program is known to support.
const SYNTAX_MINOR: u32 = 20;

/// The minor version of `docker/dockerfile` that is a BuildKit's own frontend: 1.7 in 0.13, 1.20 in 0.26.
fn syntax_of(buildkit: (u32, u32)) -> Option<u32> {
    let (major, minor) = buildkit;
    minor.checked_sub(6).filter(|_| major == 0)
}

/// Whether `docker/dockerfile:1.MINOR` has everything that a `# syntax=` asks for. A version without a minor
/// number is the newest, and asks for no more than this wharfd knows.
fn is_syntax(image: &str, minor: u32) -> bool {
    let image = image.split('@').next().unwrap_or_default();
    let version = image.strip_prefix("docker.io/").unwrap_or(image).strip_prefix("docker/dockerfile");
    match version.map(|version| version.strip_prefix(':').unwrap_or(version)) {
        Some("" | "1" | "latest") => minor >= SYNTAX_MINOR,
        Some(version) => version
            .strip_prefix("1.")
            .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok())
            .is_some_and(|asked| asked <= minor && !version.contains('-')),
        None => false,
    }
}

/// The fault of a program that cannot be read.
pub fn unreadable(program: &Path, error: io::Error) -> Fault {
    let text = format!("cannot read the Dockerfile frontend {}", program.display());
    Fault::new(Reason::EngineLacks, text).caused_by(error)
}

/// A frontend in an engine.
#[derive(Clone, Debug)]
pub(super) struct Frontend {
    program: PathBuf,
    /// The image's name in the engine.
    name: ImageName,
}

impl Images {
    /// From now on, reads Dockerfiles in a container of `program`, and removes earlier frontends. Called
    /// before the engine is used.
    pub async fn bring_frontend(&self, program: PathBuf) -> Result<(), Fault> {
        let image = self.read_frontend(program.clone()).await?;
        let frontend = Frontend { program, name: self.keys().frontend(&image.content) };
        if self.engine().image_store().inspect(&frontend.name).await?.is_none() {
            self.load_frontend(&frontend.name, &image).await?;
        }
        tracing::info!(
            engine = %self.engine().name(),
            image = %frontend.name,
            program = %frontend.program.display(),
            "Dockerfiles are read in a container"
        );
        self.remove_frontends(Some(&frontend.name)).await?;
        let _ = self.found.frontend.set(frontend);
        Ok(())
    }

    /// Removes this wharfd's frontends except the one called `but`.
    pub async fn remove_frontends(&self, but: Option<&ImageName>) -> Result<(), Fault> {
        let images = self.listed().await?;
        for name in images.iter().flat_map(|image| &image.repo_tags) {
            if let Some((name, Room::Frontend)) = self.keys().own(name)
                && Some(&name) != but
                && let Err(fault) = self.engine().image_store().remove(&name).await
            {
                let cause = causes(&fault);
                tracing::warn!(engine = %self.engine().name(), %name, cause, "an old frontend stays");
            }
        }
        Ok(())
    }

    /// The name of the image that reads Dockerfiles; `None` if BuildKit reads them itself.
    pub(crate) fn frontend(&self) -> Option<&ImageName> {
        self.found.frontend.get().map(|frontend| &frontend.name)
    }

    /// Whether the frontend in use has everything that a `# syntax=` asks for.
    pub(crate) fn has_syntax(&self, image: &str) -> bool {
        let minor = match self.frontend() {
            Some(_) => Some(SYNTAX_MINOR),
            None => self.engine().buildkit().and_then(syntax_of),
        };
        minor.is_some_and(|minor| is_syntax(image, minor))
    }

    /// The name of the image that reads Dockerfiles, once the engine has the image: it may have been removed, and BuildKit would ask the network
    /// for its name.
    pub(crate) async fn hold_frontend(&self) -> Result<Option<ImageName>, Fault> {
        let Some(frontend) = self.found.frontend.get() else { return Ok(None) };
        if self.engine().image_store().inspect(&frontend.name).await?.is_none() {
            let _lock = self.inner.holds.lock(&frontend.name).await;
            if self.engine().image_store().inspect(&frontend.name).await?.is_none() {
                let engine = self.engine().name();
                each_second!(warn, %engine, "the frontend's image is gone: loading it again");
                let image = self.read_frontend(frontend.program.clone()).await?;
                if self.keys().frontend(&image.content) != frontend.name {
                    let text = format!("{} has changed since the start", frontend.program.display());
                    return Err(
                        Fault::new(Reason::EngineLacks, text).hint("the node's operator must restart wharfd")
                    );
                }
                self.load_frontend(&frontend.name, &image).await?;
            }
        }
        Ok(Some(frontend.name.clone()))
    }

    async fn read_frontend(&self, path: PathBuf) -> Result<Image, Fault> {
        let unreadable = |error: io::Error| unreadable(&path, error);
        let program = tokio::fs::read(&path).await.map_err(unreadable)?;
        if program.len() > PROGRAM_BYTES_MAX {
            return Err(unreadable(io::Error::other("it is too large")));
        }
        Image::of(&program, self.engine().platform()).map_err(unreadable)
    }

    async fn load_frontend(&self, name: &ImageName, image: &Image) -> Result<(), Fault> {
        let failed = |error| fault::unexpected("load the Dockerfile frontend", error);
        let archive = image.archive(name).map_err(|error| failed(error.into()))?;
        self.engine().image_store().load(archive).await.map_err(failed)?;
        match self.engine().image_store().inspect(name).await? {
            Some(_) => Ok(()),
            None => Err(Fault::new(Reason::EngineFailed, "the engine did not keep the Dockerfile frontend")),
        }
    }
}

/// An image that contains one program. The same program always gives the same image.
#[derive(Debug)]
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    /// The digest of the image's config, which contains the layer's digest.
    content: Digest,
}

impl Image {
    fn of(program: &[u8], platform: &Platform) -> io::Result<Self> {
        let mut layer = tar::Builder::new(Vec::with_capacity(program.len() + (4 << 10)));
        add(&mut layer, PROGRAM, 0o755, program)?;
        let layer = layer.into_inner()?;
        let labels: serde_json::Map<_, _> =
            LABELS.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let mut config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": { "Entrypoint": [format!("/{PROGRAM}")], "Labels": labels, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
        });
        if let (Some(variant), Some(fields)) = (&platform.variant, config.as_object_mut()) {
            fields.insert("variant".to_owned(), json!(variant));
        }
        let config = config.to_string().into_bytes();
        let content = Digest::parse(&format!("sha256:{}", hex(&config)))
            .ok_or_else(|| io::Error::other("not a digest"))?;
        Ok(Self { layer, config, content })
    }

    /// The archive that `docker save` would make of the image, with the name `name`.
    fn archive(&self, name: &ImageName) -> io::Result<Bytes> {
        let config = format!("{}.json", hex(&self.config));
        let layer = format!("{}/layer.tar", hex(&self.layer));
        let manifest =
            json!([{ "Config": config, "RepoTags": [name.as_str()], "Layers": [layer] }]).to_string();
        let mut archive = tar::Builder::new(Vec::with_capacity(self.layer.len() + (16 << 10)));
        add(&mut archive, &config, 0o644, &self.config)?;
        add(&mut archive, &layer, 0o644, &self.layer)?;
        add(&mut archive, "manifest.json", 0o644, manifest.as_bytes())?;
        archive.into_inner().map(Bytes::from)
    }
}

fn add(archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, content)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_that_the_frontend_has_needs_no_warning() {
        let newest = syntax_of((0, 33)).unwrap();
        for same in [
            "docker/dockerfile:1",
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1.7",
            "docker/dockerfile:1.7.1",
            "docker/dockerfile:1.7@sha256:00",
        ] {
            assert!(is_syntax(same, SYNTAX_MINOR) && is_syntax(same, newest), "{same}");
        }
        for other in [
            "docker/dockerfile:1.7-labs",
            "docker/dockerfile:1.999",
            "docker/dockerfilex",
            "evil/dockerfile:1",
            "evil@docker/dockerfile:1",
            "docker/dockerfile:2",
        ] {
            assert!(!is_syntax(other, SYNTAX_MINOR), "{other}");
        }
        let old = syntax_of((0, 13)).unwrap();
        assert!(is_syntax("docker/dockerfile:1.7", old));
        for newer in ["docker/dockerfile:1.8", "docker/dockerfile:1", "docker/dockerfile"] {
            assert!(!is_syntax(newer, old), "{newer}");
        }
        assert_eq!((syntax_of((0, 5)), syntax_of((1, 13))), (None, None));
    }

    #[test]
    fn the_programs_own_end_is_told_as_the_dockerfiles_fault() {
        let told = own_end(&Status::unknown("exit code: 2")).unwrap();
        assert!(told.message().ends_with("(exit code 2)"), "{told}");
        let told = own_end(&Status::cancelled("context canceled")).unwrap();
        assert!(told.message().ends_with("or crashes it"), "{told}");
        assert!(own_end(&Status::unknown("frontend grpc server closed unexpectedly")).is_some());
        let step = Status::unknown("process \"/bin/sh\" did not complete successfully: exit code: 2");
        assert!(own_end(&step).is_none());
        assert!(own_end(&Status::from_error(Box::new(io::Error::other("cut")))).is_none());
    }

    #[test]
    fn the_same_program_gives_the_same_image_and_another_one_another() {
        let platform = |architecture: &str| Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        };
        let image = |program: &[u8], architecture| Image::of(program, &platform(architecture)).unwrap();
        let one = image(b"program", "amd64");
        assert_eq!(one.content, image(b"program", "amd64").content);
        let name = ImageName::any("a:1");
        assert_eq!(one.archive(&name).unwrap(), image(b"program", "amd64").archive(&name).unwrap());
        assert_ne!(one.content, image(b"other", "amd64").content);
        assert_ne!(one.content, image(b"program", "arm64").content);
        assert!(String::from_utf8(one.config).unwrap().contains("network.none\":\"true\""));
    }
}
