//! Tests of the source tree: which modules use which, how long a file is, and that no test is forgotten.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "layout/messages.rs"]
mod messages;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The daemon never uses the client, and the client uses only these modules.
const CLIENT: &str = "client";
const CLIENTS_OWN: [&str; 6] = [CLIENT, "names", "go_json", "go_mode", "network", "wire"];

/// The modules that know the messages of the gRPC API: its door, and its client.
const WIRES_OWN: [&str; 3] = ["wire", CLIENT, "service"];

/// BuildKit's protocol alone: nothing of Docker, of a namespace or of the store.
const BUILDKIT: &str = "buildkit";
const BUILDKITS_OWN: [&str; 7] = [BUILDKIT, "names", "fault", "go_json", "telemetry", "tasks", "progress"];
/// Of `names`, it uses only these.
const BUILDKITS_NAMES: [&str; 3] = ["Secret", "percent_decoded", "shortened"];

/// The files that read the environment: each program's table of its variables.
const ENVIRONMENT: [&str; 2] = ["src/client/env.rs", "src/config/env.rs"];

/// The makers of permits' origins, each with the places outside of tests where it stands. A caller is what an identity
/// scheme has proven, and the rules are those of a proven caller; `policy` makes permits of both.
const PROOFS: [(&str, &[&str]); 8] = [
    ("Rules::new(", &["src/identity/"]),
    ("Rules::built_in(", &["src/identity/"]),
    ("CallerId::Operator(", &["src/identity/"]),
    ("CallerId::Token(", &["src/identity/"]),
    ("CallerId::Certificate(", &["src/identity/"]),
    ("CallerId::Job(", &["src/identity/"]),
    ("CallerId::Address(", &["src/identity/"]),
    // The kubelet's driver serves wharfd's own user alone, and has no namespace.
    ("CallerId::Uid(", &["src/identity/", "src/csi/rpc.rs"]),
];

/// A longer file must be split.
const LINES_MAX: usize = 400;
/// The exceptions, with the most lines that each may have. An entry may shrink or be removed; a new entry
/// needs a reason that a reviewer accepts.
const LONGER: [(&str, usize); 1] = [
    // One table of questions to Docker's own code.
    ("tests/patterns/main.rs", 416),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory, with its text.
fn rust_files(below: &str) -> BTreeMap<PathBuf, String> {
    let (mut left, mut found) = (vec![root().join(below)], BTreeMap::new());
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
        }
    }
    found
}

/// The modules of `lib.rs`, in its order.
fn modules() -> Vec<String> {
    let lines = include_str!("../src/lib.rs").lines();
    lines.filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned())).collect()
}

/// Whether a line makes an item that only tests and fuzzers compile.
fn is_for_tests(line: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(feature = \"fuzzing\")]"]
        .iter()
        .any(|attribute| line.trim_start().starts_with(attribute))
}

/// A text without its comments, and without the items that only tests and fuzzers compile.
fn code(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut code = String::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if !is_for_tests(line) {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let Some(first) = lines.find(|line| !line.trim_start().starts_with("#[")) else { break };
        if !first.ends_with(';') && !first.ends_with('}') {
            lines.find(|next| indent(next) == indent(line) && next.trim_start().starts_with('}'));
        }
    }
    code
}

/// The modules that a text declares for tests alone.
fn test_modules(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let item = lines.iter().skip(at + 1).find(|line| !line.trim_start().starts_with("#["));
        if let (true, Some(item)) = (is_for_tests(line), item)
            && let Some((_, name)) = item.split_once("mod ")
            && let Some(name) = name.strip_suffix(';')
        {
            found.push(name);
        }
    }
    found
}

/// Every source file, without its tests.
static SOURCES: LazyLock<Vec<(PathBuf, String)>> = LazyLock::new(|| {
    let files = rust_files("src");
    let tests: Vec<PathBuf> = files
        .iter()
        .flat_map(|(path, text)| {
            let below = match path.file_stem().unwrap().to_str().unwrap() {
                "mod" | "lib" => path.parent().unwrap().to_owned(),
                _ => path.with_extension(""),
            };
            test_modules(text).into_iter().map(move |name| below.join(name)).collect::<Vec<_>>()
        })
        .collect();
    let is_test = |path: &PathBuf| {
        tests.iter().any(|test| path.starts_with(test) || *path == test.with_extension("rs"))
    };
    files.into_iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| (path, code(&text))).collect()
});

/// Every source file of a module, without its tests.
fn sources(module: &str) -> impl Iterator<Item = &'static (PathBuf, String)> {
    let own = Path::new("src").join(module);
    SOURCES.iter().filter(move |(path, _)| path.starts_with(&own) || *path == own.with_extension("rs"))
}

/// The modules in `crate::…` and `crate::{…}`.
fn used(code: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name = |text: &str| text.split(|c| !is_name(c)).next().unwrap_or_default().to_owned();
    let mut names = Vec::new();
    for after in code.split("crate::").skip(1) {
        let Some(list) = after.strip_prefix('{') else {
            names.push(name(after));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if is_name(c) && depth == 0 && begins => {
                    names.push(name(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn lists_and_paths_are_read() {
    let code = "use crate::{\n    a::{x, y},\n    b,\n};\nuse crate::c::z; crate::d::e()";
    assert_eq!(used(code), ["a", "b", "c", "d"]);
}

#[test]
fn a_module_uses_what_stands_above_it() {
    let modules = modules();
    let place = |name: &str| modules.iter().position(|module| module == name);
    assert!(place("names") < place("engine") && place("engine") < place("daemon"), "{modules:?}");
    for (own, module) in modules.iter().enumerate() {
        assert!(sources(module).next().is_some(), "{module} has no sources");
        for (path, code) in sources(module) {
            for name in used(code) {
                let Some(other) = place(&name) else { continue };
                let path = path.display();
                assert!(name != "wire" || WIRES_OWN.contains(&module.as_str()), "{path} uses the gRPC API");
                assert!(other <= own, "{path} uses `{name}`, which stands below `{module}` in lib.rs");
                if module == BUILDKIT {
                    assert!(
                        BUILDKITS_OWN.contains(&name.as_str()),
                        "{path}: BuildKit's protocol uses `{name}`"
                    );
                }
                if module == CLIENT {
                    assert!(CLIENTS_OWN.contains(&name.as_str()), "{path}: the client uses `{name}`");
                } else {
                    assert!(name != CLIENT, "{path}: the daemon uses the client");
                }
            }
        }
    }
}

/// The texts between the quotes of a file.
fn quoted(code: &str) -> impl Iterator<Item = String> {
    let code = code.replace("\\\"", "").replace("'\"'", "");
    code.split('"').map(str::to_owned).collect::<Vec<_>>().into_iter().skip(1).step_by(2)
}

#[test]
fn the_protocol_of_buildkit_knows_no_docker_and_no_namespace() {
    for (path, code) in sources(BUILDKIT) {
        let path = path.display();
        for said in quoted(code) {
            assert!(!said.replace("Dockerfile", "").contains("Docker"), "{path} says Docker's name: {said}");
        }
        for used in code.split("names::").skip(1) {
            let (list, end) = used.strip_prefix('{').map_or((used, ','), |list| (list, '}'));
            let is_end = |c: char| c == end || !(c.is_alphanumeric() || "_, \n".contains(c));
            for name in list.split(is_end).next().unwrap().split(',').map(str::trim) {
                assert!(name.is_empty() || BUILDKITS_NAMES.contains(&name), "{path} uses `names::{name}`");
            }
        }
    }
}

/// Docker's two image stores differ in `engine/image_store` alone, and nothing asks for their names.
#[test]
fn only_the_image_stores_know_their_kinds() {
    for (path, code) in SOURCES.iter().filter(|(path, _)| !path.starts_with("src/engine/image_store")) {
        for kind in ["containerd", "classic"] {
            let text = if path.starts_with("src/engine") { kind.to_owned() } else { format!("\"{kind}\"") };
            assert!(!code.to_ascii_lowercase().contains(&text), "{} says {text}", path.display());
        }
    }
}

/// The help of a program shows its table of variables, and would lack one that is read elsewhere.
#[test]
fn the_environment_is_read_in_its_tables_alone() {
    let files = SOURCES.iter().filter(|(_, code)| code.contains("env::var"));
    let reads: Vec<_> = files.map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(reads, ENVIRONMENT);
}

/// A permit proves that policy was asked about a caller whom an identity scheme has proven.
#[test]
fn only_identity_says_who_calls_and_by_which_rules() {
    for (path, code) in SOURCES.iter() {
        for (maker, places) in PROOFS {
            let is_there = code.lines().any(|line| makes(line, maker));
            let may = places.iter().any(|place| path.to_str().unwrap().starts_with(place));
            assert!(may || !is_there, "{} has `{maker}…)`, outside of {places:?}", path.display());
        }
    }
}

/// Whether a line makes the value, and does not only match it.
fn makes(line: &str, maker: &str) -> bool {
    let Some((before, after)) = line.split_once(maker) else { return false };
    let is_longer_name = before.ends_with(|c: char| c.is_ascii_alphanumeric());
    let is_pattern = before.contains("matches!(") || after.contains("=>");
    !is_longer_name && !is_pattern
}

/// The names of the public types in a text.
fn public_types(code: &str) -> impl Iterator<Item = &str> {
    let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
    code.lines().filter_map(move |line| {
        let item = line.trim_start().strip_prefix("pub ")?;
        let name = kinds.iter().find_map(|kind| item.strip_prefix(kind))?;
        name.split(|c: char| !c.is_ascii_alphanumeric()).next()
    })
}

/// A name means one thing in a program. `Error` alone is its module's own, as in Rust's library: `registry::Error`.
#[test]
fn no_two_public_types_have_one_name() {
    let modules = modules();
    let wharfd = modules.iter().map(String::as_str).filter(|module| *module != CLIENT);
    let programs: [Vec<&str>; 2] = [CLIENTS_OWN.to_vec(), wharfd.collect()];
    for program in programs {
        let mut seen = BTreeMap::new();
        for (path, code) in program.iter().flat_map(|module| sources(module)) {
            for name in public_types(code).filter(|name| *name != "Error") {
                let path = path.display().to_string();
                if let Some(other) = seen.insert(name.to_owned(), path.clone()) {
                    panic!("{path} and {other} both have a public type `{name}`: rename one");
                }
            }
        }
        assert!(seen.len() > 50, "{} types were seen", seen.len());
    }
}

#[test]
fn no_file_is_too_long() {
    let mut longer: BTreeMap<PathBuf, usize> =
        LONGER.iter().map(|(path, lines)| (PathBuf::from(path), *lines)).collect();
    for (path, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let lines = text.lines().count();
        let allowed = longer.remove(&path);
        let path = path.display();
        match allowed {
            None => assert!(lines <= LINES_MAX, "{path} has {lines} lines: split it ({LINES_MAX} at most)"),
            Some(most) => {
                assert!(lines <= most, "{path} has grown to {lines} lines from {most}: split it");
                assert!(lines > LINES_MAX, "{path} has {lines} lines: take it off the list of exceptions");
            }
        }
    }
    assert!(longer.is_empty(), "exceptions for files that are gone: {longer:?}");
}

/// Cargo compiles a file only if another declares it, and does not mention a file that nobody declares. Go compiles all
/// files of a directory.
#[test]
fn no_file_is_forgotten() {
    let mut files = rust_files("src");
    for tests in ["tests/wharf", "tests/patterns"] {
        files.extend(rust_files(tests));
    }
    let mut seen = 0;
    for path in files.keys() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let directory = path.parent().unwrap();
        // Cargo itself names these.
        if ["main", "lib"].contains(&stem) || directory.ends_with("src/bin") {
            continue;
        }
        let (name, above) = match stem {
            "mod" => (directory.file_name().unwrap().to_str().unwrap(), directory.parent().unwrap()),
            _ => (stem, directory),
        };
        let parents =
            [above.join("mod.rs"), above.join("lib.rs"), above.join("main.rs"), above.with_extension("rs")];
        let declared =
            parents.iter().filter_map(|parent| files.get(parent)).flat_map(|text| text.lines()).any(|line| {
                let line = line.trim_start();
                let line = line.strip_prefix("pub").map_or(line, |rest| {
                    rest.strip_prefix('(')
                        .and_then(|rest| rest.split_once(") "))
                        .map_or(rest, |(_, rest)| rest)
                });
                line.trim_start() == format!("mod {name};")
            });
        assert!(declared, "{} is compiled by nobody: no `mod {name};` above it", path.display());
        seen += 1;
    }
    assert!(seen > 100, "{seen} files were seen");

    let targets = rust_files("fuzz/fuzz_targets");
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for path in targets.keys() {
        let line = format!("path = \"{}\"", path.strip_prefix("fuzz").unwrap().display());
        assert!(
            manifest.lines().any(|other| other == line),
            "fuzz/Cargo.toml does not list {}",
            path.display()
        );
    }
    assert!(targets.len() > 10, "{} fuzzers were seen", targets.len());
}

/// How a case begins, behind its name.
const CASE: &str = "(test: Arc<Test>) {";

/// The cases of a file run only if `main.rs` lists the file, and a case runs only if its file's `cases!`
/// lists it.
#[test]
fn no_test_is_forgotten() {
    let files = rust_files("tests/wharf");
    let listed = &files[Path::new("tests/wharf/main.rs")];
    let (mut seen, mut cases) = (0, 0);
    for (path, text) in &files {
        let inside = path.strip_prefix("tests/wharf").unwrap();
        let stem = inside.file_stem().unwrap().to_str().unwrap();
        let is_helper = ["harness", "shapes"].iter().any(|helper| inside.starts_with(helper));
        if is_helper || ["main", "mod"].contains(&stem) {
            continue;
        }
        let path = path.display();
        let list = text.split_once("cases![").and_then(|(_, rest)| rest.split_once(']'));
        assert!(list.is_some(), "{path} has no `cases!`");
        let listed_here: Vec<&str> = list.unwrap().0.split(',').map(str::trim).collect();
        for case in text.lines().filter_map(|line| line.strip_prefix("async fn ")?.strip_suffix(CASE)) {
            assert!(listed_here.contains(&case), "`cases!` of {path} does not list {case}");
            cases += 1;
        }
        let module = inside.with_extension("").to_str().unwrap().replace('/', "::");
        let line = format!("        {module}::CASES,");
        assert!(listed.lines().any(|other| other == line), "main.rs does not list {module}::CASES");
        seen += 1;
    }
    assert!(seen > 15 && cases > 250, "{seen} files with {cases} cases were seen");
}
