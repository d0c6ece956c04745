//! Walks of directories made by each test. `tests/patterns` compares the walks with Docker's.

use std::{collections::BTreeSet, os::unix::fs::symlink};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    client::{
        context::{Entries, Tree, state},
        sync::tests::Scratch,
    },
    wire::v1::FileSync,
};

#[derive(Default)]
struct Patterns<'a> {
    include: &'a [&'a str],
    exclude: &'a [&'a str],
    follow: &'a [&'a str],
}

fn walk(root: &Path, patterns: &Patterns<'_>) -> Vec<String> {
    entries(root, patterns).map(|entry| entry.unwrap().stat.path).collect()
}

fn entries(root: &Path, patterns: &Patterns<'_>) -> Entries {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let request = FileSync {
        directory: "context".into(),
        include_patterns: owned(patterns.include),
        exclude_patterns: owned(patterns.exclude),
        follow_paths: owned(patterns.follow),
    };
    // What the walk for the state has read changes nothing.
    for rules in [String::new(), patterns.exclude.join("\n")] {
        let (_, listings) = state::of_directory(root, rules.as_bytes());
        let tree = Tree::directory(root).with_listings(listings);
        // The listings are used once.
        for _ in 0..2 {
            assert_eq!(all(tree.entries(&request)), all(Tree::directory(root).entries(&request)));
        }
    }
    Tree::directory(root).entries(&request).unwrap()
}

fn all(entries: Result<Entries, Error>) -> String {
    format!("{:?}", entries.map(Iterator::collect::<Vec<_>>))
}

/// A sync that follows at once takes a file as the walk for the state has seen it.
#[test]
fn what_was_just_read_is_not_read_again() {
    let dir = Scratch::new();
    make(dir.path(), &["d/file", "gone/file"]);
    let (_, listings) = state::of_directory(dir.path(), b"");
    fs::write(dir.path().join("d/file"), "longer").unwrap();
    fs::write(dir.path().join("d/new"), "").unwrap();
    fs::remove_dir_all(dir.path().join("gone")).unwrap();
    let sizes = |tree: &Tree| {
        let entries = tree.entries(&FileSync::default()).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.stat.path.clone(), entry.size())).collect::<Vec<_>>()
    };
    let size = |path: &str, size| (path.to_owned(), size);
    let tree = Tree::directory(dir.path()).with_listings(listings);
    assert_eq!(sizes(&tree), [size("d", 0), size("d/file", 0)]);
    assert_eq!(sizes(&tree), [size("d", 0), size("d/file", 6), size("d/new", 0)]);
}

fn make(root: &Path, files: &[&str]) {
    for file in files {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
}

#[test]
fn exceptions_bring_back_what_holds_them_and_no_more() {
    let dir = Scratch::new();
    make(
        dir.path(),
        &["keep/x", "node_modules/a/index.js", "node_modules/b/README.md", "node_modules/b/deep/x.md"],
    );
    let excluded =
        |patterns: &[&str]| walk(dir.path(), &Patterns { exclude: patterns, ..Patterns::default() });
    assert_eq!(excluded(&["node_modules"]), ["keep", "keep/x"]);
    assert_eq!(
        excluded(&["*", "!node_modules/b"]),
        [
            "node_modules",
            "node_modules/b",
            "node_modules/b/README.md",
            "node_modules/b/deep",
            "node_modules/b/deep/x.md"
        ]
    );
    assert_eq!(
        excluded(&["node_modules", "!**/*.md", "**/deep/*"]),
        ["keep", "keep/x", "node_modules", "node_modules/b", "node_modules/b/README.md"]
    );
    assert_eq!(excluded(&["**"]), [""; 0]);
}

#[test]
fn includes_reach_into_directories() {
    let dir = Scratch::new();
    make(dir.path(), &["src/lib/a.rs", "src/main.rs", "src2/b.rs", "target/x"]);
    let included =
        |patterns: &[&str]| walk(dir.path(), &Patterns { include: patterns, ..Patterns::default() });
    assert_eq!(included(&["src/lib"]), ["src", "src/lib", "src/lib/a.rs"]);
    assert_eq!(included(&["**/b.rs", "target"]), ["src2", "src2/b.rs", "target", "target/x"]);
    assert_eq!(included(&["/src"]), [""; 0]);
    let both = Patterns { include: &["src"], exclude: &["src/lib"], ..Patterns::default() };
    assert_eq!(walk(dir.path(), &both), ["src", "src/main.rs"]);
}

#[test]
fn followed_paths_stay_inside_of_the_root() {
    let dir = Scratch::new();
    let root = dir.path().join("root");
    make(dir.path(), &["outside/secret", "root/real/a", "root/real/b", "root/other/c", "root/etc/passwd"]);
    symlink("real", root.join("link")).unwrap();
    symlink("../../outside", root.join("other/escape")).unwrap();
    symlink("/../x/../../etc/passwd", root.join("passwd")).unwrap();
    symlink("loop/loop", root.join("loop")).unwrap();
    symlink("self", root.join("self")).unwrap();
    symlink("/", root.join("everything")).unwrap();
    let followed = |paths: &[&str]| walk(&root, &Patterns { follow: paths, ..Patterns::default() });
    assert_eq!(followed(&["real/a"]), ["real", "real/a"]);
    // Docker's own client loses the second path here.
    assert_eq!(followed(&["link/a", "link/b"]), ["link", "real", "real/a", "real/b"]);
    assert_eq!(followed(&["l*/a"]), ["link", "loop", "real", "real/a"]);
    assert_eq!(followed(&["/passwd"]), ["etc", "etc/passwd", "passwd"]);
    assert_eq!(followed(&["other/escape/secret"]), ["other", "other/escape"]);
    assert_eq!(followed(&["../outside/secret", "nowhere"]), [""; 0]);
    assert_eq!(followed(&["loop", "self/x"]), ["loop", "self"]);
    assert_eq!(followed(&["everything"]), followed(&["."]));
    assert_eq!(followed(&["."]).len(), 13);
    assert_eq!(followed(&["real/a", "real", "real/b"]), ["real", "real/a", "real/b"]);
}

#[test]
fn links_are_to_what_has_been_sent() {
    let dir = Scratch::new();
    fs::write(dir.path().join("a"), "content").unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("c")).unwrap();
    symlink("a", dir.path().join("d")).unwrap();
    let links = |exclude: &[&str]| {
        let entries = entries(dir.path(), &Patterns { exclude, ..Patterns::default() });
        entries.map(|entry| entry.unwrap().stat.linkname).collect::<Vec<_>>()
    };
    assert_eq!(links(&[]), ["", "a", "a", "a"]);
    assert_eq!(links(&["a"]), ["", "b", "a"]);
}

#[test]
fn what_vanishes_is_left_out() {
    let dir = Scratch::new();
    make(dir.path(), &["a/x/1", "a/y", "b/z", "c"]);
    let mut entries = entries(dir.path(), &Patterns::default()).map(|entry| entry.unwrap().stat.path);
    assert_eq!(entries.next().unwrap(), "a");
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    fs::remove_dir_all(dir.path().join("b")).unwrap();
    fs::write(dir.path().join("b"), "a file now").unwrap();
    assert_eq!(entries.collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn names_that_cannot_be_said_matter_only_when_they_are_sent() {
    let dir = Scratch::new();
    let name = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(b"a/caf\xe9".to_vec());
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join(name), "").unwrap();
    let exclude = Patterns { exclude: &["a/caf*"], ..Patterns::default() };
    assert_eq!(walk(dir.path(), &exclude), ["a"]);
    let error = entries(dir.path(), &Patterns::default()).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("a/caf\\xE9"), "{error}");
}

#[test]
fn depth_costs_neither_stack_nor_descriptors() {
    let dir = Scratch::new();
    let depth = 1800;
    fs::create_dir_all(dir.path().join("d/".repeat(depth))).unwrap();
    assert_eq!(walk(dir.path(), &Patterns::default()).len(), depth);
}

/// Whether `path` is sent, without short cuts: judged from the top down.
fn wanted(patterns: &super::super::Patterns, path: &str) -> bool {
    let mut above = Matched::default();
    for directory in super::super::path::ancestors(path) {
        above = patterns.matches(directory, &above).unwrap().1;
    }
    !patterns.matches(path, &above).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_is_sorted_and_complete(
        files in vec(vec(select(vec!["a", "b", "a.b", "a-b", "ab", "é", "z"]), 1..4), 1..12),
        exclude in vec(vec(select(vec!["a", "b", "a.b", "*", "**", "?b", "z"]), 1..3), 0..3),
        exceptions in vec(any::<bool>(), 3),
    ) {
        let dir = Scratch::new();
        let mut all = BTreeSet::new();
        for parts in &files {
            let file = dir.path().join(parts.join("/"));
            // A path cannot be both a file and a directory.
            if fs::create_dir_all(file.parent().unwrap()).is_ok() && !file.is_dir() {
                fs::write(file, "").unwrap();
                // Sorted bytewise by components, as the receiver requires.
                all.extend((1..=parts.len()).map(|depth| parts[..depth].to_vec()));
            }
        }
        let patterns: Vec<String> = exclude
            .iter()
            .zip(&exceptions)
            .map(|(parts, exception)| format!("{}{}", if *exception { "!" } else { "" }, parts.join("/")))
            .collect();
        let matcher = super::super::Patterns::new(&patterns).unwrap();
        let sent: BTreeSet<&Vec<&str>> = all.iter().filter(|parts| wanted(&matcher, &parts.join("/"))).collect();
        let holds = |parts: &Vec<&str>| sent.iter().any(|sent| sent.starts_with(parts));
        let expected: Vec<String> =
            all.iter().filter(|parts| holds(parts)).map(|parts| parts.join("/")).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        prop_assert_eq!(walk(dir.path(), &Patterns { exclude: &patterns, ..Patterns::default() }), expected);
    }
}
