//! Trees as a builder sends them, honest or not, into real directories.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    client::{checkouts::Checkouts, exit::Stop},
    go_mode as mode,
};

/// A directory that goes with its test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wharf-output-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    /// All paths below `path`, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.at(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const TIME: i64 = 1_600_000_000_123_456_789;

fn stat(path: &str, mode: u32) -> Stat {
    Stat { path: path.into(), mode, mod_time: TIME, ..Stat::default() }
}

fn directory(path: &str) -> Stat {
    stat(path, mode::DIR | 0o755)
}

fn file(path: &str) -> Stat {
    stat(path, 0o644)
}

fn link(path: &str, target: &str) -> Stat {
    Stat { linkname: target.into(), ..stat(path, mode::SYMLINK | 0o777) }
}

fn hard(path: &str, target: &str) -> Stat {
    Stat { linkname: target.into(), ..file(path) }
}

/// The packets of a tree whose files have their own paths as their content.
fn packets(entries: &[Stat]) -> Vec<Packet> {
    let announced = entries.iter().map(|stat| Packet { stat: Some(stat.clone()), ..Packet::default() });
    let mut packets: Vec<_> = announced.chain([Packet::default()]).collect();
    for (id, stat) in entries.iter().enumerate() {
        if stat.mode & mode::TYPE == 0 && stat.linkname.is_empty() {
            let data = |data: Bytes| Packet { kind: DATA, id: id.try_into().unwrap(), data, stat: None };
            packets.push(data(stat.path.clone().into()));
            packets.push(data(Bytes::new()));
        }
    }
    packets
}

/// Receives these packets, and then no more; returns what was said.
fn received(root: &Path, sent: Vec<Packet>) -> (Result<(), Unwritten>, Vec<Packet>) {
    let (packets, waiting) = mpsc::channel(sent.len().max(1));
    for packet in sent {
        packets.try_send(packet.encode_to_vec().into()).unwrap();
    }
    drop(packets);
    let (said, mut heard) = mpsc::channel(1 << 16);
    let ended = receive(&to(root), waiting, &said).map(|last| said.try_send(last).unwrap());
    let mut answers = Vec::new();
    while let Ok(answer) = heard.try_recv() {
        answers.push(Packet::decode(answer).unwrap());
    }
    (ended, answers)
}

fn to(root: &Path) -> Destination {
    Destination::new(root.to_owned(), &Checkouts::default())
}

fn write(root: &Path, entries: &[Stat]) -> Result<(), Unwritten> {
    received(root, packets(entries)).0
}

fn refused(root: &Path, entries: &[Stat]) -> String {
    match write(root, entries) {
        Err(Unwritten::Here(Stop::Failed(failure))) => failure.text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tree_is_written_as_it_is_described() {
    let dir = Dir::new();
    let out = dir.at("a/out");
    let pipe = stat("pipe", mode::NAMED_PIPE | 0o620);
    let entries = [
        stat("d", mode::DIR | mode::STICKY | 0o555),
        stat("d/empty", 0o400),
        stat("d/run", mode::SETUID | 0o755),
        file("f"),
        hard("hard", "f"),
        link("link", "/nowhere/at all"),
        pipe,
    ];
    let (ended, said) = received(&out, packets(&entries));
    ended.unwrap();
    let asked: Vec<_> = said.iter().filter(|packet| packet.kind == REQ).map(|packet| packet.id).collect();
    assert_eq!(asked, [1, 2, 3]);
    assert_eq!(said.last().unwrap().kind, FIN);
    assert_eq!(dir.names("a/out"), ["d", "f", "hard", "link", "pipe"]);
    assert_eq!(dir.text("a/out/d/run"), "d/run");
    let found = |path: &str| fs::symlink_metadata(out.join(path)).unwrap();
    for (path, mode) in [("d", 0o1555), ("d/empty", 0o400), ("d/run", 0o4755), ("f", 0o644), ("pipe", 0o620)]
    {
        assert_eq!(found(path).permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!((found(path).mtime(), found(path).mtime_nsec()), (1_600_000_000, 123_456_789), "{path}");
        assert_eq!(found(path).uid(), rustix::process::getuid().as_raw(), "{path}");
    }
    assert_eq!(found("hard").ino(), found("f").ino());
    assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("/nowhere/at all"));
    assert_eq!(found("link").mtime(), 1_600_000_000);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_tree_is_merged_into_the_first() {
    let dir = Dir::new();
    write(&dir.0, &[directory("d"), file("d/old"), file("f"), file("x"), directory("y"), file("y/z")])
        .unwrap();
    fs::write(dir.at("f"), "changed").unwrap();
    write(&dir.0, &[directory("d"), file("d/new"), file("f"), hard("h", "f"), directory("x"), file("y")])
        .unwrap();
    assert_eq!(dir.names(""), ["d", "f", "h", "x", "y"]);
    assert_eq!(dir.names("d"), ["new", "old"]);
    assert_eq!((dir.text("f"), dir.text("y")), ("f".to_owned(), "y".to_owned()));
    // Once more: a link to the file that has the name already.
    write(&dir.0, &[file("f"), hard("h", "f")]).unwrap();
    write(&dir.0, &[file("f"), hard("h", "f")]).unwrap();
    assert_eq!(dir.names(""), ["d", "f", "h", "x", "y"], "nothing temporary stays");
}

/// A link that an earlier build has left, or that is in the repository, is replaced and never followed.
#[test]
fn nothing_is_written_through_a_link() {
    let dir = Dir::new();
    let others = dir.at("others");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("f"), "keep").unwrap();
    let out = dir.at("out");
    write(&out, &[link("d", "../others"), link("f", "../others/f"), link("g", "../others/new")]).unwrap();
    write(&out, &[directory("d"), file("d/f"), file("f"), file("g")]).unwrap();
    assert_eq!(dir.names("others"), ["f"]);
    assert_eq!(dir.text("others/f"), "keep");
    assert_eq!(dir.text("out/d/f"), "d/f");
    assert!(!out.join("d").is_symlink() && !out.join("f").is_symlink() && !out.join("g").is_symlink());
    // In one tree there is nothing below a link.
    refused(&out, &[link("l", "../others"), file("l/f")]);
    // A directory that goes takes nothing with it that its links lead to.
    write(&out, &[directory("d"), link("d/l", "../../others")]).unwrap();
    write(&out, &[file("d")]).unwrap();
    assert_eq!(dir.text("others/f"), "keep");
    // A hard link to a link is one to the link.
    refused(&out, &[link("a", "../others/f"), hard("b", "a")]);
}

#[test]
fn the_root_is_no_link() {
    let dir = Dir::new();
    fs::create_dir(dir.at("others")).unwrap();
    symlink("others", dir.at("out")).unwrap();
    let text = refused(&dir.at("out"), &[file("f")]);
    assert!(text.contains("is a link"), "{text}");
    assert!(dir.names("others").is_empty());
    // The links above are the machine's.
    write(&dir.at("out/below"), &[file("f")]).unwrap();
    assert_eq!(dir.names("others"), ["below"]);
    // Below the workspace they are anyone's.
    let (sender, waiting) = mpsc::channel(1);
    drop(sender);
    let below = Destination::new(dir.at("out/below"), &Checkouts::of([dir.0.as_path()]));
    let refused_there = receive(&below, waiting, &mpsc::channel(1).0);
    assert!(format!("{refused_there:?}").contains("is a link"), "{refused_there:?}");
    below.look().unwrap_err();
    fs::write(dir.at("file"), "").unwrap();
    let text = refused(&dir.at("file"), &[file("f")]);
    assert!(text.contains("not a directory"), "{text}");
}

#[test]
fn paths_that_lead_out_are_refused() {
    let dir = Dir::new();
    let out = dir.at("out");
    let outside = dir.at("outside").display().to_string();
    for path in ["../outside", "..", &outside, "a/../../outside", "./x", "x//y", ""] {
        let text = refused(&out, &[file(path)]);
        assert!(text.contains("is not a path that may come next"), "{path}: {text}");
        let mut above = vec![directory("a"), file(path)];
        above.sort_by(|one, other| one.path.cmp(&other.path));
        refused(&out, &above);
    }
    assert_eq!(dir.names(""), ["out"]);
}

#[test]
fn a_hard_link_leads_only_to_a_file_of_the_tree() {
    let dir = Dir::new();
    fs::write(dir.at("there"), "keep").unwrap();
    fs::set_permissions(dir.at("there"), fs::Permissions::from_mode(0o600)).unwrap();
    let outside = dir.at("there").display().to_string();
    for target in ["there", &outside, "../there", "d", "later"] {
        let text = refused(&dir.at("."), &[directory("d"), hard("h", target), file("later")]);
        assert!(text.contains("hard link"), "{target}: {text}");
    }
    assert_eq!(fs::metadata(dir.at("there")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(dir.at("there")).unwrap().nlink(), 1);
}

#[test]
fn a_tree_that_breaks_off_leaves_no_half_file() {
    let dir = Dir::new();
    let all = packets(&[file("a"), file("b")]);
    for end in 0..all.len() {
        let (ended, said) = received(&dir.0, all[..end].to_vec());
        assert!(matches!(ended, Err(Unwritten::There)), "{end}: {ended:?}");
        assert!(said.iter().all(|packet| packet.kind == REQ), "{end}");
        for name in dir.names("") {
            assert_eq!(dir.text(&name), name);
        }
    }
}

#[test]
fn senders_that_do_not_keep_to_the_protocol_are_refused() {
    let dir = Dir::new();
    let data = |id| Packet { kind: DATA, id, data: Bytes::from_static(b"x"), stat: None };
    let stat = |stat| Packet { stat: Some(stat), ..Packet::default() };
    for (sent, why) in [
        (vec![data(0)], "data comes for no file"),
        (vec![stat(directory("d")), data(0)], "data comes for no file"),
        (
            vec![stat(file("f")), Packet { kind: DATA, ..Packet::default() }, data(0)],
            "data comes for no file",
        ),
        (vec![stat(file("f")), Packet::default(), stat(file("g"))], "an entry comes after the last"),
        (vec![Packet { kind: REQ, ..Packet::default() }], "not a sender's"),
        (vec![Packet { kind: 9, ..Packet::default() }], "not a sender's"),
        (vec![stat(stat_of(mode::SOCKET))], "of a kind"),
        (vec![stat(stat_of(mode::IRREGULAR | mode::DIR))], "of a kind"),
    ] {
        let (ended, _) = received(&dir.0, sent);
        let Err(Unwritten::Here(Stop::Failed(failure))) = ended else { panic!("{why}: {ended:?}") };
        assert!(failure.text.contains(why), "{failure}");
    }
    let (ended, _) = received(&dir.0, vec![Packet { kind: ERR, ..Packet::default() }]);
    assert!(matches!(ended, Err(Unwritten::There)));
    let (packets, waiting) = mpsc::channel(1);
    packets.try_send(Bytes::from_static(&[0xff])).unwrap();
    assert!(matches!(receive(&to(&dir.0), waiting, &mpsc::channel(1).0), Err(Unwritten::Here(_))));
}

fn stat_of(kind: u32) -> Stat {
    stat("s", kind)
}

/// More files than may be asked for at once, with names that are not UTF-8.
#[test]
fn many_files_are_asked_for_in_turn() {
    let dir = Dir::new();
    let mut entries: Vec<_> = (0..500).map(|number| file(&format!("{number:03}"))).collect();
    entries.push(Stat { path: vec![0xff], ..file("") });
    let (ended, said) = received(&dir.0, packets(&entries));
    ended.unwrap();
    assert_eq!(said.iter().filter(|packet| packet.kind == REQ).count(), 501);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 501);
}

/// The client runs with the rights of its job, which may not write everywhere.
#[test]
fn a_file_that_cannot_be_written_is_named() {
    let text = refused(Path::new("/proc/wharf-output"), &[file("f")]);
    assert!(text.contains("cannot write /proc/wharf-output"), "{text}");
    let dir = Dir::new();
    let long = "x".repeat(300);
    let text = refused(&dir.0, &[file(&long)]);
    assert!(text.contains("File name too long"), "{text}");
}
