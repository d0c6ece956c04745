//! Seam until the context lands.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    client::{context::Tree, env::Env, exit::Failure},
    wire::v1::LocalDirectory,
};

/// Tar.
pub(crate) type Tar = Box<dyn tokio::io::AsyncRead + Send + Unpin>;

/// Source.
#[derive(Debug)]
pub(crate) struct Source {
    context: PathBuf,
    dockerfile: String,
}

impl Source {
    /// Opens.
    pub(crate) async fn open(context: &Path, file: Option<&Path>, _: &Env) -> Result<Self, Failure> {
        if !context.is_dir() {
            return Err(Failure::usage(format!("{}: no such directory", context.display())));
        }
        Ok(Self {
            context: context.into(),
            dockerfile: file.map(|file| file.display().to_string()).unwrap_or_default(),
        })
    }
    /// Dockerfile.
    pub(crate) fn dockerfile(&self) -> &str {
        &self.dockerfile
    }
    /// Tar.
    pub(crate) fn take_tar(&mut self) -> Option<Tar> {
        None
    }
    /// Directories.
    pub(crate) fn directories(&self) -> Vec<LocalDirectory> {
        ["context", "dockerfile"]
            .map(|name| LocalDirectory { name: name.to_owned(), path: self.context.display().to_string() })
            .to_vec()
    }
    /// Tree.
    pub(crate) fn tree(&self, _: &str) -> Option<Arc<Tree>> {
        Some(Arc::new(Tree::directory(self.context.clone())))
    }
}
