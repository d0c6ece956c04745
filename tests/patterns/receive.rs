//! Syncs with BuildKit's own receiver.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Stdio,
    sync::Arc,
};

use bollard_buildkit_proto::fsutil::types::{Packet, packet::PacketType};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use wharf::{
    client::{context::Tree, sync},
    wire::v1::FileSync,
};

use super::{Case, Directory, Kind, build_oracle, walk};

/// The packets that the receiver writes.
fn packets(stdout: impl AsyncRead + Unpin + Send) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::unfold(stdout, |mut stdout| async {
        let length = stdout.read_u32().await.ok()?;
        let mut packet = vec![0; length as usize];
        let read = stdout.read_exact(&mut packet).await;
        Some((read.map(|_| packet.into()), stdout))
    })
}

/// A summary of a sync.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sent {
    entries: usize,
    /// Bytes of all files, including those that the receiver already had.
    announced: u64,
    files: usize,
    bytes: u64,
}

impl Sent {
    fn see(&mut self, packet: &Packet) {
        match (packet.r#type(), &packet.stat) {
            (PacketType::PacketStat, Some(stat)) => {
                self.entries += 1;
                // A hard link has no bytes of its own.
                if stat.linkname.is_empty() {
                    self.announced += u64::try_from(stat.size).unwrap();
                }
            }
            (PacketType::PacketData, _) if packet.data.is_empty() => self.files += 1,
            (PacketType::PacketData, _) => self.bytes += packet.data.len() as u64,
            _ => {}
        }
    }
}

/// Syncs `source` into `target`; returns a summary of what was sent.
async fn sync(receiver: &Path, source: &Path, target: &Path) -> Sent {
    let mut child = Command::new(receiver)
        .arg("receive")
        .arg(target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let asked = Box::pin(packets(child.stdout.take().unwrap()));
    let (out, mut told) = sync::channel();
    let mut sent = Sent::default();
    let request = FileSync { directory: "context".into(), ..FileSync::default() };
    let sending = sync::send(Arc::new(Tree::directory(source)), request, asked, out);
    let telling = async {
        while let Some(packet) = told.next().await {
            sent.see(&Packet::decode(packet.clone()).unwrap());
            let mut frame = BytesMut::with_capacity(packet.len() + 4);
            frame.put_u32(u32::try_from(packet.len()).unwrap());
            frame.put(packet);
            while frame.has_remaining() {
                stdin.write_buf(&mut frame).await.unwrap();
            }
        }
        // The receiver ends when its input ends.
        drop(stdin);
    };
    let (ended, ()) = tokio::join!(sending, telling);
    ended.unwrap();
    assert!(child.wait().await.unwrap().success());
    sent
}

fn same(source: &Path, target: &Path) {
    let all = Case { files: Vec::new(), include: Vec::new(), exclude: Vec::new(), follow: Vec::new() };
    let (source, target) = (walk(source, &all).unwrap(), walk(target, &all).unwrap());
    for (source, mut target) in source.iter().zip(target.clone()) {
        // A directory whose file the receiver replaces gets a new time, although the directory itself has not
        // changed.
        if source["mode"].as_u64().is_some_and(|mode| mode & 1 << 31 != 0) {
            target["modTime"] = source["modTime"].clone();
        }
        assert_eq!(*source, target);
    }
    assert_eq!(source.len(), target.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sync_sends_what_changed() {
    let receiver = build_oracle("receive");
    let mut files: Vec<(String, Kind)> = (0..300)
        .map(|n| (format!("many/{:02}/file-{n}", n % 7), Kind::File(if n % 2 == 0 { 0o644 } else { 0o755 })))
        .collect();
    files.extend([
        ("empty".to_owned(), Kind::Directory),
        ("further-name".to_owned(), Kind::HardLink(5)),
        ("pipe".to_owned(), Kind::Fifo),
        ("link".to_owned(), Kind::Link("many/00".to_owned())),
    ]);
    let source = Directory::of("source", &files);
    let target = Directory::of("target", &[]);
    let (source, target) = (source.0.as_path(), target.0.as_path());
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 253) as u8).collect();
    fs::write(source.join("large"), &large).unwrap();
    fs::write(source.join("none"), "").unwrap();
    symlink("/nowhere", source.join("dangling")).unwrap();

    let first = sync(&receiver, source, target).await;
    same(source, target);
    assert_eq!(fs::read(target.join("large")).unwrap(), large);
    assert_eq!(fs::read(target.join("many/05/file-5")).unwrap(), b"many/05/file-5");
    assert_eq!(fs::metadata(target.join("further-name")).unwrap().nlink(), 2);
    assert_eq!((first.files, first.bytes), (302, first.announced));

    let second = sync(&receiver, source, target).await;
    assert_eq!(second, Sent { files: 0, bytes: 0, ..first });

    fs::write(source.join("many/03/file-10"), "changed").unwrap();
    fs::remove_file(source.join("many/04/file-11")).unwrap();
    let third = sync(&receiver, source, target).await;
    assert_eq!((third.files, third.bytes), (1, 7));
    same(source, target);
    assert_eq!(fs::read(target.join("many/03/file-10")).unwrap(), b"changed");
}
