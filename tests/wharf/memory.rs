//! Memory: a context of any size passes through both processes in pieces, and a reader that stops also stops
//! the sender.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustix::fs::OFlags;
use tokio::{io::AsyncWriteExt as _, sync::Mutex};
use wharf::wire::v1::BuildSpec;

use crate::harness::{Test, Wharf, cases, image::context_tar, relay::Relay, rpc, wait_for, wait_for_at_most};

cases![by_sync, by_tar, a_stopped_reader_stops_the_sender];

const SMALL: usize = 50 << 20;
const LARGE: usize = 1 << 30;
/// How much more memory a context may take that is twenty times as large: a few pieces and windows, which a fast
/// engine leaves empty and a slow one full. One file of it kept in memory would take 64 MiB.
const MORE: u64 = 32 << 20;
/// The large build takes minutes on a busy machine; the limit of a whole test is enough.
const BUILD: Duration = Duration::from_secs(600);
/// Only one test at a time: they use much of the disk and the machine.
static HEAVY: Mutex<()> = Mutex::const_new(());

/// The peaks of the client's and the daemon's memory.
#[derive(Debug)]
struct Peaks {
    client: u64,
    daemon: u64,
}

/// The peak of a process's resident memory in bytes; `None` after the process has ended.
fn peak(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

/// A Dockerfile that makes BuildKit request the whole context.
fn dockerfile(base: &str) -> String {
    format!("FROM {base}\nRUN --mount=type=bind,target=/c cat /c/d/* | wc -c > /bytes\n")
}

const FILES: usize = 16;

/// A pipe that takes nothing more until it is read: its reader, the number of bytes in it, its writer.
fn full_pipe() -> (PipeReader, usize, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut filled = 0;
    // A pipe has room for whole pages; smaller pieces may fit where a page does not.
    while let Ok(written) = writer.write(&[0]) {
        filled += written;
    }
    rustix::fs::fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, filled, writer)
}

/// Runs `wharf build` and records both processes' peaks.
async fn measured(test: &Test, base: &str, bytes: usize, by_tar: bool) -> Peaks {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(test, &wharfd, "job#1");
    let piece = vec![0x5a_u8; bytes / FILES];
    let context = test.new_dir("context");
    let mut command = if by_tar {
        job.command(["build", "-q", "-"])
    } else {
        fs::write(context.join("Dockerfile"), dockerfile(base)).unwrap();
        fs::create_dir(context.join("d")).unwrap();
        for index in 0..FILES {
            fs::write(context.join(format!("d/f{index}")), &piece).unwrap();
        }
        job.command(["build", "-q", context.to_str().unwrap()])
    };
    // Full, so that the client waits at its end: a process that has ended has no memory to look at.
    let (mut stdout, filled, full) = full_pipe();
    let mut client = command.stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut stdin = client.stdin.take().unwrap();
    let head = by_tar.then(|| context_tar(&[("Dockerfile", &dockerfile(base))]));
    let feed = tokio::spawn(async move {
        let Some(mut head) = head else { return };
        // A tar ends with two empty blocks.
        head.truncate(head.len() - 1024);
        let _ = stdin.write_all(&head).await;
        for index in 0..FILES {
            let mut header = tar::Header::new_gnu();
            header.set_path(format!("d/f{index}")).unwrap();
            header.set_size(piece.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            let _ = stdin.write_all(header.as_bytes()).await;
            let _ = stdin.write_all(&piece).await;
            let rest = piece.len().next_multiple_of(512) - piece.len();
            let _ = stdin.write_all(&vec![0; rest]).await;
        }
        let _ = stdin.write_all(&[0; 1024]).await;
    });
    let pid = i32::try_from(client.id().unwrap()).unwrap();
    wait_for_at_most(BUILD, "the build's end", async || {
        assert!(client.try_wait().unwrap().is_none(), "the client ended");
        let ended = |line: &String| line.contains("BuildService/Build") && line.contains("ended");
        wharfd.log().iter().any(ended).then_some(())
    })
    .await;
    let seen = peak(pid).expect("the client waits");
    let printed = tokio::task::spawn_blocking(move || {
        let mut printed = Vec::new();
        stdout.read_to_end(&mut printed).unwrap();
        printed.split_off(filled)
    });
    let output = client.wait_with_output().await.unwrap();
    feed.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let id = String::from_utf8(printed.await.unwrap()).unwrap();
    let wanted = bytes / FILES * FILES;
    assert_eq!(test.engine.text(id.trim(), "/bytes").await, format!("{wanted}\n"));
    let daemon = peak(wharfd.process().pid().as_raw_nonzero().get()).unwrap();
    wharfd.terminate().await;
    fs::remove_dir_all(context).unwrap();
    Peaks { client: seen, daemon }
}

async fn compared(test: &Test, by_tar: bool) {
    let _one_at_a_time = HEAVY.lock().await;
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let caches = test.engine.large_caches().await;
    let small = measured(test, &base, SMALL, by_tar).await;
    let large = measured(test, &base, LARGE, by_tar).await;
    test.engine.forget_large_caches(&caches).await;
    assert!(large.client < small.client + MORE, "{small:?} {large:?}");
    assert!(large.daemon < small.daemon + MORE, "{small:?} {large:?}");
}

async fn by_sync(test: Arc<Test>) {
    compared(&test, false).await;
}

async fn by_tar(test: Arc<Test>) {
    compared(&test, true).await;
}

/// When the engine stops reading, no more of the client's pieces are accepted. When it reads again, the build
/// continues.
async fn a_stopped_reader_stops_the_sender(test: Arc<Test>) {
    const PIECE: usize = 256 << 10;
    const PIECES: usize = 400;
    /// How many pieces the engine reads before it stops.
    const FIRST: usize = 16;
    let relay = Relay::start(&test);
    let wharfd = test.wharfd_with(None, &["--engine", &relay.address()]).await;
    let sent = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&sent);
    let mut head = context_tar(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    head.truncate(head.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size((PIECE * PIECES) as u64);
    header.set_cksum();
    head.extend(header.as_bytes());
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let pieces = move |count: usize| {
        let counted = Arc::clone(&counted);
        stream::iter(0..count).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Bytes::from(vec![0; PIECE])
        })
    };
    // Only the first pieces, until the relay stands still.
    let pieces = stream::once(async move { Bytes::from(head) })
        .chain(pieces(FIRST))
        .chain(stream::once(async move {
            let _ = gone.await;
            Bytes::new()
        }))
        .chain(pieces(PIECES - FIRST))
        .chain(stream::iter([Bytes::from(vec![0; 1024])]));
    let channel = rpc::connect(&wharfd.socket()).await;
    let building = channel.clone();
    let build = tokio::spawn(async move {
        rpc::build(&building, rpc::start("job#1", BuildSpec::default()), pieces).await
    });
    wait_for("the engine to read", async || (relay.passed() >= FIRST * PIECE).then_some(())).await;
    relay.pause();
    go.send(()).unwrap();

    // It stands still if nothing was sent while wharfd gave so many answers on the same connection.
    let (mut taken, mut answers) = (0, 0);
    wait_for("the sender to stop", async || {
        rpc::health(&channel, "").await;
        let now = sent.load(Ordering::Relaxed);
        answers = if now == taken { answers + 1 } else { 0 };
        taken = now;
        (answers == 100).then_some(())
    })
    .await;
    assert!(!build.is_finished());
    let taken = taken * PIECE;
    assert!(taken < 24 << 20, "{taken} bytes were taken, which nobody reads");
    let memory = peak(wharfd.process().pid().as_raw_nonzero().get()).unwrap();
    relay.resume();
    build.await.unwrap().ok();
    assert_eq!(sent.load(Ordering::Relaxed), PIECES);
    assert!(memory < 200 << 20, "{memory}");
    assert!(Path::new(&wharfd.socket()).exists());
    assert_eq!(wharfd.terminate().await, 0);
}
