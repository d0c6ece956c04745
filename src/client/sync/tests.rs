//! The sender against a receiver that behaves like BuildKit's.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// A directory that is removed with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wharf-sync-{:032x}", {
            let mut random = [0; 16];
            getrandom::fill(&mut random).unwrap();
            u128::from_ne_bytes(random)
        }));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

type Requests = mpsc::Sender<Result<Bytes, io::Error>>;

struct Receiver {
    requests: Requests,
    packets: Packets,
    sync: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Receiver {
    #[allow(clippy::disallowed_methods, reason = "the test's end owns it")]
    fn of(tree: Tree, request: FileSync) -> Self {
        let (requests, incoming) = mpsc::channel(8);
        let (out, packets) = channel();
        let sync = tokio::spawn(send(Arc::new(tree), request, ReceiverStream::new(incoming), out));
        Self { requests, packets, sync }
    }

    async fn next(&mut self) -> Option<Packet> {
        Some(Packet::decode(self.packets.next().await?).unwrap())
    }

    async fn stats(&mut self) -> Vec<Stat> {
        let mut stats = Vec::new();
        loop {
            let packet = self.next().await.unwrap();
            assert_eq!(packet.r#type(), PacketType::PacketStat);
            let Some(stat) = packet.stat else { return stats };
            stats.push(stat);
        }
    }

    async fn say(&self, kind: PacketType, id: u32, data: &[u8]) {
        let packet = Packet { r#type: kind.into(), id, data: data.to_vec(), ..Packet::default() };
        let _ = self.requests.send(Ok(packet.encode_to_vec().into())).await;
    }

    async fn ask(&self, id: u32) {
        self.say(PacketType::PacketReq, id, &[]).await;
    }

    /// Receives packets until `count` files are complete.
    async fn files(&mut self, count: usize) -> BTreeMap<u32, Vec<u8>> {
        let (mut open, mut whole) = (BTreeMap::<u32, Vec<u8>>::new(), BTreeMap::new());
        while whole.len() < count {
            let packet = self.next().await.unwrap();
            assert_eq!(packet.r#type(), PacketType::PacketData);
            assert!(packet.data.len() <= CHUNK_BYTES);
            if packet.data.is_empty() {
                whole.insert(packet.id, open.remove(&packet.id).unwrap_or_default());
            } else {
                open.entry(packet.id).or_default().extend(packet.data);
            }
        }
        whole
    }

    /// Expects an error packet; returns its text and the sender's error.
    async fn failed(mut self) -> (String, Error) {
        loop {
            let packet = self.next().await.expect("an ERR packet before the end");
            if packet.r#type() == PacketType::PacketErr {
                return (String::from_utf8(packet.data).unwrap(), self.sync.await.unwrap().unwrap_err());
            }
        }
    }
}

fn all() -> FileSync {
    FileSync { directory: "context".into(), ..FileSync::default() }
}

#[tokio::test]
async fn sends_what_is_asked_for() {
    let dir = Scratch::new();
    fs::create_dir(dir.path().join("a")).unwrap();
    let large: Vec<u8> = (0..CHUNK_BYTES * 3 + 5).map(|n| (n % 251) as u8).collect();
    fs::write(dir.path().join("a/large"), &large).unwrap();
    fs::write(dir.path().join("a.txt"), "text").unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    fs::write(dir.path().join("kept"), "not asked for").unwrap();

    let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
    let stats = receiver.stats().await;
    let paths: Vec<&str> = stats.iter().map(|stat| stat.path.as_str()).collect();
    assert_eq!(paths, ["a", "a/large", "a.txt", "empty", "kept"]);
    for id in [3, 1, 2] {
        receiver.ask(id).await;
    }
    let files = receiver.files(3).await;
    assert_eq!(files, BTreeMap::from([(1, large.clone()), (2, b"text".to_vec()), (3, Vec::new())]));
    receiver.say(PacketType::PacketFin, 0, &[]).await;
    assert_eq!(receiver.next().await.unwrap().r#type(), PacketType::PacketFin);
    assert_eq!(receiver.next().await, None);
    receiver.sync.await.unwrap().unwrap();
}

#[tokio::test]
async fn more_requests_than_the_queue_holds_are_answered() {
    let dir = Scratch::new();
    let count = QUEUE * 3;
    for n in 0..count {
        fs::write(dir.path().join(format!("{n:05}")), n.to_string()).unwrap();
    }
    let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
    assert_eq!(receiver.stats().await.len(), count);
    let requests = receiver.requests.clone();
    let asking = async {
        for id in 0..count {
            let packet = Packet { r#type: 1, id: id as u32, ..Packet::default() };
            requests.send(Ok(packet.encode_to_vec().into())).await.unwrap();
        }
    };
    let (files, ()) = tokio::join!(receiver.files(count), asking);
    assert!(files.iter().all(|(id, bytes)| id.to_string().into_bytes() == *bytes));
}

#[tokio::test]
async fn what_was_not_announced_is_refused() {
    for id in [0, 1, 7] {
        let dir = Scratch::new();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
        receiver.stats().await;
        if id == 1 {
            receiver.ask(id).await;
            receiver.files(1).await;
        }
        receiver.ask(id).await;
        let (text, error) = receiver.failed().await;
        assert!(matches!(error, Error::UnknownFile(found) if found == id), "{error:?}");
        assert!(text.contains(&format!("entry {id}")), "{text}");
    }
}

#[tokio::test]
async fn a_file_that_changed_is_named() {
    let changes: [fn(&Path); 4] = [
        |file| fs::write(file, "x").unwrap(),
        |file| fs::remove_file(file).unwrap(),
        |file| {
            fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", file).unwrap();
        },
        |file| {
            fs::remove_file(file).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                file,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                0,
            )
            .unwrap();
        },
    ];
    for change in changes {
        let dir = Scratch::new();
        fs::write(dir.path().join("data.bin"), "longer").unwrap();
        let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
        receiver.stats().await;
        change(&dir.path().join("data.bin"));
        receiver.ask(0).await;
        let (text, error) = receiver.failed().await;
        assert!(text.contains("data.bin"), "{text}");
        assert_eq!(text, error.to_string());
    }
}

#[tokio::test]
async fn a_file_that_grew_is_sent_as_announced() {
    let dir = Scratch::new();
    fs::write(dir.path().join("log"), "one").unwrap();
    let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
    receiver.stats().await;
    fs::write(dir.path().join("log"), "one two").unwrap();
    receiver.ask(0).await;
    assert_eq!(receiver.files(1).await, BTreeMap::from([(0, b"one".to_vec())]));
}

#[tokio::test]
async fn a_receiver_that_goes_ends_the_sender() {
    let dir = Scratch::new();
    fs::File::create(dir.path().join("large")).unwrap().set_len(64 * 1024 * 1024).unwrap();
    let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
    receiver.stats().await;
    receiver.ask(0).await;
    receiver.next().await.unwrap();
    drop(receiver.packets);
    drop(receiver.requests);
    assert!(matches!(receiver.sync.await.unwrap(), Err(Error::Broken(_))));
}

#[tokio::test]
async fn a_sync_that_is_dropped_ends_its_threads() {
    let dir = Scratch::new();
    fs::File::create(dir.path().join("large")).unwrap().set_len(64 * 1024 * 1024).unwrap();
    let mut receiver = Receiver::of(Tree::directory(dir.path()), all());
    receiver.stats().await;
    receiver.ask(0).await;
    receiver.next().await.unwrap();
    receiver.sync.abort();
    assert!(receiver.sync.await.unwrap_err().is_cancelled());
    // Each thread holds the sending side, so the stream ends when the last thread ends.
    let mut rest = 0;
    while let Some(packet) = receiver.packets.next().await {
        rest += packet.len();
    }
    assert!(rest <= 1024 * 1024, "{rest} bytes came after it");
}

#[tokio::test]
async fn the_receivers_error_and_a_broken_stream_are_told_apart() {
    let receiver = Receiver::of(Tree::empty(), all());
    receiver.say(PacketType::PacketErr, 0, b"no space left\x1b[2J").await;
    let error = receiver.sync.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the builder refused the context: no space left\\u{1b}[2J");

    let receiver = Receiver::of(Tree::empty(), all());
    receiver.requests.send(Err(io::Error::other("reset"))).await.unwrap();
    let error = receiver.sync.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Broken(Some(cause)) if cause.to_string() == "reset"), "{error:?}");

    let receiver = Receiver::of(Tree::empty(), all());
    receiver.requests.send(Ok(Bytes::from_static(&[0xff, 0xff]))).await.unwrap();
    assert!(matches!(receiver.failed().await.1, Error::Protocol(_)));

    let receiver = Receiver::of(Tree::empty(), all());
    receiver.say(PacketType::PacketData, 0, &[]).await;
    assert!(matches!(receiver.failed().await.1, Error::Protocol(_)));
}

#[tokio::test]
async fn a_walk_that_fails_tells_the_receiver() {
    let dir = Scratch::new();
    let name = std::os::unix::ffi::OsStringExt::from_vec(vec![b'b', 0xff]);
    fs::write(dir.path().join::<std::ffi::OsString>(name), "").unwrap();
    let (text, error) = Receiver::of(Tree::directory(dir.path()), all()).failed().await;
    assert!(text.contains("b\\xFF"), "{text}");
    assert!(matches!(error, Error::Context(context::Error::NameNotUtf8(_))));
}

#[tokio::test]
async fn a_file_from_elsewhere() {
    let tree = Tree::files([("Dockerfile".to_owned(), Bytes::from_static(b"FROM scratch\n"))]);
    let request =
        FileSync { follow_paths: vec!["Dockerfile".into(), "Dockerfile.dockerignore".into()], ..all() };
    let mut receiver = Receiver::of(tree, request);
    let stats = receiver.stats().await;
    assert_eq!((stats.len(), stats[0].path.as_str(), stats[0].size), (1, "Dockerfile", 13));
    receiver.ask(0).await;
    assert_eq!(receiver.files(1).await, BTreeMap::from([(0, b"FROM scratch\n".to_vec())]));
}
