//! Compares patterns and walks with Docker's own code: moby/patternmatcher and tonistiigi/fsutil answer the
//! same questions in another process (`oracle/`). Needs Go: `WHARF_GO` (scripts/env paths), else the one in
//! PATH.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail"
)]

mod receive;

use std::{
    cell::RefCell,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rustix::fs::{FileType, Mode, XattrFlags};
use serde_json::{Value, json};
use wharf::{
    client::context::{Matched, Patterns, Tree},
    wire::v1::FileSync,
};

struct Oracle {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    fn start(name: &str) -> Self {
        let mut child = Command::new(build_oracle(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the oracle starts");
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, questions, answers }
    }

    fn ask(&mut self, question: &Value) -> Value {
        let mut stdin = self.questions.as_ref().expect("asked before the end");
        writeln!(stdin, "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no answer to {question}"))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.questions.take());
        self.child.wait().expect("the oracle ends with its input");
    }
}

/// Builds the oracle for one test: tests run in parallel.
fn build_oracle(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/patterns/oracle");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{name}"));
    let go = env::var_os("WHARF_GO").unwrap_or_else(|| "go".into());
    let built = Command::new(&go).args(["build", "-o"]).arg(&binary).arg(".").current_dir(source).status();
    let built =
        built.unwrap_or_else(|error| panic!("cannot run {go:?}, run scripts/env setup test: {error}"));
    assert!(built.success(), "tests/patterns/oracle does not build");
    binary
}

/// The same cases every time; PROPTEST_CASES=100000 adds further ones.
fn runner(cases: u32) -> TestRunner {
    let cases = env::var("PROPTEST_CASES").map_or(cases, |cases| cases.parse().expect("a number of cases"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Patterns made of parts that have a meaning, documented by Docker or not.
fn pattern() -> impl Strategy<Value = String> {
    let common = select(vec!["a", "b", "ab", "c", ".a", "/", "/", "/", "*", "**", "**/", "?", "/**", "/*"]);
    let odd = select(vec![
        "!",
        "[",
        "]",
        "[ab]",
        "[^a]",
        "[a-c]",
        "[*]",
        "[?a]",
        "[[:alpha:]]",
        "[[:x:]]",
        "[^]",
        "[]a]",
        "[b-a]",
        "[a-]",
        "[\\d]",
        "[\\]a]",
        "[&&a]",
        "[a--c]",
        "[~~]",
        "\\",
        "\\*",
        "\\d",
        "\\D",
        "\\w",
        "\\s",
        "\\Q",
        "\\E",
        "\\b",
        "\\A",
        "\\z",
        "\\x41",
        "\\x{61}",
        "\\101",
        "\\1",
        "\\e",
        "\\é",
        "\\_",
        "{",
        "}",
        "{2}",
        "{1,2}",
        "{,2}",
        "{2,1}",
        "{01}",
        "{9999}",
        "|",
        "^",
        "$",
        "(",
        ")",
        "+",
        ".",
        "-",
        ",",
        " ",
        "é",
        "..",
        "./",
        "../",
        "//",
        "a{2}",
        "7",
        "***",
        "*?",
        "?*",
    ]);
    let piece = prop_oneof![3 => common, 1 => odd];
    vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

/// A pattern, sometimes preceded by `!`.
fn line() -> impl Strategy<Value = String> {
    (prop_oneof![2 => Just(""), 1 => Just("!"), 1 => Just("/"), 1 => Just("./")], pattern())
        .prop_map(|(prefix, pattern)| format!("{prefix}{pattern}"))
}

fn name() -> impl Strategy<Value = &'static str> {
    select(vec![
        "a", "a", "b", "b", "ab", "ba", "c", "aa", ".a", "a.b", "a b", "é", "7", "A", "*", "[", "{", "a{2}",
        "|", "^", "abc", "_", "\\", "&", "a\nb",
    ])
}

fn path() -> impl Strategy<Value = String> {
    vec(name(), 1..5).prop_map(|names| names.join("/"))
}

#[test]
fn patterns_match_as_in_docker() {
    let oracle = RefCell::new(Oracle::start("patterns"));
    let cases = (vec(line(), 1..5), vec(path(), 24));
    let outcome = runner(2000).run(&cases, |(patterns, paths)| {
        let theirs = oracle.borrow_mut().ask(&json!({ "patterns": patterns, "paths": paths }));
        let ours = match Patterns::new(&patterns) {
            Err(_) => {
                prop_assert!(theirs["Error"] != "", "only we refuse");
                return Ok(());
            }
            Ok(ours) => ours,
        };
        prop_assert_eq!(&theirs["Error"], "");
        for (path, theirs) in paths.iter().zip(theirs["Matches"].as_array().unwrap()) {
            // Without any state of the directories above.
            let ours = ours.matches(path, &Matched::default()).map_or(-1, |(matched, _)| i64::from(matched));
            prop_assert_eq!(theirs, ours, "{}", path);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// A directory to walk, and the request.
#[derive(Clone, Debug)]
struct Case {
    files: Vec<(String, Kind)>,
    include: Vec<String>,
    exclude: Vec<String>,
    follow: Vec<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(u32),
    Link(String),
    /// A hard link to an earlier file.
    HardLink(usize),
    Fifo,
    Socket,
}

fn case(links: bool) -> impl Strategy<Value = Case> {
    let target = (select(vec!["", "/", "../", "./", "/../", "a/../../", "/a/../../"]), path())
        .prop_map(|(prefix, path)| format!("{prefix}{path}"));
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        6 => select(vec![0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o600]).prop_map(Kind::File),
        if links { 3 } else { 0 } => target.prop_map(Kind::Link),
        1 => any::<usize>().prop_map(Kind::HardLink),
        1 => prop_oneof![Just(Kind::Fifo), Just(Kind::Socket)],
    ];
    let plain = |most| vec(prop_oneof![3 => path(), 1 => line()], 0..most);
    let follow = prop_oneof![1 => plain(1), 1 => vec(prop_oneof![path(), line()], 1..3)];
    (vec((path(), kind), 1..16), plain(3), vec(line(), 0..4), follow)
        .prop_map(|(files, include, exclude, follow)| Case { files, include, exclude, follow })
}

/// A directory that is removed with its case.
struct Directory(PathBuf);

impl Directory {
    fn of(test: &str, files: &[(String, Kind)]) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("walk-{test}-{}", std::process::id()));
        fs::create_dir(&root).unwrap();
        let directory = Self(root);
        for (path, kind) in files {
            let file = directory.0.join(path);
            // An entry that conflicts with an earlier one is left out.
            let parent = fs::canonicalize(&directory.0)
                .and_then(|root| {
                    fs::create_dir_all(file.parent().unwrap())?;
                    Ok((root, fs::canonicalize(file.parent().unwrap())?))
                })
                .ok();
            if file.symlink_metadata().is_ok()
                || !parent.is_some_and(|(root, parent)| parent.starts_with(root))
            {
                continue;
            }
            match kind {
                Kind::Directory => fs::create_dir(&file).unwrap(),
                Kind::File(mode) => {
                    fs::write(&file, path).unwrap();
                    fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).unwrap();
                }
                Kind::Link(target) => symlink(target, &file).unwrap(),
                Kind::HardLink(at) => {
                    let (earlier, _) = &files[at % files.len()];
                    let earlier = directory.0.join(earlier);
                    if earlier.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                        fs::hard_link(earlier, &file).unwrap();
                    }
                }
                Kind::Fifo => {
                    rustix::fs::mknodat(rustix::fs::CWD, &file, FileType::Fifo, Mode::RUSR, 0).unwrap();
                }
                Kind::Socket => drop(bind(&file)),
            }
        }
        directory
    }
}

/// A socket's path has at most 107 bytes; the path through its directory's descriptor is shorter.
fn bind(file: &Path) -> UnixListener {
    use std::os::fd::AsRawFd as _;
    let parent = fs::File::open(file.parent().unwrap()).unwrap();
    let name = file.file_name().unwrap();
    UnixListener::bind(Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)).unwrap()
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Our walk of `root`, in the oracle's form; owners are not sent.
fn walk(root: &Path, case: &Case) -> Result<Vec<Value>, String> {
    let request = FileSync {
        directory: "context".into(),
        include_patterns: case.include.clone(),
        exclude_patterns: case.exclude.clone(),
        follow_paths: case.follow.clone(),
    };
    let entries = Tree::directory(root).entries(&request).map_err(|error| error.to_string())?;
    entries
        .map(|entry| {
            let stat = entry.map_err(|error| error.to_string())?.stat;
            let mut value = json!({ "path": stat.path, "mode": stat.mode, "modTime": stat.mod_time });
            if stat.size != 0 {
                value["size"] = stat.size.into();
            }
            if !stat.linkname.is_empty() {
                value["linkname"] = stat.linkname.into();
            }
            if stat.devmajor != 0 || stat.devminor != 0 {
                value["devmajor"] = stat.devmajor.into();
                value["devminor"] = stat.devminor.into();
            }
            for (key, bytes) in &stat.xattrs {
                value["xattrs"][key] = STANDARD.encode(bytes).into();
            }
            Ok(value)
        })
        .collect()
}

fn ask(oracle: &mut Oracle, root: &Path, case: &Case) -> Result<Vec<Value>, String> {
    let Case { include, exclude, follow, .. } = case;
    let mut question = json!({ "root": root });
    // An empty list is omitted.
    for (key, list) in [("include", include), ("exclude", exclude), ("follow", follow)] {
        if !list.is_empty() {
            question[key] = json!(list);
        }
    }
    let answer = oracle.ask(&question);
    if answer["Error"] != "" {
        return Err(answer["Error"].to_string());
    }
    let mut stats = answer["Stats"].as_array().cloned().unwrap();
    for stat in &mut stats {
        let stat = stat.as_object_mut().unwrap();
        stat.remove("uid");
        stat.remove("gid");
    }
    Ok(stats)
}

#[test]
fn walks_yield_what_docker_sends() {
    let oracle = RefCell::new(Oracle::start("walks"));
    let outcome = runner(400).run(&case(false), |case| {
        let directory = Directory::of("plain", &case.files);
        let theirs = ask(&mut oracle.borrow_mut(), &directory.0, &case);
        let ours = walk(&directory.0, &case);
        prop_assert_eq!(ours.is_err(), theirs.is_err(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours, theirs);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// fsutil follows each symlink only for the first path that meets it; wharf follows it for every path. So
/// wharf sends everything that fsutil sends, in the same order.
#[test]
fn follow_paths_reach_what_docker_reaches() {
    let oracle = RefCell::new(Oracle::start("links"));
    let outcome = runner(400).run(&case(true), |case| {
        let directory = Directory::of("links", &case.files);
        let theirs = ask(&mut oracle.borrow_mut(), &directory.0, &case);
        let ours = walk(&directory.0, &case);
        prop_assert_eq!(ours.is_err(), theirs.is_err(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            let mut rest = ours.iter();
            for theirs in &theirs {
                prop_assert!(rest.any(|ours| ours["path"] == theirs["path"]), "{} of {:?}", theirs, ours);
            }
            if case.follow.is_empty() {
                prop_assert_eq!(ours, theirs);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn attributes_and_devices_are_dockers() {
    let mut oracle = Oracle::start("attributes");
    let files = [("a/file".to_owned(), Kind::File(0o640)), ("dir".to_owned(), Kind::Directory)];
    let directory = Directory::of("attributes", &files);
    for path in ["a/file", "dir"] {
        let file = directory.0.join(path);
        rustix::fs::setxattr(&file, "user.wharf", path.as_bytes(), XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(&file, "user.com.apple.x", b"\0\xff", XattrFlags::empty()).unwrap();
    }
    let everything = Case { files: Vec::new(), include: Vec::new(), exclude: Vec::new(), follow: Vec::new() };
    let ours = walk(&directory.0, &everything).unwrap();
    assert_eq!(Ok(&ours), ask(&mut oracle, &directory.0, &everything).as_ref());
    assert_eq!(ours[1]["xattrs"]["user.wharf"], STANDARD.encode("a/file"));
    // Every machine has this directory with devices.
    let devices = Case { include: vec!["null".into(), "zero".into()], ..everything };
    let ours = walk(Path::new("/dev"), &devices).unwrap();
    assert_eq!(Ok(&ours), ask(&mut oracle, Path::new("/dev"), &devices).as_ref());
    assert_eq!(ours[0]["devminor"], 3);
}
