use bollard_buildkit_proto::pb::{self, ExecOp, HostIp, Input, Meta, SourceOp};

use std::sync::{Arc, LazyLock};

use super::{
    super::{archives::Trees, downloads::Download, isolation::SALT_ADDRESS, tar::Tar},
    *,
};
use crate::{images::admission::Admitted, names::Pattern, policy::Rules};

fn keys() -> JobKeys {
    JobKeys { salt: "5a17".into(), cache_mounts: "cafe".into(), layers: None }
}

pub(super) fn judge(ops: &[Op]) -> Result<Judged, Refusal> {
    judge_bytes(ops.iter().map(prost::Message::encode_to_vec).collect())
}

fn judge_bytes(def: Vec<Vec<u8>>) -> Result<Judged, Refusal> {
    let reference = frontend::Ref { id: "r1".into(), def: Some(Definition { def, ..Definition::default() }) };
    judge_result(frontend::Result {
        result: Some(result::Result::Ref(reference)),
        ..frontend::Result::default()
    })
}

pub(super) fn judge_result(result: frontend::Result) -> Result<Judged, Refusal> {
    let rules = Arc::new(Rules::built_in("test", Pattern::any()));
    let namespace =
        rules.namespace(&crate::names::CallerId::Uid(1), Namespace::new("job", "1").unwrap()).unwrap();
    let url = Download::any("https://admitted.example/f", "/u", Some(5));
    let (image, tar) = (Admitted::any("wharf.invalid/h/1:1"), Tar::at("/t"));
    let sources = [Source::Image { named: "busybox", image: &image }, Source::Url(&url), Source::Tar(&tar)];
    let caller = crate::names::CallerId::Uid(1);
    // Those of one wharfd, for all tests.
    static TREES: LazyLock<Trees> = LazyLock::new(Trees::default);
    let trees = TreesOf { trees: &TREES, caller: &caller, context: "context".to_owned() };
    Gate::new("s1", &namespace, &keys(), "linux/amd64", true, &trees, &sources).result(result)
}

impl Judged {
    /// The operations of its only graph, if any of them was changed.
    pub(super) fn ops(&self) -> Vec<Op> {
        let Some(result::Result::Ref(reference)) = &self.result.result else { panic!("no graph") };
        let def = reference.def.iter().flat_map(|definition| &definition.def);
        def.map(|bytes| Op::decode(bytes.as_slice()).unwrap()).collect()
    }
}

pub(super) fn exec() -> ExecOp {
    let host = HostIp { host: keys().salt_host(), ip: SALT_ADDRESS.into() };
    ExecOp { meta: Some(Meta { extra_hosts: vec![host], ..Meta::default() }), ..ExecOp::default() }
}

pub(super) fn op(op: op::Op) -> Op {
    Op { op: Some(op), ..Op::default() }
}

pub(super) fn run(change: impl FnOnce(&mut ExecOp)) -> Result<Judged, Refusal> {
    let mut exec = exec();
    change(&mut exec);
    judge(&[op(op::Op::Exec(exec))])
}

pub(super) fn source(identifier: &str, attrs: &[(&str, &str)]) -> Result<Judged, Refusal> {
    let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    judge(&[op(op::Op::Source(SourceOp { identifier: identifier.to_owned(), attrs }))])
}

#[test]
fn an_ordinary_graph_runs() {
    assert!(run(|_| {}).is_ok());
    assert!(source("local://context", &[("local.session", "s1"), ("local.followpaths", "[]")]).is_ok());
    assert!(source("docker-image://wharf.invalid/h/1:1", &[("image.resolvemode", "local")]).is_ok());
    let digest = "a".repeat(64);
    let with_digest = format!("docker-image://wharf.invalid/h/1:1@sha256:{digest}");
    assert!(source(&with_digest, &[("image.resolvemode", "local")]).is_ok());
    let with_checksum = [("http.filename", "f"), ("http.checksum", "sha256:1")];
    assert!(source("https://admitted.example/f", &with_checksum).is_ok());
    assert!(source("http://buildkit-session/t", &[]).is_ok());
    let first = op(op::Op::Exec(exec()));
    let inputs = vec![Input { digest: definition::digest(&first.encode_to_vec()), index: 0 }];
    assert!(judge(&[first, Op { inputs, ..Op::default() }]).is_ok());
}

#[test]
fn what_is_not_known_is_refused() {
    assert!(judge(&[op(op::Op::Build(pb::BuildOp::default()))]).is_err());
    assert!(judge(&[Op::default()]).is_err());
    assert!(judge_bytes(vec![vec![0xff]]).is_err());
    let constraints = Some(WorkerConstraints { filter: vec!["x".into()] });
    assert!(judge(&[Op { constraints, ..op(op::Op::Exec(exec())) }]).is_err());
    // Field 99 of an operation, as if from a newer BuildKit.
    let mut newer = op(op::Op::Exec(exec())).encode_to_vec();
    newer.extend([0x98, 0x06, 0x01]);
    assert!(judge_bytes(vec![newer]).is_err());
    // The unknown field takes the space of a number that is encoded in fewer bytes, so that all lengths
    // are unchanged.
    let made = pb::FileActionMkDir { mode: -1, ..pb::FileActionMkDir::default() };
    let action =
        pb::FileAction { action: Some(pb::file_action::Action::Mkdir(made)), ..pb::FileAction::default() };
    let sent = op(op::Op::File(pb::FileOp { actions: vec![action] })).encode_to_vec();
    let long = [[0xff; 9].as_slice(), &[1]].concat();
    let at = sent.windows(10).position(|bytes| bytes == long).unwrap();
    let mut newer = sent.clone();
    newer[at..at + 10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0x98, 0x06, 0x80, 0x80, 0x01]);
    assert_eq!(Op::decode(&newer[..]).unwrap(), Op::decode(&sent[..]).unwrap());
    assert!(judge_bytes(vec![sent]).is_ok());
    assert!(judge_bytes(vec![newer]).is_err());
}

#[test]
fn an_entry_that_would_be_a_null_pointer_is_refused() {
    let judge = |id: &str, def: Option<Definition>| {
        let refs = [("linux/amd64".to_owned(), frontend::Ref { id: id.to_owned(), def })].into();
        let result = Some(result::Result::Refs(frontend::RefMap { refs }));
        judge_result(frontend::Result { result, ..frontend::Result::default() })
    };
    assert!(judge("", None).is_err());
    assert!(judge("r1", Some(Definition::default())).is_ok());
}
