//! The inputs with which the fuzzer has crashed BuildKit's frontend (`fuzz/frontend/known`): wharfd refuses
//! each before the engine's own frontend reads it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::*;
use crate::build::circles;

/// The frontend that Wharf ships: no engine has it built in.
const SHIPPED: &str = "v0.34.2";

fn below(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The judge's answer to an input: to its Dockerfile, and to its base image.
fn verdict(input: &Path) -> Result<(), String> {
    let json = |name: &str| {
        let text = fs::read(input.join(name)).unwrap_or_else(|_| b"{}".to_vec());
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let (image, options) = (json("image.json"), json("options.json"));
    let environment = texts(&image["config"]["Env"]).into_iter().map(|variable| {
        let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
        (name.to_owned(), Size::of(value))
    });
    let mut triggers = texts(&image["config"]["OnBuild"]);
    let dockerfile = fs::read(input.join("Dockerfile")).unwrap_or_default();
    if fs::read_to_string(input.join("target")).is_ok_and(|target| target.trim() == "parse") {
        // BuildKit reads only triggers as this target reads each instruction, with the comment before it.
        let text = String::from_utf8_lossy(&dockerfile);
        let lines: Vec<_> = text.lines().collect();
        triggers.extend(lines.windows(2).map(|lines| lines.join("\n")));
    }
    let base = Inherited { triggers, environment: environment.collect(), ..Inherited::default() };
    let arguments = options.as_object().into_iter().flatten().filter_map(|(key, value)| {
        Some((key.strip_prefix("build-arg:")?.to_owned(), Size::of(value.as_str()?)))
    });
    // The fuzzer's only image of such a name.
    if circles::may_never_end([("docker.io/library/base:latest", base.triggers.as_slice())].into_iter()) {
        return Err("without end".to_owned());
    }
    let rules = ReadingRules {
        arguments: arguments.collect(),
        frontend: Frontend::Builtin(None),
        ..ReadingRules::default()
    };
    let judge = Judge::new(rules);
    judge.admit(&base)?;
    judge.read("Dockerfile", dockerfile)
}

#[test]
fn inputs_that_end_the_frontend_are_refused() {
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/frontend/known");
    let mut refused = 0;
    for version in below(&known) {
        for input in below(&version) {
            let why = fs::read_to_string(input.join("why")).unwrap();
            let (kind, why) = why.trim_end().split_once(": ").unwrap();
            match kind {
                "refused" => {
                    let verdict = verdict(&input).unwrap_err();
                    assert!(verdict.contains(why), "{}: {verdict}", input.display());
                    refused += 1;
                }
                "bounded" => {}
                "contained" => {
                    assert!(version.ends_with(SHIPPED), "{}: an engine reads it itself", input.display())
                }
                _ => panic!("{}: `{kind}`", input.display()),
            }
        }
    }
    assert!(refused > 0);
}

/// The fuzzer goes on to find inputs of what is known (`scripts/fuzz-frontend`): those are refused as well.
#[test]
fn inputs_like_those_are_refused() {
    let Some(found) = std::env::var_os("WHARF_FUZZ_FOUND") else { return };
    let mut let_through = Vec::new();
    for input in below(Path::new(&found)) {
        if verdict(&input).is_ok() {
            let_through.push(input);
        }
    }
    assert!(let_through.is_empty(), "{let_through:#?}");
}
