//! Interprets `wharf build PATH|-` and `-f FILE`: the directories that the session offers, or the tar to
//! send, and the Dockerfile's name in them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    task::JoinSet,
};

use super::{
    Tree, archive,
    dockerfile::{self, Dockerfile, IGNORE},
    resolve::resolve,
    state,
};
use crate::wire::v1::LocalDirectory;

/// A build context as a tar, possibly compressed.
pub type Tar = Box<dyn AsyncRead + Send + Unpin>;

/// The limit for a Dockerfile and an ignore file, which are held in memory. BuildKit itself reads no file
/// this large.
pub(super) const DOCKERFILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The Dockerfile's name unless `-f` gives another one.
pub(super) const DOCKERFILE: &str = "Dockerfile";

/// The path of a directory that is made from standard input. It never changes, so that the sync of the
/// context beside it can still reuse earlier files.
pub(super) const STDIN: &str = "-";

/// A build's files. Only the Dockerfile and the ignore file have been read.
pub struct BuildFiles {
    dockerfile: String,
    text: Bytes,
    directories: Vec<Directory>,
    tar: Option<Tar>,
}

struct Directory {
    name: &'static str,
    path: String,
    /// Empty if all files are in memory: such files have no times of their own.
    state: String,
    tree: Arc<Tree>,
}

/// The reason why the build has no files.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// PATH does not exist.
    #[error("unable to prepare context: path {0:?} not found")]
    ContextNotFound(PathBuf),
    /// PATH is a file.
    #[error("unable to prepare context: {0:?} is not a directory")]
    ContextNotADirectory(PathBuf),
    /// PATH is a URL.
    #[error("unable to prepare context: {0} is a URL; fetch or clone it and name the directory")]
    ContextRemote(String),
    /// PATH cannot be read.
    #[error("unable to prepare context: {path:?}: {source}")]
    Context {
        /// The path that cannot be read.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// PATH or FILE is not UTF-8, which the API requires.
    #[error("the path {0:?} is not UTF-8; build from a directory whose path is")]
    NotUtf8(PathBuf),
    /// There is no Dockerfile.
    #[error("failed to read dockerfile: {0:?} does not exist; name another one with -f")]
    DockerfileNotFound(PathBuf),
    /// The Dockerfile is a directory, a pipe or a device.
    #[error("failed to read dockerfile: {0:?} is not a file; name the Dockerfile itself with -f")]
    DockerfileNotAFile(PathBuf),
    /// The Dockerfile cannot be read.
    #[error("failed to read dockerfile: {path:?}: {source}")]
    Dockerfile {
        /// The path that cannot be read.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `.dockerignore` is a directory, a pipe or a device.
    #[error("failed to read {0:?}: it is not a file; replace it with one, or remove it")]
    IgnoreNotAFile(PathBuf),
    /// `.dockerignore` exists but cannot be read. Without it, the build would get too much.
    #[error("failed to read {path:?}: {source}; make it readable, or remove it")]
    Ignore {
        /// The path that cannot be read.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A link in the repository leads out of it, to files that the repository must not choose.
    #[error(
        "{link:?} is a link that leads out of {of}, to {target:?}, and is not followed; \
         replace it with the file or directory itself, or name that on the command line"
    )]
    LeadsOut {
        /// The link.
        link: PathBuf,
        /// The area that the link leaves.
        of: &'static str,
        /// The link's target.
        target: PathBuf,
    },
    /// The Dockerfile or the ignore file is too large, or endless.
    #[error("{0:?} is larger than {max} MiB", max = DOCKERFILE_BYTES_MAX >> 20)]
    TooLarge(PathBuf),
    /// `-f - -`.
    #[error("invalid argument: can't use stdin for both build context and dockerfile")]
    StdinTwice,
    /// `-f FILE -` with a Dockerfile on standard input.
    #[error(
        "ambiguous Dockerfile source: both stdin and -f name a Dockerfile; \
         leave out -f, or send a tar of the context on stdin"
    )]
    StdinAmbiguous,
    /// Standard input is empty.
    #[error("standard input is empty: expected {0}")]
    StdinEmpty(&'static str),
    /// Standard input is something else.
    #[error("standard input is neither a tar archive nor a Dockerfile")]
    StdinBinary,
    /// Standard input cannot be read.
    #[error("cannot read standard input: {0}")]
    Stdin(#[source] io::Error),
    /// The Dockerfile on standard input is too large, or endless.
    #[error("the Dockerfile on standard input is larger than {} MiB", DOCKERFILE_BYTES_MAX >> 20)]
    StdinTooLarge,
}

impl BuildFiles {
    /// Finds the files to build from. Paths inside the job's `workspace` are sent relative to it, so that a
    /// later run in another workspace counts as the same build.
    ///
    /// # Errors
    /// When the context or the Dockerfile does not exist or has the wrong type, or standard input is neither a
    /// tar nor a Dockerfile.
    pub async fn open(
        context: &Path,
        file: Option<&Path>,
        workspace: Option<&Path>,
        stdin: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Self, SourceError> {
        let is_stdin = |path: &Path| path.as_os_str() == STDIN;
        let workspace = workspace.and_then(|workspace| fs::canonicalize(workspace).ok());
        let workspace = workspace.as_deref();
        match (is_stdin(context), file) {
            (true, Some(file)) if is_stdin(file) => Err(SourceError::StdinTwice),
            (true, file) => Self::from_stdin(file, stdin).await,
            (false, Some(file)) if is_stdin(file) || is_open_file(file) => {
                let root = context_root(context, workspace)?;
                let bytes = match is_stdin(file) {
                    true => dockerfile_from(Vec::new(), stdin).await?,
                    false => open_file(file).await?,
                };
                let ignore = dockerfile::ignore(context, &root, IGNORE, &root)?;
                let context = context_directory(root, ignore, None, workspace).await?;
                Ok(Self::with_dockerfile(context, bytes))
            }
            (false, file) => {
                let root = context_root(context, workspace)?;
                let file = file.map_or_else(|| context.join(DOCKERFILE), Path::to_owned);
                let Dockerfile { directory, name, text, ignore } = Dockerfile::read(&file, &root, workspace)?;
                // If the Dockerfile has an ignore file of its own, BuildKit reads no other.
                let general = match ignore {
                    Some(_) => None,
                    None => dockerfile::ignore(context, &root, IGNORE, &root)?,
                };
                let named = ignore.clone().map(|bytes| (format!("{name}{IGNORE}"), bytes));
                let tree = Tree::files([(name.clone(), text.clone())].into_iter().chain(named));
                let path = told_path(&directory, workspace)?;
                let dockerfile =
                    Directory { name: "dockerfile", path, state: String::new(), tree: Arc::new(tree) };
                let context = context_directory(root, general, ignore, workspace).await?;
                Ok(Self { dockerfile: name, text, directories: vec![context, dockerfile], tar: None })
            }
        }
    }

    async fn from_stdin(
        file: Option<&Path>,
        mut stdin: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Self, SourceError> {
        let mut head = Vec::with_capacity(archive::HEAD_BYTES);
        let limit = archive::HEAD_BYTES as u64;
        (&mut stdin).take(limit).read_to_end(&mut head).await.map_err(SourceError::Stdin)?;
        if archive::is_archive(&head) {
            let name = file.unwrap_or(Path::new(DOCKERFILE));
            let dockerfile = name.to_str().ok_or_else(|| SourceError::NotUtf8(name.to_owned()))?.to_owned();
            let tar: Tar = Box::new(io::Cursor::new(head).chain(stdin));
            return Ok(Self { dockerfile, text: Bytes::new(), directories: Vec::new(), tar: Some(tar) });
        }
        if head.is_empty() {
            return Err(SourceError::StdinEmpty("a Dockerfile, or a tar of the context"));
        }
        if head.contains(&0) {
            return Err(SourceError::StdinBinary);
        }
        if file.is_some() {
            return Err(SourceError::StdinAmbiguous);
        }
        let bytes = dockerfile_from(head, stdin).await?;
        let context = Directory {
            name: "context",
            path: STDIN.into(),
            state: String::new(),
            tree: Arc::new(Tree::empty()),
        };
        Ok(Self::with_dockerfile(context, bytes))
    }

    fn with_dockerfile(context: Directory, bytes: Vec<u8>) -> Self {
        let text = Bytes::from(bytes);
        let tree = Arc::new(Tree::files([(DOCKERFILE.to_owned(), text.clone())]));
        let dockerfile = Directory { name: "dockerfile", path: STDIN.into(), state: String::new(), tree };
        Self { dockerfile: DOCKERFILE.into(), text, directories: vec![context, dockerfile], tar: None }
    }

    /// The Dockerfile's name in its directory or in the tar.
    pub fn dockerfile(&self) -> &str {
        &self.dockerfile
    }

    /// The Dockerfile's text; empty if it is in the tar.
    pub fn dockerfile_text(&self) -> &[u8] {
        &self.text
    }

    /// The directories to offer in the session; none if a tar is sent.
    pub fn directories(&self) -> Vec<LocalDirectory> {
        let directory = |directory: &Directory| LocalDirectory {
            name: directory.name.into(),
            path: directory.path.clone(),
            state: directory.state.clone(),
        };
        self.directories.iter().map(directory).collect()
    }

    /// The offered directory of this name, if there is one.
    pub fn tree(&self, name: &str) -> Option<Arc<Tree>> {
        self.directories
            .iter()
            .find(|directory| directory.name == name)
            .map(|directory| directory.tree.clone())
    }

    /// The tar to send; `None` after the first call.
    pub fn take_tar(&mut self) -> Option<Tar> {
        self.tar.take()
    }
}

impl fmt::Debug for BuildFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildFiles")
            .field("dockerfile", &self.dockerfile)
            .field("directories", &self.directories())
            .field("tar", &self.tar.is_some())
            .finish()
    }
}

/// Reads the rest of a Dockerfile from standard input, after `head`.
async fn dockerfile_from(
    mut head: Vec<u8>,
    stdin: impl AsyncRead + Send + Unpin,
) -> Result<Vec<u8>, SourceError> {
    stdin.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut head).await.map_err(SourceError::Stdin)?;
    if head.len() as u64 > DOCKERFILE_BYTES_MAX {
        return Err(SourceError::StdinTooLarge);
    }
    if head.iter().all(u8::is_ascii_whitespace) {
        return Err(SourceError::StdinEmpty("a Dockerfile"));
    }
    Ok(head)
}

/// Whether `file` is a name for a file that is already open, such as a shell's `<(…)`. Behind such a name is
/// often a pipe, which has no path. Only the command line can say it: links to it are not followed.
pub(super) fn is_open_file(file: &Path) -> bool {
    let number = ["/dev/fd", "/proc/self/fd"].iter().find_map(|dir| file.strip_prefix(dir).ok());
    let is_number = |number: &Path| number.to_str().is_some_and(|text| text.parse::<u32>().is_ok());
    file == Path::new("/dev/stdin") || number.is_some_and(is_number)
}

async fn open_file(file: &Path) -> Result<Vec<u8>, SourceError> {
    let not_read = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SourceError::DockerfileNotFound(file.to_owned()),
        _ => SourceError::Dockerfile { path: file.to_owned(), source },
    };
    let opened = tokio::fs::File::open(file).await.map_err(not_read)?;
    let mut bytes = Vec::new();
    opened.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(not_read)?;
    if bytes.len() as u64 > DOCKERFILE_BYTES_MAX {
        return Err(SourceError::TooLarge(file.to_owned()));
    }
    Ok(bytes)
}

/// The context's directory, free of symlinks. A link in the workspace must not lead out of it.
fn context_root(context: &Path, workspace: Option<&Path>) -> Result<PathBuf, SourceError> {
    match resolve(context) {
        Ok(root) if root.real.is_dir() => {
            dockerfile::stay(&root, workspace, "the workspace")?;
            Ok(root.real)
        }
        Ok(_) => Err(SourceError::ContextNotADirectory(context.to_owned())),
        Err(error) => {
            if let Some(url) = context.to_str().filter(|text| is_remote(text)) {
                return Err(SourceError::ContextRemote(url.to_owned()));
            }
            Err(match error.kind() {
                io::ErrorKind::NotFound => SourceError::ContextNotFound(context.to_owned()),
                _ => SourceError::Context { path: context.to_owned(), source: error },
            })
        }
    }
}

/// The context at `root`, with its ignore file, or with the Dockerfile's own.
async fn context_directory(
    root: PathBuf,
    ignore: Option<Bytes>,
    dockerfiles_own: Option<Bytes>,
    workspace: Option<&Path>,
) -> Result<Directory, SourceError> {
    let path = told_path(&root, workspace)?;
    let (walked, rules) = (root.clone(), dockerfiles_own.or_else(|| ignore.clone()).unwrap_or_default());
    let mut walk = JoinSet::new();
    walk.spawn_blocking(move || state::of_directory(&walked, &rules));
    let state = walk.join_next().await.transpose();
    let state = state.map_err(|error| SourceError::Context { path: root.clone(), source: error.into() })?;
    let (state, listings) = state.unwrap_or_default();
    let mut tree = Tree::directory(root).with_listings(listings);
    if let Some(bytes) = ignore {
        tree = tree.with_ignore_file(bytes);
    }
    Ok(Directory { name: "context", path, state, tree: Arc::new(tree) })
}

/// The path of a directory as it is sent to wharfd. Both arguments must be canonical.
fn told_path(directory: &Path, workspace: Option<&Path>) -> Result<String, SourceError> {
    let inside = workspace.and_then(|workspace| directory.strip_prefix(workspace).ok());
    let told = inside.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    let told = told.unwrap_or(directory);
    told.to_str().map(str::to_owned).ok_or_else(|| SourceError::NotUtf8(directory.to_owned()))
}

/// Whether Docker would read `context` as a URL or a Git repository.
fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"]
        .iter()
        .any(|prefix| context.starts_with(prefix))
}

#[cfg(test)]
mod tests;
