//! Entry points for `fuzz/`: the messages of a job's client, and the graphs that BuildKit makes of a job's
//! Dockerfile.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a fuzzer ends at what must not be")]

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use bollard_buildkit_proto::{
    fsutil::types::{Packet, packet::PacketType},
    moby::buildkit::v1::{
        self as control,
        frontend::{self, result},
    },
    pb::Definition,
};
use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

use super::{
    archives::{Archive, ArchiveLimits, Trees, TreesOf},
    convert, dockerfile,
    gate::{Gate, Judged},
    isolation::{JobKeys, Source},
    packets::Judge,
    rename::Renaming,
    tar::{Findings, Passage},
};
use crate::{
    buildkit::{failure::SolveFailure, filesync::DirectoryRequest, solve::Answer},
    go_mode as mode,
    images::{admission::Admitted, inherited::Inherited},
    names::{CallerId, Namespace, Pattern, RESERVED_HOST},
    naming::{ImageName, Keys},
    policy::Rules,
};

/// A judge for a Dockerfile that the engine's own frontend reads.
fn judge() -> Arc<dockerfile::Judge> {
    Arc::new(dockerfile::Judge::builtin())
}

/// Messages, each behind its length in two bytes.
fn messages(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([tag, length], rest) = data.split_first_chunk()?;
        let (message, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        data = rest;
        Some((*tag, message))
    })
}

/// A sync, with a part from BuildKit and a part from the client. Every packet that passes to BuildKit is one
/// that it can take: nothing outside, nothing under a name of its own, no byte more than was announced.
pub fn packets(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let request = DirectoryRequest {
        name: if kind & 1 == 0 { "context" } else { "dockerfile" }.to_owned(),
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        follow_paths: Vec::new(),
    };
    let mut judge = Judge::of(&request, &judge());
    let (mut sizes, mut left) = (Vec::new(), HashMap::new());
    for (tag, message) in messages(data) {
        let message = Bytes::copy_from_slice(message);
        if tag & 1 == 1 {
            let Ok(passed) = judge.builder_says(message) else { return };
            let packet = Packet::decode(passed).unwrap();
            assert!(packet.data.is_empty() && packet.stat.is_none());
            if packet.r#type() == PacketType::PacketReq {
                left.insert(packet.id, sizes.get(packet.id as usize).copied().unwrap_or(0));
            }
            continue;
        }
        let Ok(passed) = judge.client_says(message) else { return };
        let packet = Packet::decode(passed).unwrap();
        match (packet.r#type(), packet.stat) {
            (PacketType::PacketStat, Some(stat)) => {
                for name in stat.path.split('/') {
                    assert!(!matches!(name, "" | "." | ".."), "{:?}", stat.path);
                    let number = name.get(..5).filter(|begin| begin.eq_ignore_ascii_case(".tmp."));
                    let digits = number.map_or("x", |_| &name[5..]);
                    assert!(digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
                }
                let kind = stat.mode & mode::TYPE;
                assert!([0, mode::DIR, mode::SYMLINK, mode::NAMED_PIPE].contains(&kind), "{:o}", stat.mode);
                assert!(stat.uid == 0 && stat.gid == 0 && stat.devmajor == 0 && stat.devminor == 0);
                sizes.push(u64::try_from(stat.size).unwrap());
            }
            (PacketType::PacketData, None) => {
                let left: &mut u64 = left.get_mut(&packet.id).unwrap();
                match packet.data.len() as u64 {
                    0 => assert_eq!(*left, 0),
                    length => *left = left.checked_sub(length).unwrap(),
                }
            }
            // The client's own words, which come back to it.
            (PacketType::PacketErr, None) => {}
            _ => assert!(packet.data.is_empty()),
        }
    }
}

/// A context that comes as a tar, in pieces. The output is valid input, and stays the same: but each time
/// with an entry for the root before it.
pub fn tar(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let passed = |data: &[u8], size: usize| {
        let mut passage = Passage::new("Dockerfile", judge(), Arc::new(Findings::new(true)));
        let mut out = Vec::new();
        for piece in data.chunks(size) {
            passage.take(Bytes::copy_from_slice(piece));
            while let Some(more) = passage.passed().ok()? {
                out.extend_from_slice(&more);
            }
        }
        out.extend_from_slice(&passage.end().ok()?);
        Some(out)
    };
    let Some(once) = passed(data, usize::from(*size) * 16 + 1) else { return };
    let again = passed(&once, 1 << 20).unwrap_or_else(|| panic!("refused at the second time"));
    let added = if once.starts_with(b"./\0") { 512 } else { 0 };
    assert!(again.get(added..) == Some(once.as_slice()), "another at the second time");
}

/// A file that BuildKit may unpack is judged alike however it is cut into pieces: what passes in one way is not refused
/// in another. With one exception: given much of a broken file at once, a decoder fails before it shows what came before
/// the break, which may have been a reason to refuse the file, or to copy it as no tar.
pub fn archive(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let judged = |size: usize| {
        let mut archive = Archive::new(ArchiveLimits::of(16, true), Arc::default());
        data.chunks(size).try_for_each(|piece| archive.pass(piece)).and_then(|()| archive.end())
    };
    match (judged(usize::from(*size) + 1), judged(1 << 20)) {
        (Ok(()), Err(why)) | (Err(why), Ok(())) => assert!(why.starts_with("cannot be unpacked"), "{why}"),
        (Ok(()), Ok(())) | (Err(_), Err(_)) => {}
    }
}

/// A Dockerfile's text.
pub fn dockerfile(data: &[u8]) {
    let base =
        Inherited { triggers: vec![String::from_utf8_lossy(data).into_owned()], ..Inherited::default() };
    let judge = judge();
    let _ = judge.admit(&Arc::new(base));
    let _ = judge.read("", data.to_vec());
}

/// The answer of a frontend.
pub fn graph(data: &[u8]) {
    let keys = JobKeys { salt: "5a17".into(), cache_mounts: "cafe".into(), layers: None };
    let image = Admitted::any("wharf.invalid/h/1:1");
    let sources = [Source::Image { named: "busybox", image: &image }];
    let rules = Arc::new(Rules::built_in("fuzz", Pattern::any()));
    let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("job", "1").unwrap()).unwrap();
    let caller = CallerId::Uid(1);
    let trees = TreesOf { trees: &Trees::default(), caller: &caller, context: String::new() };
    let gate = Gate::new("s1", &namespace, &keys, "linux/amd64", true, &trees, &sources);
    let judge = |result: frontend::Result| -> Option<Judged> {
        let answer = frontend::SolveResponse { result: Some(result), ..frontend::SolveResponse::default() };
        gate.judge(Answer::read(answer.encode_to_vec().into()).ok()?).ok()
    };
    let graph =
        Definition { def: messages(data).map(|(_, op)| op.to_vec()).collect(), ..Definition::default() };
    let reference = frontend::Ref { id: "r1".into(), def: Some(graph) };
    let result = Some(result::Result::Ref(reference));
    let _ = judge(frontend::Result { result, ..frontend::Result::default() });
    if let Ok(result) = frontend::Result::decode(data) {
        let _ = judge(result);
    }
}

static SHOWN: LazyLock<Renaming> = LazyLock::new(|| {
    let names = Keys::known().names(&Namespace::new("job", "1").unwrap());
    let mut shown = Renaming::new(names, "/mnt/docker");
    shown.admit(&ImageName::any("wharf.invalid/i/hold/h:1"), "reg.example/busybox:1", None);
    shown.hide_frontend(&ImageName::any("wharf.invalid/i/frontend/f:1"));
    shown
});

/// A failure of BuildKit's, with a job's texts in it, behind the length of its message in two bytes; and a report about
/// steps. A client sees none of the engine's names.
pub fn failure(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes(*length));
    let (message, details) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    let message = String::from_utf8_lossy(message).into_owned();
    let status = Status::with_details(Code::Unknown, message, Bytes::copy_from_slice(details));
    let failure = SolveFailure::read(&status);
    let _ = (failure.line(), failure.denied_source());
    assert!(!failure.message.contains('\n'), "{:?}", failure.message);
    let hidden = |text: &str| assert!(!text.contains(RESERVED_HOST), "{text:?}");
    hidden(&SHOWN.error(&failure.message));
    if let Ok(report) = control::StatusResponse::decode(details) {
        let progress = convert::progress(SHOWN.status(report, None, &mut BTreeSet::new()));
        for vertex in &progress.vertexes {
            hidden(&vertex.name);
            hidden(&vertex.error);
        }
        progress.statuses.iter().for_each(|status| hidden(&status.id));
    }
}
