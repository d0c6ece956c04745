//! BuildKit's own parsers, of all versions, have read the texts in `tests/instructions/found.jsonl`
//! (`tests/instructions/make`).

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
};

use serde_json::Value;

use super::{
    super::parts::{split, words},
    *,
};

/// A text with one character for each byte.
fn bytes(text: &Value) -> Vec<u8> {
    text.as_str().unwrap().chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// An instruction's parts, as far as they are compared.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    line: u64,
    keyword: Option<Vec<u8>>,
    text: Vec<u8>,
    words: Vec<Vec<u8>>,
    heredocs: Vec<(Vec<u8>, bool)>,
}

fn known(keyword: Vec<u8>) -> Option<Vec<u8>> {
    keyword.is_ascii().then_some(keyword)
}

fn expected(found: &Value) -> Parts {
    let all = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let keyword = bytes(&found["keyword"]);
    let mut words: Vec<_> = all("words").iter().map(bytes).collect();
    // From BuildKit 0.14 on there is a third one: what separates the two.
    if keyword != b"arg"
        && words.len() % 3 == 0
        && words.chunks(3).all(|of| of[2].is_empty() || of[2] == b"=")
    {
        words = words.chunks(3).flat_map(|of| of[..2].to_vec()).collect();
    }
    let heredocs = all("heredocs");
    Parts {
        line: found["line"].as_u64().unwrap(),
        keyword: known(keyword),
        text: bytes(&found["text"]),
        words,
        heredocs: heredocs.iter().map(|doc| (bytes(&doc["content"]), doc["expanded"] == true)).collect(),
    }
}

fn read_here(instruction: &Instruction) -> Parts {
    let mut found = Vec::new();
    let Instruction { line, text, keyword, arguments, heredocs, escape, .. } = instruction;
    if matches!(keyword.as_slice(), b"env" | b"arg" | b"label") {
        found = words(arguments, *escape);
    }
    let is_old = keyword != b"arg" && found.first().is_some_and(|first| !first.contains(&b'='));
    if is_old {
        let (name, value) = split(arguments);
        found = vec![name.to_vec(), value.unwrap_or_default().to_vec()];
    } else if keyword != b"arg" {
        let pairs = found.iter().flat_map(|word| word.splitn(2, |byte| *byte == b'='));
        found = pairs.map(<[u8]>::to_vec).collect();
    }
    Parts {
        line: *line as u64,
        keyword: known(keyword.clone()),
        text: text.clone(),
        words: found,
        heredocs: heredocs.iter().map(|doc| (doc.content.clone(), doc.is_expanded)).collect(),
    }
}

fn all(text: &[u8], version: Version) -> Result<Vec<Instruction>, Unclear> {
    read(text, version).collect()
}

#[test]
fn texts_are_read_as_buildkit_reads_them() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions/found.jsonl");
    let file = env::var_os("WHARF_INSTRUCTIONS").map_or(own, Into::into);
    let (mut compared, mut refused, mut unclear) = (0, 0, 0);
    for line in BufReader::new(fs::File::open(file).unwrap()).lines() {
        let Value::Array(found) = serde_json::from_str(&line.unwrap()).unwrap() else {
            panic!("not an array")
        };
        let text = bytes(&found[0]);
        let mut last = &Value::Null;
        for (version, found) in Version::ALL.into_iter().zip(&found[1..]) {
            if found != "same" {
                last = found;
            }
            let Some(expected_instructions) = last.as_array() else {
                refused += 1;
                let _ = read(&text, version).count();
                continue;
            };
            let Ok(read) = all(&text, version) else {
                unclear += 1;
                continue;
            };
            let here: Vec<_> = read.iter().map(read_here).collect();
            let expected: Vec<_> = expected_instructions.iter().map(expected).collect();
            assert_eq!(here, expected, "{version:?}: {}", found_text(&text));
            compared += 1;
        }
    }
    println!("{compared} compared, {refused} refused by BuildKit, {unclear} unclear");
    assert!(compared > 1000 && unclear * 10 < compared);
}

/// Each level around a text is a copy of it: 4 MiB in 200 levels took minutes of a processor.
#[test]
fn a_long_text_in_many_levels_is_not_read_again_at_each() {
    let nested = |levels: usize, length: usize| {
        let (begin, end) = ("${a-".repeat(levels), "}".repeat(levels));
        format!("FROM scratch\nRUN <<{begin}{}{end}\n", "x".repeat(length))
    };
    for version in Version::ALL {
        assert_eq!(all(nested(200, 256 << 10).as_bytes(), version), Err(Unclear { line: 2 }));
        for (levels, length) in [(3, 64 << 10), (20, 50)] {
            assert_eq!(all(nested(levels, length).as_bytes(), version).unwrap().len(), 2);
        }
    }
}

fn found_text(text: &[u8]) -> String {
    text.escape_ascii().to_string()
}
