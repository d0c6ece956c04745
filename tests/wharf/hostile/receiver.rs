//! BuildKit's receiver of files runs as root on the node: the temporary names that it chooses, and the moment
//! at which it computes a file's checksum.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};

use crate::harness::{
    Engine, Test, cases, lock, rpc,
    sender::{Bare, NO_BYTES, Sender, announced, end_of_list, file, sender},
    wait_for,
};

cases![
    temporary_names_of_the_receiver,
    errors_of_the_receiver,
    bytes_after_the_end,
    attributes_that_fill_memory,
    errors_of_the_sender,
];

const SYMLINK: u32 = 1 << 27;
const SETUID: u32 = 1 << 23;

fn link(path: &str, target: &str) -> Packet {
    let size = target.len().try_into().unwrap();
    announced(Stat { mode: SYMLINK | 0o777, linkname: target.to_owned(), size, ..file(path) })
}

fn context(entries: impl IntoIterator<Item = Packet>) -> Vec<Packet> {
    entries.into_iter().chain([end_of_list()]).collect()
}

/// The receiver writes a changed file under a temporary name first, and follows a link of that name. Whoever
/// guesses the name can write any file of the node. Its error about a link that it cannot create tells the
/// last name.
async fn temporary_names_of_the_receiver(test: Arc<Test>) {
    let directory = test.engine.socket().parent().unwrap();
    let name = test.unique("victim");
    let victim = directory.join(&name);
    fs::write(&victim, "safe!").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    // The engine sees its directory at this path.
    let target = format!("/run/engine/{name}");
    let bare = Bare { key: test.unique("key"), name: None };
    let mut before = sender(Vec::new());
    // Other tests use up numbers meanwhile.
    for _ in 0..5 {
        let (first, second) = (told(&test, &bare).await, told(&test, &bare).await);
        let mut names: Vec<String> = numbers_after(first, second).take(300).map(temporary).collect();
        names.sort();
        let with = |x: Stat| context(names.iter().map(|name| link(name, &target)).chain([announced(x)]));
        before = sender(with(file("x")));
        before.build_bare(&test, &test.engine, &bare).await.unwrap();
        let changed = with(Stat { mode: SETUID | 0o755, size: 5, ..file("x") });
        let hostile = Sender { bytes: &[b"owned", b""], ..sender(changed) };
        if hostile.build_bare(&test, &test.engine, &bare).await.is_ok() {
            break;
        }
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "owned", "on the bare engine it is overwritten");
    let mode = fs::metadata(&victim).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o4755, "and made setuid");
    fs::remove_file(&victim).unwrap();

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let refused = before.build(&test, &channel, "job#1").await;
    let text = format!("{:?}", refused.failure.unwrap());
    assert!(text.contains("the name of a file that the builder makes for itself"), "{text}");
    // The name is not shown.
    sender(context([announced(file("a"))])).build(&test, &channel, "job#1").await.ok();
    let asking = sender(context([link("a", "")]));
    let refused = asking.build(&test, &channel, "job#1").await;
    let text = format!("{refused:?}");
    assert!(text.contains("`a` is a link that points nowhere") && !text.contains(".tmp."), "{text}");
}

/// The number in the receiver's next temporary name.
async fn told(test: &Test, bare: &Bare) -> u32 {
    sender(context([announced(file("a"))])).build_bare(test, &test.engine, bare).await.unwrap();
    let refused = sender(context([link("a", "")])).build_bare(test, &test.engine, bare).await.unwrap_err();
    let (_, number) = refused.split_once(".tmp.").unwrap_or_else(|| panic!("no name is told: {refused}"));
    number[..9].parse().unwrap()
}

fn temporary(number: u32) -> String {
    format!(".tmp.{number:09}")
}

const NUMBERS: u32 = 1_000_000_000;

/// The numbers that follow `second`, which itself came some time after `first` (fsutil, `nextSuffix`).
fn numbers_after(first: u32, second: u32) -> impl Iterator<Item = u32> {
    let states = |from| std::iter::successors(Some(from), |state: &u32| Some(step(*state)));
    let candidates = (0..=u32::MAX / NUMBERS).filter_map(|k| first.checked_add(k.checked_mul(NUMBERS)?));
    let state = candidates
        .filter_map(|first| states(first).skip(1).take(1000).find(|state| state % NUMBERS == second))
        .next()
        .expect("both numbers are of one generator");
    states(state).skip(1).map(|state| state % NUMBERS)
}

fn step(state: u32) -> u32 {
    state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}

/// The receiver's errors contain paths of the node.
async fn errors_of_the_receiver(test: Arc<Test>) {
    let hostile = sender(context([announced(file(&"n".repeat(300)))]));
    let said = hostile.build_on_bare_engine(&test, &test.engine).await.unwrap_err();
    assert!(said.contains("file name too long"), "{said}");
    let of_the_node = said.split(['"', ' ', ':']).find(|word| word.starts_with('/')).map(|path| {
        let end = path.find("/nnn").expect("the path of the file");
        path[..end].trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    });
    let heard = std::mem::take(&mut *lock(&hostile.heard));
    assert!(heard.iter().any(|packet| !packet.data.is_empty()), "{heard:?}");

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let failed = hostile.build(&test, &channel, "job#1").await;
    let text = format!("{failed:?}");
    assert!(text.contains("file name too long"), "what is wrong is told: {text}");
    if let Some(path) = of_the_node {
        assert!(!text.contains(&path), "{path}: {text}");
    }
    assert!(!text.contains("/var/lib/docker") && !text.contains("buildkit-mount"), "{text}");
    let heard = std::mem::take(&mut *lock(&hostile.heard));
    assert!(heard.iter().any(|packet| packet.r#type() == PacketType::PacketErr), "{heard:?}");
    assert!(heard.iter().all(|packet| packet.data.is_empty()), "{heard:?}");
}

/// The receiver computes a checksum at a file's end, but still writes later bytes: an honest file with that
/// checksum is a cache hit for another job.
async fn bytes_after_the_end(test: Arc<Test>) {
    let name = test.unique("module");
    let honest = sender(context([announced(file(&name))]));
    let hostile = Sender { bytes: &[b"", b"evil"], ..honest.clone() };
    let path = format!("/{name}");

    let copied = test.unique("copied");
    poison(&test, &hostile).await;
    let bare = Bare { key: test.unique("key"), name: Some(format!("{copied}:1")) };
    honest.build_bare(&test, &test.engine, &bare).await.unwrap();
    let found = content(&test.engine, &format!("{copied}:1"), &path).await;
    assert_eq!(found, b"evil", "on the bare engine an empty file has the other's bytes");
    test.engine.remove_image(&format!("{copied}:1")).await;

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let name = test.unique("module");
    let context = |size| context([announced(Stat { size, ..file(&name) })]);
    const HOSTILE: [(i64, &[&[u8]], &str); 5] = [
        (0, &[b"", b"evil"], "which the builder did not request"),
        (0, &[b"evil", b""], "more bytes than announced"),
        (4, &[b"", b"evil"], "ended before all of its bytes were sent"),
        (4, &[b"evil", b"more", b""], "more bytes than announced"),
        (4, &[b"evil", b"", b"more"], "which the builder did not request"),
    ];
    for (size, bytes, text) in HOSTILE {
        let hostile = Sender { bytes, ..sender(context(size)) };
        let refused = hostile.build(&test, &channel, "thief#1").await;
        let failure = format!("{:?}", refused.failure);
        // BuildKit may have taken the file before it learns that the sync has failed.
        assert!(refused.result.is_some() || failure.contains(text), "{size} {bytes:?}: {refused:?}");
    }
    let honest = Sender { bytes: NO_BYTES, ..sender(context(0)) };
    let built = honest.build(&test, &channel, "victim#1").await;
    let found = content(&test.engine, &built.ok().image_id, &format!("/{name}")).await;
    assert_eq!(found, b"");
}

/// Tries until BuildKit has written bytes after a file's end: this depends on the right moment.
async fn poison(test: &Test, hostile: &Sender) {
    for _ in 0..500 {
        if hostile.build_on_bare_engine(test, &test.engine).await.is_ok() {
            return;
        }
    }
    panic!("no bytes were taken after a file's end");
}

async fn content(engine: &Engine, image: &str, path: &str) -> Vec<u8> {
    engine.file(image, path).await.unwrap_or_else(|| panic!("{image} has no {path}"))
}

/// BuildKit keeps all that is said of a file until its bytes have come, in the engine's own memory.
async fn attributes_that_fill_memory(test: Arc<Test>) {
    const ENTRIES: usize = 300;
    let said = |number: usize| {
        let xattrs = [("user.a".to_owned(), vec![b'x'; 1 << 20])].into();
        announced(Stat { xattrs, ..file(&format!("{number:03}")) })
    };
    let hostile = Sender { bytes: &[], stays: true, ..sender(context((0..ENTRIES).map(said))) };
    let (_, engine) = test.throw_away_engine().await;
    let before = memory(&engine);
    tokio::select! {
        ended = hostile.build_on_bare_engine(&test, &engine) => panic!("its bytes never come: {ended:?}"),
        () = wait_for("as much memory", async || {
            // Each look reads about all processes of the machine.
            tokio::time::sleep(Duration::from_millis(100)).await;
            (memory(&engine) > before + 250).then_some(())
        }) => {}
    }

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let refused = hostile.build(&test, &channel, "job#1").await;
    let failure = format!("{:?}", refused.failure);
    assert!(failure.contains("have more than 256 MiB"), "{failure}");
}

/// The MiB of memory that an engine has.
fn memory(engine: &Engine) -> u64 {
    let first = fs::read_to_string(engine.socket().parent().unwrap().join("pid")).unwrap();
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = space(first.split_whitespace().next().unwrap());
    let all =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let its = all.filter(|pid| own.is_some() && space(pid) == own);
    let kib = its.filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.to_owned();
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.sum::<u64>() >> 10
}

/// The newest engine writes to its log why a sync has failed, in the client's own words.
async fn errors_of_the_sender(test: Arc<Test>) {
    let mark = test.unique("mark");
    let failed = Packet {
        r#type: PacketType::PacketErr.into(),
        data: format!("{mark}{}", "x".repeat(1 << 20)).into_bytes(),
        ..Packet::default()
    };
    let hostile = sender(vec![failed]);
    let said = hostile.build_on_bare_engine(&test, &test.engine).await.unwrap_err();
    assert!(said.len() > 1 << 20, "on the bare engine all of it is passed on: {}", said.len());

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let failure = hostile.build(&test, &channel, "job#1").await.failure.unwrap();
    assert!(failure.message.contains(&mark) && failure.message.len() < 10_000, "{}", failure.message.len());
}
