use bollard_buildkit_proto::pb::{ExecOp, FileActionMkDir, MergeOp};
use serde_json::{Value, json};

use super::*;
use crate::build::gate::definition::{
    Fetches, Salts, names, salt,
    tests::{self as definition, action, copy, file},
    with_salts,
};

const FILE: &str = "/.wharf-0";
const NO_FILE: &str = "/no";
const TAR: &str = "http://buildkit-session/t";

fn source(identifier: &str) -> Op {
    definition::source(identifier, &[])
}

fn input(op: &Op) -> Input {
    Input { digest: digest(&op.encode_to_vec()), index: 0 }
}

fn made(path: &str) -> Action {
    Action::Mkdir(FileActionMkDir { path: path.to_owned(), ..FileActionMkDir::default() })
}

/// A step whose root and whose further mounts are these inputs.
fn run(command: &str, root: Option<&Op>, mounted: &[&Op]) -> Op {
    let inputs: Vec<Input> = root.into_iter().chain(mounted.iter().copied()).map(input).collect();
    let meta = bollard_buildkit_proto::pb::Meta { args: vec![command.to_owned()], ..Default::default() };
    let mut mounts =
        vec![Mount { input: if root.is_some() { 0 } else { -1 }, dest: "/".into(), ..Mount::default() }];
    let first = usize::from(root.is_some());
    mounts.extend((first..inputs.len()).map(|index| Mount {
        input: i64::try_from(index).unwrap(),
        output: -1,
        dest: format!("/m{index}"),
        readonly: true,
        ..Mount::default()
    }));
    Op {
        inputs,
        op: Some(op::Op::Exec(ExecOp { meta: Some(meta), mounts, ..ExecOp::default() })),
        ..Op::default()
    }
}

/// The file operation with the job's salt.
fn salted(mut op: Op) -> Op {
    let inputs = op.inputs.len();
    if let Some(op::Op::File(file)) = &mut op.op {
        salt(file, inputs, NO_FILE);
    }
    op
}

fn merge(inputs: &[&Op]) -> Op {
    let inputs = inputs.iter().map(|op| input(op)).collect();
    Op { inputs, op: Some(op::Op::Merge(MergeOp::default())), ..Op::default() }
}

/// The graph whose result is that of its last operation.
fn graph(ops: &[&Op]) -> Definition {
    let result = Op { inputs: ops.last().map(|op| input(op)).into_iter().collect(), ..Op::default() };
    let def = ops.iter().copied().chain([&result]).map(|op| op.encode_to_vec()).collect();
    Definition { def, ..Definition::default() }
}

fn on_own(graph: &Definition) -> Option<Definition> {
    let fetched = Fetches::new();
    with_salts(
        graph,
        Salts { fetched: &fetched, copied: NO_FILE, uploaded: Some(TAR), tree: None, layers: Some(FILE) },
    )
}

/// The operations of the own layers on an image, or on nothing.
fn own(below: Option<&Op>) -> [Op; 2] {
    let path = FILE.to_owned();
    let made = FileActionMkFile { path: path.clone(), mode: 0o400, ..FileActionMkFile::default() };
    let lower = match below {
        Some(below) => file(&[below], vec![action(0, -1, 0, Action::Mkfile(made))]),
        None => file(&[], vec![action(-1, -1, 0, Action::Mkfile(made))]),
    };
    let removed = Action::Rm(FileActionRm { path, ..FileActionRm::default() });
    let upper = file(&[&lower], vec![action(0, -1, 0, removed)]);
    [lower, upper]
}

#[test]
fn every_chain_begins_with_the_own_layers() {
    let (base, tools) = (source("docker-image://base"), source("docker-image://tools"));
    let first = |on: &Op| run("first", Some(on), &[&tools]);
    let second = |on: &Op| file(&[on], vec![action(0, -1, 0, made("/d"))]);
    let before = graph(&[&base, &tools, &first(&base), &second(&first(&base))]);

    let [lower, upper] = own(Some(&base));
    let expected = graph(&[&base, &lower, &upper, &tools, &first(&upper), &salted(second(&first(&upper)))]);
    let now = on_own(&before).unwrap();
    assert_eq!(now.def, expected.def);
    let own: Vec<String> = [lower, upper].iter().map(|op| input(op).digest).collect();
    let named = names(&now).filter(|(_, name)| name == OWN_LAYER).map(|(digest, _)| digest);
    assert_eq!(named.collect::<BTreeSet<_>>(), own.into_iter().collect());
}

#[test]
fn a_chain_on_nothing_has_them_too() {
    let context = source("local://context");
    let copy = || copy("a");
    // Each result of the operation, and its own actions' numbers, which follow the inputs'.
    let before = file(&[&context], vec![action(-1, 0, -1, made("/a")), action(1, 0, 0, copy())]);
    let [lower, upper] = own(None);
    let after = file(&[&context, &upper], vec![action(1, 0, -1, made("/a")), action(2, 0, 0, copy())]);
    let expected = graph(&[&lower, &upper, &context, &salted(after)]);
    assert_eq!(on_own(&graph(&[&context, &before])).unwrap().def, expected.def);

    let tools = source("docker-image://tools");
    let mut after = run("x", None, &[&tools]);
    if let Some(op::Op::Exec(exec)) = &mut after.op {
        exec.mounts[0].input = 1;
    }
    after.inputs.push(input(&upper));
    let before = graph(&[&tools, &run("x", None, &[&tools])]);
    assert_eq!(on_own(&before).unwrap().def, graph(&[&lower, &upper, &tools, &after]).def);
}

#[test]
fn a_graph_without_layers_of_its_own_stays() {
    let base = source("docker-image://base");
    assert_eq!(on_own(&graph(&[&base])), None);
}

#[test]
fn a_tar_is_unpacked_once() {
    let tar = source(TAR);
    let copy = || copy("a");
    let unpacked = file(&[&tar], vec![action(-1, 0, 0, copy())]);
    assert_eq!(on_own(&graph(&[&tar, &unpacked])), None);
    // Its files are copied to a chain of their own.
    let copied = file(&[&unpacked], vec![action(-1, 0, 0, copy())]);
    let [lower, upper] = own(None);
    let after = salted(file(&[&unpacked, &upper], vec![action(1, 0, 0, copy())]));
    let expected = graph(&[&lower, &upper, &tar, &unpacked, &after]);
    assert_eq!(on_own(&graph(&[&tar, &unpacked, &copied])).unwrap().def, expected.def);
}

fn config(layers: usize, history: &Value) -> Vec<u8> {
    let ids: Vec<String> = (0..layers).map(|layer| format!("sha256:{layer}")).collect();
    let config = json!({"architecture": "amd64", "x": {"b": 1, "a": 2}, "rootfs": {"diff_ids": ids}, "history": history});
    config.to_string().into_bytes()
}

fn line(text: &str) -> Value {
    json!({ "created_by": text })
}

fn empty(text: &str) -> Value {
    json!({"created_by": text, "empty_layer": true})
}

#[test]
fn each_layer_keeps_its_line_of_the_history() {
    let mine = || line(CREATED_BY);
    let base = source("docker-image://base");
    let step = |on: &Op| file(&[on], vec![action(0, -1, 0, made("/d"))]);
    let two = graph(&[&base, &step(&base), &step(&step(&base))]);
    let of_base = [line("b1"), empty("b2"), line("b3"), empty("b4")];
    let before = [&of_base[..], &[empty("ENV"), line("s1"), line("s2"), empty("CMD")]].concat();
    let after = [&of_base[..3], &[mine(), mine()], &before[3..]].concat();
    let now: Value =
        serde_json::from_slice(&with_history(&config(2, &json!(before)), &two).unwrap()).unwrap();
    let expected: Value = serde_json::from_slice(&config(2, &json!(after))).unwrap();
    assert_eq!(now, expected);

    // From nothing, and a copy with `--link`, which is made on nothing and put on the stage.
    let linked = file(&[], vec![action(-1, -1, 0, made("/l"))]);
    let bottom = file(&[], vec![action(-1, -1, 0, made("/s"))]);
    let both = graph(&[&bottom, &linked, &merge(&[&bottom, &linked]), &step(&merge(&[&bottom, &linked]))]);
    let before = config(0, &json!([line("s"), line("l"), line("d")]));
    let now: Value = serde_json::from_slice(&with_history(&before, &both).unwrap()).unwrap();
    assert_eq!(now["history"], json!([mine(), mine(), line("s"), mine(), mine(), line("l"), line("d")]));

    // A base image without lines, and one without steps: BuildKit decides.
    assert_eq!(with_history(&config(2, &json!([])), &two), None);
    assert_eq!(with_history(&config(1, &json!([line("b")])), &graph(&[&base])), None);
}
