//! The directories that a repository controls, and the files that a command line names in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    dockerfile::stay,
    resolve::resolve,
    source::{STDIN, is_open_file},
};

/// The build context and the Jenkins workspace, as far as they exist, without symlinks.
#[derive(Debug, Default)]
pub(crate) struct Areas {
    context: Option<PathBuf>,
    workspace: Option<PathBuf>,
}

impl Areas {
    /// The areas of a build from `context` by a job with this `workspace`.
    pub(crate) fn of(context: &Path, workspace: Option<&Path>) -> Self {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let context = Some(context).filter(|context| context.as_os_str() != STDIN).and_then(real);
        Self { context, workspace: workspace.and_then(real) }
    }

    /// The real path of a file that the command line names. No link in an area may lead out of the area: a pull
    /// request could put it there, and would choose which of the agent's files the build gets.
    pub(crate) fn file(&self, path: &Path) -> io::Result<PathBuf> {
        if is_open_file(path) {
            return Ok(path.to_owned());
        }
        let found = resolve(path)?;
        let areas = [(&self.context, "the build context"), (&self.workspace, "the workspace")];
        for (area, called) in areas {
            stay(&found, area.as_deref(), called).map_err(io::Error::other)?;
        }
        Ok(found.real)
    }
}
