use bollard_buildkit_proto::pb::{
    ExecOp, FileActionCopy, FileActionMkDir, FileActionMkFile, Input, Location, Locations, Meta, OpMetadata,
    Platform, Source, SourceInfo, SourceOp, WorkerConstraints,
};

use super::*;

const URL: &str = "https://example.com/f";

pub(in crate::build::gate) fn source(identifier: &str, attrs: &[(&str, &str)]) -> Op {
    let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let source = SourceOp { identifier: identifier.to_owned(), attrs };
    Op { op: Some(op::Op::Source(source)), ..Op::default() }
}

fn run(command: &str, inputs: &[&Op]) -> Op {
    let meta = Some(Meta { args: vec![command.to_owned()], ..Meta::default() });
    let inputs = inputs.iter().map(|op| Input { digest: digest_of(op), index: 0 }).collect();
    Op { inputs, op: Some(op::Op::Exec(ExecOp { meta, ..ExecOp::default() })), ..Op::default() }
}

fn digest_of(op: &Op) -> String {
    digest(&op.encode_to_vec())
}

/// A graph whose operations are named by their positions.
fn graph(ops: &[&Op]) -> Definition {
    let named = |index: usize| OpMetadata {
        ignore_cache: true,
        description: [("llb.customname".to_owned(), index.to_string())].into(),
        ..OpMetadata::default()
    };
    let places = || ops.iter().enumerate().map(|(index, op)| (index, digest_of(op)));
    let line = Locations { locations: vec![Location::default()] };
    Definition {
        def: ops.iter().map(|op| op.encode_to_vec()).collect(),
        metadata: places().map(|(index, digest)| (digest, named(index))).collect(),
        source: Some(Source {
            locations: places().map(|(_, digest)| (digest, line.clone())).collect(),
            ..Source::default()
        }),
    }
}

#[test]
fn the_text_of_a_large_graph_is_cut_and_nothing_else() {
    let text = |lines: usize| "COPY a b\n".repeat(lines).into_bytes();
    let with = |data: Vec<u8>| {
        let mut graph = graph(&[&run("true", &[])]);
        if let Some(source) = &mut graph.source {
            source.infos = vec![SourceInfo { data, ..SourceInfo::default() }];
        }
        graph
    };
    let (small, large) = (with(text(1000)), with(text(1 << 19)));
    for graph in [&small, &large] {
        let mut cut = graph.clone();
        cut_text(&mut cut);
        let lines = if graph == &small { 1000 } else { TEXT_BYTES_KEPT / 9 };
        assert_eq!(cut, with(text(lines)));
    }
    // A single line is longer than the part that is kept.
    let mut line = with(vec![b'x'; GRAPH_BYTES_MAX]);
    cut_text(&mut line);
    assert_eq!(line, with(Vec::new()));
}

/// Where BuildKit gets the file from.
const OWN_URL: &str = "http://buildkit-session/u";

fn fetches(own: &[(&str, &str)]) -> Fetches {
    let attributes = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    [(URL.to_owned(), Fetched { url: OWN_URL.to_owned(), attributes, modified: Some(5) })].into()
}

const NO_FILE: &str = "/5a17.salt.wharf.invalid";

fn salts(fetched: &Fetches) -> Salts<'_> {
    Salts { fetched, copied: NO_FILE, uploaded: Some("http://buildkit-session/t"), tree: None, layers: None }
}

fn salted(graph: &Definition, own: &[(&str, &str)]) -> Option<Definition> {
    with_salts(graph, salts(&fetches(own)))
}

pub(in crate::build::gate) fn action(
    input: i64,
    secondary_input: i64,
    output: i64,
    action: Action,
) -> FileAction {
    FileAction { input, secondary_input, output, action: Some(action) }
}

pub(in crate::build::gate) fn copy(source: &str) -> Action {
    Action::Copy(FileActionCopy { src: source.to_owned(), ..FileActionCopy::default() })
}

fn no_file() -> Action {
    Action::Rm(FileActionRm { path: NO_FILE.into(), allow_not_found: true, ..FileActionRm::default() })
}

pub(in crate::build::gate) fn file(inputs: &[&Op], actions: Vec<FileAction>) -> Op {
    let inputs = inputs.iter().map(|op| Input { digest: digest_of(op), index: 0 }).collect();
    Op { inputs, op: Some(op::Op::File(FileOp { actions })), ..Op::default() }
}

#[test]
fn what_comes_of_a_changed_source_keeps_its_name_and_its_lines() {
    let url = source(URL, &[("http.filename", "f")]);
    let other = source("local://context", &[]);
    let aside = run("aside", &[&other]);
    let last = run("last", &[&aside, &run("first", &[&url])]);
    let before = graph(&[&url, &run("first", &[&url]), &other, &aside, &last]);

    let url = source(OWN_URL, &[("http.filename", "f"), ("http.perm", "1")]);
    let first = run("first", &[&url]);
    let last = run("last", &[&aside, &first]);
    let after = graph(&[&url, &first, &other, &aside, &last]);
    assert_ne!(before, after);
    assert_eq!(salted(&before, &[("http.perm", "1")]), Some(after));
}

#[test]
fn a_graph_that_has_them_is_left_alone() {
    let url = source(OWN_URL, &[("http.filename", "f"), ("http.perm", "1")]);
    let other = source("https://example.com/other", &[]);
    let graph = graph(&[&url, &other, &run("true", &[&url, &other])]);
    assert_eq!(salted(&graph, &[("http.perm", "1")]), None);
    assert_eq!(with_salts(&graph, salts(&Fetches::new())), None);
    let own = fetches(&[("http.perm", "2")]);
    assert!(with_salts(&graph, salts(&[(OWN_URL.to_owned(), own[URL].clone())].into())).is_some());
}

#[test]
fn what_is_copied_is_the_jobs_own() {
    let (base, context) = (source("docker-image://x", &[]), source("local://context", &[]));
    let copies = |last: i64| vec![action(0, 1, -1, copy("a")), action(2, 1, last, copy("b"))];
    let before = file(&[&base, &context], copies(0));
    let after = file(&[&base, &context], [copies(-1), vec![action(3, -1, 0, no_file())]].concat());
    let now = salted(&graph(&[&base, &context, &before, &run("true", &[&before])]), &[]);
    assert_eq!(now, Some(graph(&[&base, &context, &after, &run("true", &[&after])])));

    // Each result has it.
    let results = [action(0, 1, 1, copy("a")), action(0, 1, 0, copy("b"))];
    let now = salted(&graph(&[&base, &context, &file(&[&base, &context], results.into())]), &[]).unwrap();
    let results = [action(0, 1, -1, copy("a")), action(0, 1, -1, copy("b"))];
    let salt = [action(2, -1, 1, no_file()), action(3, -1, 0, no_file())];
    let expected = file(&[&base, &context], [results, salt].concat());
    assert_eq!(now.def.last(), Some(&expected.encode_to_vec()));
}

#[test]
fn everything_but_the_unpacking_of_the_tar_has_a_salt() {
    let base = source("docker-image://x", &[]);
    let (url, tar) = (source(URL, &[("http.perm", "1")]), source("http://buildkit-session/t", &[]));
    let copied = vec![action(0, 1, 0, copy("f"))];
    let unpacked = file(&[&tar], vec![action(-1, 0, 0, copy("f"))]);
    assert_eq!(salted(&graph(&[&tar, &unpacked]), &[("http.perm", "1")]), None);
    let on_image = graph(&[&base, &tar, &file(&[&base, &tar], copied.clone())]);
    assert!(salted(&on_image, &[("http.perm", "1")]).is_some());
    let directory = action(0, -1, 0, Action::Mkdir(FileActionMkDir::default()));
    let text = action(0, -1, 0, Action::Mkfile(FileActionMkFile::default()));
    for made in [directory, text] {
        assert!(salted(&graph(&[&base, &file(&[&base], vec![made])]), &[]).is_some());
    }
    let other = source("http://buildkit-session/other", &[]);
    let of_other = graph(&[&base, &other, &file(&[&base, &other], copied.clone())]);
    assert!(salted(&of_other, &[]).is_some());
    let fetched = graph(&[&base, &url, &file(&[&base, &url], copied)]);
    assert!(salted(&fetched, &[("http.perm", "1")]).is_some());
}

#[test]
fn an_operation_is_encoded_as_it_came() {
    let op = |attrs: &[(&str, &str)]| Op {
        platform: Some(Platform { os: "linux".into(), ..Platform::default() }),
        constraints: Some(WorkerConstraints::default()),
        ..source(URL, attrs)
    };
    let own = fetches(&[("http.perm", "1")]);
    for encode in [by_number, kind_last] {
        let now = Seen::default().salted(&encode(&op(&[])), salts(&own)).unwrap();
        let expected = Op { op: source(OWN_URL, &[("http.perm", "1")]).op, ..op(&[]) };
        assert_eq!(now, encode(&expected));
    }
    assert_eq!(kind_last(&Op { ..op(&[]) }).get(..11), Some(&b"\x52\x07\x12\x05linux\x5a\x00"[..]));
}

#[test]
fn a_step_without_lines_has_no_entry_for_them() {
    let url = source(URL, &[]);
    let mut graph = graph(&[&url, &run("true", &[&url])]);
    for locations in graph.source.as_mut().unwrap().locations.values_mut() {
        locations.locations.clear();
    }
    let now = salted(&graph, &[("http.perm", "1")]).unwrap();
    assert!(now.source.unwrap().locations.is_empty());
}

/// The session has no headers, so BuildKit gives the file no time.
#[test]
fn the_copy_of_a_url_has_its_time() {
    let (url, other) = (source(URL, &[]), source("local://context", &[]));
    let copy = |timestamp| {
        let copy = FileActionCopy { src: "f".to_owned(), timestamp, ..FileActionCopy::default() };
        Action::Copy(copy)
    };
    let times = |graph: &Definition| -> Vec<i64> {
        let op = Op::decode(graph.def.last().unwrap().as_slice()).unwrap();
        let Some(op::Op::File(file)) = op.op else { panic!("{op:?}") };
        let copies = file.actions.into_iter().filter_map(|action| match action.action {
            Some(Action::Copy(copy)) => Some(copy.timestamp),
            _ => None,
        });
        copies.collect()
    };
    // One that says its time itself (`SOURCE_DATE_EPOCH`), and one of another file.
    let actions = vec![action(-1, 0, -1, copy(-1)), action(2, 0, -1, copy(7)), action(3, 1, 0, copy(-1))];
    let copied = graph(&[&url, &other, &file(&[&url, &other], actions)]);
    assert_eq!(times(&salted(&copied, &[]).unwrap()), [5, 7, -1]);
    let mut unknown = fetches(&[]);
    unknown.get_mut(URL).unwrap().modified = None;
    assert_eq!(times(&with_salts(&copied, salts(&unknown)).unwrap()), [-1, 7, -1]);
}

#[test]
fn the_checksum_of_a_dockerfile_counts() {
    let own = [("http.checksum", "sha256:known")];
    let of = |attrs: &[(&str, &str)]| {
        let graph = salted(&graph(&[&source(URL, attrs)]), &own).unwrap();
        let op = Op::decode(graph.def[0].as_slice()).unwrap();
        let Some(op::Op::Source(source)) = op.op else { panic!("{op:?}") };
        assert_eq!(source.identifier, OWN_URL);
        source.attrs["http.checksum"].clone()
    };
    assert_eq!(of(&[]), "sha256:known");
    assert_eq!(of(&[("http.checksum", "sha256:given")]), "sha256:given");
}

#[test]
fn a_graph_that_runs_fetches_from_the_session_alone() {
    let own = fetches(&[]);
    let only = |urls: &[&str]| {
        let sources: Vec<Op> = urls.iter().map(|url| source(url, &[])).collect();
        fetches_only(&graph(&sources.iter().collect::<Vec<_>>()), &own)
    };
    assert!(only(&[OWN_URL, "local://context"]));
    for bad in [URL, "http://buildkit-session/other", "https://other.example/"] {
        assert!(!only(&[OWN_URL, bad]), "{bad}");
    }
    assert!(!fetches_only(&Definition { def: vec![vec![0xff]], ..Definition::default() }, &own));
}
