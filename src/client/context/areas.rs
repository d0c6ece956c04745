//! The directories that a repository controls, and the files that a command line names in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    dockerfile::stay,
    resolve::resolve,
    source::{STDIN, SourceError, is_open_file},
};

/// The name of a job's workspace in messages.
const WORKSPACE: &str = "the workspace";

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
        let areas = [(&self.context, "the build context"), (&self.workspace, WORKSPACE)];
        for (area, called) in areas {
            stay(&found, area.as_deref(), called).map_err(io::Error::other)?;
        }
        Ok(found.real)
    }
}

/// Judges how the current directory was reached: by the path in the shell's `PWD`, no link in the workspace may have led
/// out of it. A pull request can put a link in the place of any directory, and `cd` follows it.
///
/// # Errors
/// The link.
pub(crate) fn stay_with(pwd: &Path, current: &Path, workspace: &Path) -> Result<(), SourceError> {
    let (Ok(found), Ok(workspace)) = (resolve(pwd), fs::canonicalize(workspace)) else { return Ok(()) };
    // A program that is not a shell starts others elsewhere, and leaves the variable as it was.
    if found.real != current {
        return Ok(());
    }
    stay(&found, Some(&workspace), WORKSPACE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::client::sync::tests::Scratch;

    #[test]
    fn no_link_of_the_workspace_has_led_out_of_it() {
        let dir = Scratch::new();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("disk/ws/services/pay")).unwrap();
        fs::create_dir_all(root.join("home/below")).unwrap();
        // The machine's.
        symlink("disk", root.join("var")).unwrap();
        // The repository's.
        let workspace = root.join("disk/ws");
        for (link, target) in [("cart", "../../home"), ("chain", "services/../cart"), ("pay", "services/pay")]
        {
            symlink(target, workspace.join(link)).unwrap();
        }
        let judge = |pwd: &str, current: &str, workspace: &str| {
            stay_with(&root.join(pwd), &root.join(current), &root.join(workspace))
        };
        for (pwd, current, link) in [
            ("cart", "home", "cart"),
            ("cart/below", "home/below", "cart"),
            ("chain", "home", "chain"),
            ("chain/below", "home/below", "chain"),
        ] {
            // By whichever path the shell and Jenkins know the workspace.
            for (one, other) in [("disk/ws", "disk/ws"), ("var/ws", "disk/ws"), ("disk/ws", "var/ws")] {
                match judge(&format!("{one}/{pwd}"), current, other) {
                    Err(SourceError::LeadsOut { link: found, target, .. }) => {
                        assert_eq!((found, target), (workspace.join(link), root.join(current)), "{pwd}");
                    }
                    judged => panic!("{pwd}: {judged:?}"),
                }
            }
        }
        for (pwd, current) in [
            ("disk/ws", "disk/ws"),
            ("var/ws/services", "disk/ws/services"),
            ("disk/ws/pay", "disk/ws/services/pay"),
            ("home/below", "home/below"),
            // It is another directory's.
            ("disk/ws/cart", "home/below"),
            ("disk/ws/absent", "home"),
        ] {
            assert!(judge(pwd, current, "disk/ws").is_ok(), "{pwd}");
        }
        assert!(judge("disk/ws/cart", "home", "absent").is_ok());
    }
}
