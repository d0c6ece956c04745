//! Finds and reads the Dockerfile and the ignore files.
//!
//! The files are offered to BuildKit as plain files: if BuildKit cannot read an ignore file, it continues
//! without one, and the build would get everything that the file excludes.

use std::{
    ffi::OsStr,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::{
    resolve::{Resolved, resolve},
    source::{DOCKERFILE, DOCKERFILE_BYTES_MAX, SourceError},
};

/// The name of a context's ignore file. A Dockerfile may have its own, with this as a suffix.
pub(crate) const IGNORE: &str = ".dockerignore";

/// A Dockerfile and the ignore file beside it, if there is one.
pub(crate) struct Dockerfile {
    /// The directory that holds it, without symlinks.
    pub(crate) directory: PathBuf,
    /// The Dockerfile's name in that directory, even if the name is a link.
    pub(crate) name: String,
    pub(crate) text: Bytes,
    pub(crate) ignore: Option<Bytes>,
}

impl Dockerfile {
    /// Reads `file`. No link inside `context` or `workspace` may lead out of it, and if the Dockerfile
    /// itself is a link, it must point into the context or its own directory.
    pub(crate) fn read(file: &Path, context: &Path, workspace: Option<&Path>) -> Result<Self, SourceError> {
        let not_read = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::NotFound => SourceError::DockerfileNotFound(path),
                _ => SourceError::Dockerfile { path, source },
            }
        };
        let Some(name) = file.file_name() else {
            return Err(SourceError::DockerfileNotAFile(file.to_owned()));
        };
        let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = resolve(beside).map_err(not_read(file))?;
        for (area, called) in [(Some(context), "the build context"), (workspace, "the workspace")] {
            stay(&directory, area, called)?;
        }
        let directory = directory.real;
        let name = match fs::symlink_metadata(directory.join(name)) {
            // BuildKit also accepts `dockerfile` if there is no `Dockerfile`.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name == DOCKERFILE => {
                let lower = directory.join("dockerfile");
                if lower.symlink_metadata().is_ok() { OsStr::new("dockerfile") } else { name }
            }
            _ => name,
        };
        let file = beside.join(name);
        let found = resolve(&directory.join(name)).map_err(not_read(&file))?;
        stay_in_either(&file, &found, context, &directory)?;
        let text = match open(&found.real) {
            Ok((opened, metadata)) if metadata.is_file() => {
                let bytes = read(&opened).map_err(not_read(&file))?;
                bytes.ok_or_else(|| SourceError::TooLarge(file.clone()))?
            }
            Ok(_) => return Err(SourceError::DockerfileNotAFile(file)),
            Err(error) => return Err(not_read(&file)(error)),
        };
        let name = name.to_str().ok_or_else(|| SourceError::NotUtf8(file.clone()))?.to_owned();
        let ignore = ignore(beside, &directory, &format!("{name}{IGNORE}"), context)?;
        Ok(Self { directory, name, text, ignore })
    }
}

/// Reads the ignore file `name` of `directory`, if it exists. Errors name the directory as `told`, as the
/// user typed it.
pub(crate) fn ignore(
    told: &Path,
    directory: &Path,
    name: &str,
    context: &Path,
) -> Result<Option<Bytes>, SourceError> {
    let path = directory.join(name);
    let told = told.join(name);
    let not_read = |source| SourceError::Ignore { path: told.clone(), source };
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(not_read(error)),
        Ok(_) => {}
    }
    let found = resolve(&path).map_err(not_read)?;
    stay_in_either(&told, &found, context, directory)?;
    match open(&found.real) {
        Ok((opened, metadata)) if metadata.is_file() => {
            let bytes = read(&opened).map_err(not_read)?;
            bytes.ok_or_else(|| SourceError::TooLarge(told.clone())).map(Some)
        }
        Ok(_) => Err(SourceError::IgnoreNotAFile(told)),
        Err(error) => Err(not_read(error)),
    }
}

/// Fails if a link inside `area` leads out of it.
pub(crate) fn stay(found: &Resolved, area: Option<&Path>, called: &'static str) -> Result<(), SourceError> {
    match area.and_then(|area| found.leaves(area)) {
        Some(link) => {
            Err(SourceError::LeadsOut { link: link.to_owned(), of: called, target: found.real.clone() })
        }
        None => Ok(()),
    }
}

fn stay_in_either(
    told: &Path,
    found: &Resolved,
    context: &Path,
    directory: &Path,
) -> Result<(), SourceError> {
    if found.real.starts_with(context) || found.real.starts_with(directory) {
        return Ok(());
    }
    Err(SourceError::LeadsOut { link: told.to_owned(), of: "the build context", target: found.real.clone() })
}

/// Opens a file of any type, without blocking on a pipe or following a link.
fn open(path: &Path) -> io::Result<(fs::File, Metadata)> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// The file's bytes; `None` if there are too many.
fn read(file: &fs::File) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    file.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= DOCKERFILE_BYTES_MAX).then(|| bytes.into()))
}
