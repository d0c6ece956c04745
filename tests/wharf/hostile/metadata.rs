//! Metadata that BuildKit's receiver sets on files without including it in their checksums: an honest file
//! with such a checksum is a cache hit for another job.

use std::sync::Arc;

use bollard_buildkit_proto::fsutil::types::{Packet, Stat};

use crate::harness::{
    Test, cases, rpc,
    sender::{Bare, Sender, announced, end_of_list, file, sender},
};

cases![a_hard_link_with_another_mode];

/// Go's encoding of the bit.
const SETUID: u32 = 1 << 23;

fn context(entries: impl IntoIterator<Item = Stat>) -> Vec<Packet> {
    entries.into_iter().map(announced).chain([end_of_list()]).collect()
}

/// The mode of `path` in the result of an honest job's build on the bare engine.
async fn mode_on_bare_engine(test: &Test, honest: &Sender, path: &str) -> u32 {
    let name = test.unique("copied");
    let bare = Bare { key: test.unique("key"), name: Some(format!("{name}:1")) };
    honest.build_bare(test, &test.engine, &bare).await.unwrap();
    let (mode, _) = test.engine.entry(&format!("{name}:1"), path).await.unwrap();
    test.engine.remove_image(&format!("{name}:1")).await;
    mode & 0o7777
}

/// A hard link has its file's checksum, whatever the link's metadata are, and these metadata are set on both
/// names.
async fn a_hard_link_with_another_mode(test: Arc<Test>) {
    let contexts = |name: &str| {
        let further = |mode| Stat { mode, linkname: name.to_owned(), ..file(&format!("{name}-2")) };
        [further(0o644), further(SETUID | 0o777)].map(|further| sender(context([file(name), further])))
    };
    let name = test.unique("tool");
    let [honest, hostile] = contexts(&name);
    hostile.build_on_bare_engine(&test, &test.engine).await.unwrap();
    let mode = mode_on_bare_engine(&test, &honest, &format!("/{name}")).await;
    assert_eq!(mode, 0o4777, "on the bare engine an honest file is setuid");

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let name = test.unique("tool");
    let [honest, hostile] = contexts(&name);
    let refused = hostile.build(&test, &channel, "thief#1").await;
    let text = format!("{:?}", refused.failure);
    assert!(text.contains("has another mode or other"), "{refused:?}");
    let built = honest.build(&test, &channel, "victim#1").await;
    let (mode, _) = test.engine.entry(&built.ok().image_id, &format!("/{name}")).await.unwrap();
    assert_eq!(mode & 0o7777, 0o644);
}
