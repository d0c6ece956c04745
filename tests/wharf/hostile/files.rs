//! A client's false statements about its files, which BuildKit writes on the node as root.

use std::{fs, future::pending, path::PathBuf, sync::Arc};

use bollard_buildkit_proto::fsutil::types::Stat;

use crate::harness::{
    Engine, Test, cases, rpc,
    sender::{Sender, announced, end_of_list, file, sender},
    wait_for,
};

cases![
    devices_of_the_node,
    attributes_on_files_of_the_node,
    an_entry_outside_the_directory,
    an_entry_after_the_end_of_the_list
];

const SYMLINK: u32 = 1 << 27;
const CHAR_DEVICE: u32 = 1 << 26 | 1 << 21;

/// The attributes of a link are set on its target, in the engine's own file system.
async fn attributes_on_files_of_the_node(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let directory = test.engine.socket().parent().unwrap();
    let name = test.unique("victim");
    let victim = directory.join(&name);
    fs::write(&victim, "").unwrap();
    let hostile = |attribute: &str| {
        // The engine sees its directory at this path.
        let link = Stat { mode: SYMLINK | 0o777, linkname: format!("/run/engine/{name}"), ..file("link") };
        let xattrs = [(attribute.to_owned(), b"1".to_vec())].into();
        sender(vec![announced(Stat { xattrs, ..link }), end_of_list()])
    };
    let attributes = || {
        let mut names = vec![0; 4096];
        let length = rustix::fs::listxattr(&victim, &mut names[..]).unwrap();
        String::from_utf8(names[..length].to_vec()).unwrap()
    };
    hostile("user.bare").build_on_bare_engine(&test, &test.engine).await.unwrap();
    assert!(attributes().contains("user.bare"), "on the bare engine it is set: {}", attributes());

    let channel = rpc::connect(&wharfd.socket()).await;
    hostile("user.wharf").build(&test, &channel, "job#1").await.ok();
    assert!(!attributes().contains("user.wharf"), "{}", attributes());
    fs::remove_file(victim).unwrap();
}

/// BuildKit opens the file that it is sent as a Dockerfile, outside of any container. Here it is `/dev/null`,
/// whose end is reached at once.
async fn devices_of_the_node(test: Arc<Test>) {
    let null = Stat { mode: CHAR_DEVICE | 0o666, devmajor: 1, devminor: 3, ..file("Dockerfile") };
    let hostile = Sender { dockerfile: null.clone(), text: "", ..sender(vec![end_of_list()]) };
    let read = hostile.build_on_bare_engine(&test, &test.engine).await.unwrap_err();
    // The newest engine checks the type first.
    let said = if test.engine.is_containerd() { "not a regular file" } else { "cannot be empty" };
    assert!(read.contains(said), "{read}");

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let ignored = Stat { path: ".dockerignore".to_owned(), ..null };
    for hostile in [hostile, sender(vec![announced(ignored), end_of_list()])] {
        let refused = hostile.build(&test, &channel, "job#1").await;
        assert!(format!("{refused:?}").contains("is a device"), "{refused:?}");
    }
}

/// An entry called `..` replaces the directory in which the engine keeps the client's files.
async fn an_entry_outside_the_directory(test: Arc<Test>) {
    let hostile = Sender { stays: true, ..sender(vec![announced(file("..")), end_of_list()]) };
    // The newest engine refuses the entry itself.
    if !test.engine.is_containerd() {
        let (_, engine) = test.throw_away_engine().await;
        tokio::select! {
            () = wait_for("a file of ours", async || layers_that_are_files(&engine).map(drop)) => {}
            // The engine may never finish.
            () = async {
                let _ = hostile.build_on_bare_engine(&test, &engine).await;
                pending().await
            } => {}
        }
    }
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let refused = hostile.build(&test, &channel, "job#1").await;
    assert!(format!("{refused:?}").contains("`..` is not a path inside"), "{refused:?}");
    assert_eq!(layers_that_are_files(&test.engine), None);
}

/// A file in place of the directory that the classic store has for each layer.
fn layers_that_are_files(engine: &Engine) -> Option<PathBuf> {
    let layers = fs::read_dir(engine.socket().parent().unwrap().join("data/overlay2")).ok()?;
    layers.map(|layer| layer.unwrap().path()).find(|layer| layer.is_file())
}

async fn an_entry_after_the_end_of_the_list(test: Arc<Test>) {
    let hostile =
        [sender(vec![end_of_list(), end_of_list()]), sender(vec![end_of_list(), announced(file("file"))])];
    let (_, engine) = test.throw_away_engine().await;
    let _ = hostile[0].build_on_bare_engine(&test, &engine).await;
    wait_for("the bare engine's end", async || (!is_up(&engine).await).then_some(())).await;

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    for hostile in hostile {
        let refused = hostile.build(&test, &channel, "job#1").await;
        assert!(format!("{:?}", refused.failure.unwrap()).contains("after the end of the list"));
    }
    sender(vec![announced(file("file")), end_of_list()]).build(&test, &channel, "job#1").await.ok();
}

async fn is_up(engine: &Engine) -> bool {
    tokio::net::UnixStream::connect(engine.socket()).await.is_ok()
}
