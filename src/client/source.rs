//! Seam until the context lands.
use std::path::Path;

use crate::{
    client::{env::Env, exit::Failure},
    wire::v1::LocalDirectory,
};

/// Tar.
pub(crate) type Tar = Box<dyn tokio::io::AsyncRead + Send + Unpin>;

/// Source.
#[derive(Debug)]
pub(crate) struct Source {
    dockerfile: String,
}

impl Source {
    /// Opens.
    pub(crate) async fn open(context: &Path, file: Option<&Path>, _: &Env) -> Result<Self, Failure> {
        if !context.is_dir() {
            return Err(Failure::usage(format!("{}: no such directory", context.display())));
        }
        Ok(Self { dockerfile: file.map(|file| file.display().to_string()).unwrap_or_default() })
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
        Vec::new()
    }
}
