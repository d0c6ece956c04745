//! The order of `lib.rs`, held to by a test that reads the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The daemon never uses it, and it uses no more than these.
const CLIENT: &str = "client";
const CLIENTS_OWN: [&str; 4] = [CLIENT, "names", "fault", "wire"];

/// The modules of `lib.rs`, in its order.
fn modules() -> Vec<String> {
    let lines = include_str!("lib.rs").lines();
    lines.filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned())).collect()
}

/// Every source file of a module, without its tests.
fn sources(module: &str) -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut left, mut found) = (vec![src.join(module), src.join(format!("{module}.rs"))], Vec::new());
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            found.push((path, code));
        }
    }
    found
}

/// The modules that `crate::…` and `crate::{…}` name.
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
        let sources = sources(module);
        assert!(!sources.is_empty(), "{module} has no sources");
        for (path, code) in sources {
            for name in used(&code) {
                let Some(other) = place(&name) else { continue };
                let path = path.display();
                assert!(other <= own, "{path} uses `{name}`, which stands below `{module}` in lib.rs");
                if module == CLIENT {
                    assert!(CLIENTS_OWN.contains(&name.as_str()), "{path}: the client uses `{name}`");
                } else {
                    assert!(name != CLIENT, "{path}: the daemon uses the client");
                }
            }
        }
    }
}
