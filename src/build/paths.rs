//! Removes the engine's own paths from its errors: the directories of its files, and the names of temporary
//! files.
//!
//! They show a job how the node is set up, and BuildKit's temporary names let it guess the next ones.

use std::sync::LazyLock;

use regex::Regex;

/// The directories in which engines keep their files by default.
const USUAL: [&str; 7] = [
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/buildkit",
    "/run/docker",
    "/run/containerd",
    "/run/buildkit",
    "/var/run/docker",
];

/// The directory in which the engine keeps a job's files: of a layer, or of a mount by BuildKit. Without `\s`
/// and similar classes, which need Unicode tables that only the tests' build of `regex` has.
static OF_A_JOB: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        /[^\x20\t\r\n'`:]*?
        (?: /[a-z0-9-]+/[a-z0-9]{20,64}(?:-init)?/(?:diff|merged|work)
          | /snapshots/[0-9]+/(?:fs|work)
          | /cachemounts/buildkit[0-9]+
          | /?(?:buildkit|containerd)-mount[0-9]+ )
        (?P<inside>/)?",
    )
    .ok()
});

/// The name that BuildKit gives a file until it is complete (fsutil, `nextSuffix`).
static TEMPORARY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\.tmp\.[0-9]+").ok());

/// `text` without the engine's own paths, whose files are under `root`. A path of a job's file keeps the part
/// that the job knows.
pub(super) fn without(text: &str, root: &str) -> String {
    let text = replaced(text, &OF_A_JOB, "$inside");
    let text = replaced(&text, &TEMPORARY, "(a temporary file)");
    let roots = USUAL.into_iter().chain([root].into_iter().filter(|root| root.len() > 1));
    roots.fold(text, |text, root| without_root(&text, root))
}

fn replaced(text: &str, pattern: &LazyLock<Option<Regex>>, by: &str) -> String {
    // The patterns are constants, and a test compiles them. An empty text is better than an unchecked one.
    pattern.as_ref().map(|pattern| pattern.replace_all(text, by).into_owned()).unwrap_or_default()
}

/// Replaces each path under `root`.
fn without_root(text: &str, root: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(root) {
        left.push_str(before);
        let begins = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let ends = after.is_empty()
            || after.starts_with(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        if begins && ends {
            left.push_str("(the engine's files)");
            let end =
                after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ':' | ',' | ')'));
            rest = after.get(end.unwrap_or(after.len())..).unwrap_or_default();
        } else {
            left.push_str(root);
            rest = after;
        }
    }
    left.push_str(rest);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_files_keep_their_own_paths() {
        for (said, shown) in [
            (
                "failed to create /var/lib/docker/overlay2/r91qu68pkjufhmpket0mo1a3f/diff/a/b: file name too long",
                "failed to create /a/b: file name too long",
            ),
            ("open /mnt/d/overlay2/r91qu68pkjufhmpket0mo1a3f/merged: no", "open : no"),
            ("lstat /var/lib/docker/tmp/buildkit-mount123/a: no", "lstat /a: no"),
            ("lstat /tmp/containerd-mount7/a/b", "lstat /a/b"),
            (
                "cannot copy to non-directory: /var/lib/docker/buildkit/containerd-overlayfs/cachemounts/buildkit658379140/bin",
                "cannot copy to non-directory: /bin",
            ),
            ("open /x/io.containerd.snapshotter.v1.overlayfs/snapshots/12/fs/etc/passwd", "open /etc/passwd"),
            (
                "failed to symlink /var/lib/docker/overlay2/r91qu68pkjufhmpket0mo1a3f/diff/.tmp.807615533: x",
                "failed to symlink /(a temporary file): x",
            ),
            ("failed to symlink .tmp.807615533", "failed to symlink (a temporary file)"),
            (
                r#"process "/bin/sh -c make /app" did not complete"#,
                r#"process "/bin/sh -c make /app" did not complete"#,
            ),
            (r#""/app/x": not found"#, r#""/app/x": not found"#),
        ] {
            assert_eq!(without(said, "/var/lib/docker"), shown);
        }
    }

    #[test]
    fn what_the_engine_keeps_has_no_path() {
        for (said, shown) in [
            ("open /var/lib/docker/image/x.json: no", "open (the engine's files): no"),
            ("open /mnt/docker/tmp/x, y", "open (the engine's files), y"),
            ("open \"/mnt/docker\"", "open \"(the engine's files)\""),
            ("open /mnt/docker-2/x and /a/mnt/docker/x", "open /mnt/docker-2/x and /a/mnt/docker/x"),
            ("open /run/docker/runtime/1", "open (the engine's files)"),
        ] {
            assert_eq!(without(said, "/mnt/docker"), shown);
        }
        assert_eq!(without("/a/b", ""), "/a/b");
        assert_eq!(without("/a/b", "/"), "/a/b");
    }
}
