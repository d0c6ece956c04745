//! Resolves paths, and records the symlinks that they pass through. A pull request can put a link anywhere in
//! a repository; a link that leads out of the repository must not be followed.

use std::{
    collections::VecDeque,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Component, Path, PathBuf},
};

use rustix::io::Errno;

/// Linux's own limit on symlinks in the resolution of a path.
const HOPS_MAX: usize = 40;

/// A path free of symlinks, and the symlinks that led to it.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) real: PathBuf,
    /// The location of each symlink; the directory that contains it is free of symlinks.
    links: Vec<PathBuf>,
}

impl Resolved {
    /// The first symlink inside `area`, if the path ends outside of `area`.
    pub(crate) fn leaves(&self, area: &Path) -> Option<&Path> {
        let inside = |path: &Path| path.starts_with(area);
        let link = self.links.iter().find(|link| inside(link) && *link != area)?;
        (!inside(&self.real)).then_some(link)
    }
}

/// Follows all symlinks of `path`, which must exist.
///
/// # Errors
/// Any error of the system, including the one for too many symlinks.
pub(crate) fn resolve(path: &Path) -> io::Result<Resolved> {
    let mut real = env::current_dir()?;
    let mut links = Vec::new();
    let mut left = parts(path);
    while let Some(part) = left.pop_front() {
        if part == "/" {
            real = PathBuf::from("/");
            continue;
        }
        if part == ".." {
            real.pop();
            continue;
        }
        let at = real.join(&part);
        let metadata = fs::symlink_metadata(&at)?;
        if metadata.is_symlink() {
            if links.len() == HOPS_MAX {
                return Err(Errno::LOOP.into());
            }
            let target = fs::read_link(&at)?;
            for part in parts(&target).into_iter().rev() {
                left.push_front(part);
            }
            links.push(at);
        } else if !left.is_empty() && !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        } else {
            real = at;
        }
    }
    Ok(Resolved { real, links })
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| <Component<'_> as AsRef<OsStr>>::as_ref(&component).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::client::sync::tests::Scratch;

    #[test]
    fn a_path_ends_where_the_system_ends_it() {
        let dir = Scratch::new();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        for (link, target) in [
            ("up", "a/b/.."),
            ("absolute", root.join("a").to_str().unwrap()),
            ("a/chain", "../up/b"),
            ("loop", "loop"),
            ("nowhere", "absent/x"),
            ("proc", "/proc/self/cwd"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for path in [
            "a/b/file",
            "a/./b/../b/file",
            "up/b/file",
            "absolute/b/../../a/b/file",
            "a/chain/file",
            "a/chain/..",
            "loop",
            "loop/x",
            "nowhere",
            "a/b/file/x",
            "a/b/file/..",
            "absent",
            "proc",
        ] {
            let path = root.join(path);
            let (ours, theirs) = (resolve(&path).map(|resolved| resolved.real), fs::canonicalize(&path));
            assert_eq!(ours.ok(), theirs.ok(), "{path:?}");
        }
        assert_eq!(resolve(Path::new(".")).unwrap().real, fs::canonicalize(".").unwrap());
        let endless = resolve(&root.join("loop")).unwrap_err();
        assert_eq!(endless.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn the_link_that_leads_out_is_named() {
        let dir = Scratch::new();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("repo/sub")).unwrap();
        fs::create_dir(root.join("home")).unwrap();
        for (link, target) in [
            ("repo/out", "../home"),
            ("repo/in", "sub"),
            ("repo/sub/first", "../out"),
            ("repo/back", "../home/back"),
            ("home/back", "../repo/sub"),
            ("user", "home"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let leaves = |path: &str| {
            let resolved = resolve(&root.join(path)).unwrap();
            let link = resolved.leaves(&root.join("repo")).map(Path::to_owned);
            link.map(|link| link.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(leaves("repo/out").as_deref(), Some("repo/out"));
        assert_eq!(leaves("repo/sub/first").as_deref(), Some("repo/sub/first"));
        for inside in ["repo/in", "repo/back", "repo/sub", "user", "home", "repo/../home"] {
            assert_eq!(leaves(inside), None, "{inside}");
        }
    }
}
