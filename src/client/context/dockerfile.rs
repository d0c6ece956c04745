//! The Dockerfile and the ignore files, as the command line and the repository name them.
//!
//! They are read here and offered as plain files: BuildKit takes an ignore file that it cannot read
//! for none, and would build with all that it leaves out.

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

/// What a context's ignore file is called, unless one is the Dockerfile's own.
pub(crate) const IGNORE: &str = ".dockerignore";

/// A Dockerfile, and the ignore file of its own that lies beside it.
pub(crate) struct Dockerfile {
    /// The directory that holds it, without symlinks.
    pub(crate) directory: PathBuf,
    /// As it was named there, be it a link.
    pub(crate) name: String,
    pub(crate) text: Bytes,
    pub(crate) ignore: Option<Bytes>,
}

impl Dockerfile {
    /// Reads `file`. None of the links that lie in `context` or in `workspace` may lead out of it,
    /// and the Dockerfile itself, if it is a link, has to stay in the context or its own directory.
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
            // `dockerfile` does as well, as long as there is no `Dockerfile`.
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

/// Reads the ignore file `name` of `directory`, which was named `told`; none if it is not there.
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

/// Refuses what a link that lies in `area` leads to, if that is outside.
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

/// Opens whatever stands there, which must neither block nor be followed.
fn open(path: &Path) -> io::Result<(fs::File, Metadata)> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// The file's bytes; none if there are too many.
fn read(file: &fs::File) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    file.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= DOCKERFILE_BYTES_MAX).then(|| bytes.into()))
}
