//! Follow paths: finds the patterns that match the target of a path, following symlinks inside the root.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::Path,
};

use super::{Error, glob, path};

/// Linux's own limit on symlinks in the resolution of a path.
const HOPS_MAX: u32 = 40;

/// A partly resolved path: the resolved part, and the rest.
struct Step {
    at: String,
    rest: String,
    hops: u32,
}

/// The sorted patterns that match `paths` and every symlink on the way. Paths that do not exist are kept
/// unchanged. An empty result means everything, because one of the paths is the root.
pub(crate) fn follow(root: &Path, paths: &[String]) -> Result<Vec<String>, Error> {
    let mut resolved = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut steps: Vec<Step> =
        paths.iter().map(|path| Step { at: String::new(), rest: relative(path), hops: 0 }).collect();
    while let Some(Step { mut at, rest, hops }) = steps.pop() {
        if rest == "." || rest == ".." || rest.starts_with("../") {
            // The root itself, or a path that leaves it. Such a path matches nothing and is never looked up.
            resolved.insert(rest);
            continue;
        }
        let (part, rest) = rest.split_once('/').unwrap_or((&rest, ""));
        if !at.is_empty() {
            at.push('/');
        }
        at.push_str(part);
        let targets = targets(root, &at)?;
        if targets.is_empty() && !rest.is_empty() {
            steps.push(Step { at, rest: rest.to_owned(), hops });
            continue;
        }
        // This stops a link to itself; a link that grows in each round exceeds the limit on hops.
        if hops < HOPS_MAX && seen.insert((at.clone(), rest.to_owned())) {
            steps.extend(targets.into_iter().map(|target| Step {
                at: String::new(),
                rest: relative(&format!("{target}/{rest}")),
                hops: hops + 1,
            }));
        }
        resolved.insert(at);
    }
    Ok(outermost(resolved))
}

/// `path` relative to the root, cleaned; `.` is the root.
fn relative(path: &str) -> String {
    path::clean(&format!("./{path}"))
}

/// Drops patterns that lie inside another pattern; drops all if one of them is the root.
pub(crate) fn outermost(patterns: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for pattern in patterns {
        if pattern == "." {
            return Vec::new();
        }
        // If nothing has been kept yet, this drops patterns that begin with `/`; they match nothing anyway.
        let last = kept.last().map_or("", String::as_str);
        if !pattern.strip_prefix(last).is_some_and(|rest| rest.starts_with('/')) {
            kept.push(pattern);
        }
    }
    kept
}

/// The targets of `at`, relative to the root, if it is a symlink. A wildcard in its last part stands
/// for every symlink that it matches.
fn targets(root: &Path, at: &str) -> Result<Vec<String>, Error> {
    let parent = path::parent(at);
    let name = at.rsplit_once('/').map_or(at, |(_, name)| name);
    if !glob::has_wildcard(name) {
        return Ok(target(root, parent, name)?.into_iter().collect());
    }
    let listing = match fs::read_dir(root.join(parent)) {
        Ok(listing) => listing,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::read(parent, error)),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|error| Error::read(parent, error))?;
        // No pattern can match a name that is not UTF-8.
        let Some(name_here) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if glob::matches(name, &name_here) == Ok(true) {
            found.extend(target(root, parent, &name_here)?);
        }
    }
    Ok(found)
}

fn target(root: &Path, parent: &str, name: &str) -> Result<Option<String>, Error> {
    match fs::read_link(root.join(parent).join(name)) {
        // The walk reports a target that is not UTF-8.
        Ok(link) => Ok(link.to_str().map(|link| {
            let from = if link.starts_with('/') { "" } else { parent };
            path::clean(&format!("/{from}/{link}"))
        })),
        // EINVAL: not a symlink.
        Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(Error::read(&format!("{parent}/{name}"), error)),
    }
}

/// Whether the error means that the file does not exist or that its parent is not a directory.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
