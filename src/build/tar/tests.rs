use std::io::Write as _;

use futures_util::TryStreamExt as _;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

/// The header of a test's entry.
fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_700_000_000);
    header
}

/// A tar that `add` fills.
fn tar(add: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    add(&mut builder);
    builder.into_inner().unwrap()
}

fn of_files(files: &[(&str, &[u8])]) -> Vec<u8> {
    tar(|tar| {
        for (path, bytes) in files {
            tar.append_data(&mut header(EntryType::Regular, bytes.len() as u64), path, *bytes).unwrap();
        }
    })
}

/// A tar with one entry that the library would refuse to write.
fn of_entry(kind: EntryType, path: &str, target: &str) -> Vec<u8> {
    let mut header = header(kind, 0);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    tar(|tar| tar.append(&header, &[][..]).unwrap())
}

fn found() -> Arc<Findings> {
    Arc::new(Findings::new(true))
}

/// The result of `sent`, in pieces of `size`.
fn passed_in(sent: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let texts = Arc::<dockerfile::Judge>::default();
    let mut passage = Passage::new("deploy/./Dockerfile", Arc::clone(&texts), found());
    let mut passed = Vec::new();
    for piece in sent.chunks(size) {
        passage.take(Bytes::copy_from_slice(piece));
        while let Some(piece) = passage.passed().map_err(|status| status.message().to_owned())? {
            texts.judge_all()?;
            passed.extend_from_slice(&piece);
        }
    }
    passed.extend_from_slice(&passage.end().map_err(|status| status.message().to_owned())?);
    texts.judge_all()?;
    Ok(passed)
}

fn passed(sent: &[u8]) -> Result<Vec<u8>, String> {
    passed_in(sent, 1 << 20)
}

#[track_caller]
fn refused_with(sent: &[u8], why: &str) {
    let refused = passed(sent).map(|passed| read(&passed)).unwrap_err();
    assert!(refused.contains(why), "{refused}");
}

/// The fields that Rust's own library reads: path, kind, target, mode, owner, time, attributes, bytes.
type Read = (String, EntryType, String, u32, u64, u64, Vec<(String, Vec<u8>)>, Vec<u8>);

fn read(bytes: &[u8]) -> Vec<Read> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let path = text(&entry.path_bytes());
        let target = entry.link_name_bytes().map(|target| text(&target)).unwrap_or_default();
        let extensions = entry.pax_extensions().unwrap().into_iter().flatten().map(Result::unwrap);
        let xattrs = extensions
            .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec()))
            .filter(|(key, _)| key.starts_with("SCHILY"))
            .collect();
        let header = entry.header();
        let (kind, mode, time) = (header.entry_type(), header.mode().unwrap(), header.mtime().unwrap());
        let owner = header.uid().unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (path, kind, target, mode, owner, time, xattrs, content)
    });
    entries.collect()
}

#[test]
fn a_tar_is_written_anew_as_it_was() {
    let long = format!("{}/file", "directory".repeat(30));
    let sent = tar(|tar| {
        tar.append_pax_extensions([
            ("SCHILY.xattr.user.a", &b"1"[..]),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("mtime", b"1700000000.5"),
            ("comment", b"x"),
        ])
        .unwrap();
        tar.append_data(&mut header(EntryType::Regular, 3), "./a//b", &b"abc"[..]).unwrap();
        tar.append_data(&mut header(EntryType::Regular, 600), &long, &[7; 600][..]).unwrap();
        tar.append_link(&mut header(EntryType::Symlink, 0), "link", "../\u{e4}").unwrap();
        tar.append_link(&mut header(EntryType::Link, 0), "again", "./a/b").unwrap();
        tar.append_data(&mut header(EntryType::Directory, 0), "d/", &[][..]).unwrap();
    });
    let now = read(&passed(&sent).unwrap());
    let entry = |path: &str, kind, target: &str, bytes: &[u8]| -> Read {
        let owned = |text: &str| text.to_owned();
        (owned(path), kind, owned(target), 0o4755, 7, 1_700_000_000, Vec::new(), bytes.to_vec())
    };
    let mut first = entry("a/b", EntryType::Regular, "", b"abc");
    // The time is in a record, because of its fraction.
    first.5 = 0;
    first.6 = vec![("SCHILY.xattr.user.a".to_owned(), b"1".to_vec())];
    let root = ("./".to_owned(), EntryType::Directory, String::new(), 0o755, 0, 0, Vec::new(), Vec::new());
    assert_eq!(
        now,
        [
            root,
            first,
            entry(&long, EntryType::Regular, "", &[7; 600]),
            entry("link", EntryType::Symlink, "../\u{e4}", b""),
            entry("again", EntryType::Link, "a/b", b""),
            entry("d", EntryType::Directory, "", b""),
        ]
    );
    // A second passage changes nothing, except that it adds the root again.
    let once = passed(&sent).unwrap();
    assert_eq!(passed(&once).unwrap()[512..], once);
}

#[test]
fn pieces_of_any_size_are_one_tar() {
    let sent = of_files(&[("a", &[1; 700]), ("b", b""), (&"c".repeat(150), &[3; 512])]);
    let whole = passed(&sent).unwrap();
    let compressed = [gzip(&sent), zstd::encode_all(&sent[..], 3).unwrap()];
    for size in [1, 100, 511, 512, 513, 4096] {
        assert!(passed_in(&sent, size).unwrap() == whole, "{size}");
        for sent in &compressed {
            assert!(passed_in(sent, size).unwrap() == whole, "{size}");
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn a_lone_dockerfile_is_passed_on_as_it_is() {
    for text in ["", "FROM scratch\n", &format!("FROM scratch\n# {}\n", "x".repeat(900_000))] {
        assert_eq!(passed(text.as_bytes()).unwrap(), text.as_bytes());
        assert_eq!(passed_in(text.as_bytes(), 100).unwrap(), text.as_bytes());
    }
    refused_with(&vec![b'x'; (4 << 20) + 1], "too large for a Dockerfile");
    refused_with(b"FROM\0scratch", "neither a tar archive nor a Dockerfile");
}

/// A header that Go accepts and others may not: a sum of signed bytes, and spaces for NULs.
#[test]
fn what_go_takes_for_a_tar_is_one() {
    let mut signed = [0_u8; 512];
    signed[..5].copy_from_slice(b"a\xff\xff\xff\xff");
    signed[100..107].copy_from_slice(b"0000644");
    signed[148..156].fill(b' ');
    let sum: i64 = signed.iter().map(|byte| i64::from(byte.cast_signed())).sum();
    signed[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    refused_with(&signed, "not UTF-8");

    let mut text = [b' '; 512];
    text[..6].copy_from_slice(b"FROM a");
    let sum: u64 = text.iter().map(|byte| u64::from(*byte)).sum();
    text[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    // A number between spaces, and a type that is a space.
    refused_with(&text, "has a type that cannot be built from");
}

#[test]
fn entries_that_are_no_files_are_refused() {
    for (kind, why) in [
        (EntryType::Block, "`x` is a device"),
        (EntryType::Char, "`x` is a device"),
        (EntryType::Fifo, "`x` is a pipe"),
        (EntryType::GNUSparse, "holes"),
        (EntryType::Continuous, "cannot be built from"),
        (EntryType::new(b'V'), "cannot be built from"),
    ] {
        refused_with(&of_entry(kind, "x", "y"), why);
    }
    for (kind, path, target, why) in [
        (EntryType::Regular, "../x", "", "`../x` is not a path inside"),
        (EntryType::Regular, "a/../x", "", "is not a path inside"),
        (EntryType::Regular, ".tmp.123456789", "", "makes for itself"),
        (EntryType::Regular, "/", "", "root is not a directory"),
        (EntryType::Link, "x", "../../etc/shadow", "is not a path inside"),
        (EntryType::Link, "x", "", "hard link without a target"),
        (EntryType::Symlink, "x", "", "points nowhere"),
        (EntryType::Symlink, "deploy/Dockerfile", "x", "is a link, and the builder reads"),
        (EntryType::Symlink, "deploy", "x", "is a link, and the builder reads"),
        (EntryType::Link, "deploy/Dockerfile.dockerignore", "x", "is a link, and the builder reads"),
    ] {
        refused_with(&of_entry(kind, path, target), why);
    }
    let behind = tar(|tar| {
        tar.append_link(&mut header(EntryType::Symlink, 0), "d", "deploy").unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0), "d/Dockerfile", &[][..]).unwrap();
    });
    refused_with(&behind, "is below the link `d`");
    // A hard link to a symlink, and a hard link to a file behind a symlink.
    let further = |target: &str, path: &str| {
        tar(|tar| {
            tar.append_data(&mut header(EntryType::Regular, 0), "a", &[][..]).unwrap();
            tar.append_link(&mut header(EntryType::Symlink, 0), "d", "deploy").unwrap();
            tar.append_link(&mut header(EntryType::Link, 0), "e", target).unwrap();
            tar.append_data(&mut header(EntryType::Regular, 0), path, &[][..]).unwrap();
        })
    };
    refused_with(&further("d", "e/Dockerfile"), "is below the link `e`");
    refused_with(&further("d/x", "f"), "`d/x` is below the link `d`");
    assert!(passed(&further("d", "f")).is_ok() && passed(&further("a", "f")).is_ok());
    assert!(passed(&of_entry(EntryType::Symlink, "x", "/etc/shadow")).is_ok());
}

#[test]
fn a_dockerfile_in_a_tar_is_not_endless() {
    let large = vec![b'#'; (4 << 20) + 1];
    refused_with(&of_files(&[("./deploy//Dockerfile", &large)]), "has more than 4 MiB");
    refused_with(&of_files(&[("deploy/Dockerfile.dockerignore", &large[3 << 20..])]), "has more than 1 MiB");
    assert!(passed(&of_files(&[("Dockerfile", &large)])).is_ok());
}

#[test]
fn a_dockerfile_without_measure_is_refused() {
    let doubling = format!("FROM scratch\nENV a=aaaaaaaaaaaaaaaa\n{}", "ENV a=$a$a\n".repeat(25));
    for sent in [doubling.as_bytes().to_vec(), of_files(&[("deploy/Dockerfile", doubling.as_bytes())])] {
        refused_with(&sent, "line 18: the value of a variable");
    }
    refused_with(&of_files(&[("deploy/dockerfile", doubling.as_bytes())]), "line 18");
    for path in ["Dockerfile", "dockerfile", "deploy/DOCKERFILE"] {
        assert!(passed(&of_files(&[(path, doubling.as_bytes())])).is_ok(), "{path}");
    }
}

#[test]
fn a_tar_that_ends_early_or_is_broken_is_refused() {
    let sent = of_files(&[("a", &[1; 700])]);
    refused_with(&sent[..900], "in the middle of `a`");
    refused_with(&[&sent[..1536], &[1; 512]].concat(), "broken after 1 entries");
    refused_with(&[&sent[..1536], &[1; 9]].concat(), "in the middle of an entry");
    // The blocks that end a tar may be missing, and bytes after the end are ignored.
    assert_eq!(passed(&sent[..1536]), passed(&sent));
    assert_eq!(passed(&[&sent[..], &[1; 512]].concat()), passed(&sent));
    let device = of_entry(EntryType::Block, "x", "");
    assert_eq!(passed(&[&sent[..], &device].concat()), passed(&sent));
    refused_with(&gzip(b"FROM scratch"), "in the middle of an entry");
    let compressed = gzip(&of_files(&[("a", &[1; 7000])]));
    assert!(passed(&compressed[..compressed.len() - 60]).is_err());
}

#[test]
fn extensions_are_bounded() {
    let mut long = header(EntryType::XHeader, (1 << 20) + 1);
    long.set_cksum();
    refused_with(long.as_bytes(), "extended headers of more than");
    // Several records before one entry.
    let record = format!("65536 SCHILY.xattr.user.a={}\n", "x".repeat(65536 - 27));
    assert_eq!(record.len(), 65536);
    let sent = |count: usize| {
        tar(|tar| {
            for _ in 0..count {
                let mut extended = header(EntryType::XHeader, 65536);
                extended.set_cksum();
                tar.append(&extended, record.as_bytes()).unwrap();
            }
            tar.append_data(&mut header(EntryType::Regular, 0), "a", &[][..]).unwrap();
        })
    };
    assert!(passed(&[&sent(16)[..16 * (65536 + 512) + 512], &sent(16)].concat()).is_ok());
    refused_with(&sent(17), "extended headers of more than");
    for record in ["9 path=a", "x", "12 path=ab\n9", "99 path=a\n"] {
        let mut extended = header(EntryType::XHeader, record.len() as u64);
        extended.set_cksum();
        let sent = tar(|tar| tar.append(&extended, record.as_bytes()).unwrap());
        refused_with(&sent, "extended header that cannot be read");
    }
}

#[test]
fn what_entries_say_is_bounded() {
    let mut directory = tar(|tar| {
        let value = [b'x'; 1_000_000];
        tar.append_pax_extensions([("SCHILY.xattr.user.a", &value[..])]).unwrap();
        tar.append_data(&mut header(EntryType::Directory, 0), "d", &[][..]).unwrap();
    });
    directory.truncate(directory.len() - 2 * 512);
    let mut passage = Passage::new("Dockerfile", Arc::default(), found());
    let mut send = || {
        passage.take(directory.clone().into());
        while passage.passed()?.is_some() {}
        Ok::<(), Status>(())
    };
    for _ in 0..268 {
        send().unwrap();
    }
    assert!(send().unwrap_err().message().contains("have more than 256 MiB"));
}

#[test]
fn compressed_tars_are_bounded() {
    for begin in [&b"BZh91AY&SY"[..], &[0xfd, b'7', b'z', b'X', b'Z', 0, 0, 4]] {
        refused_with(begin, " -dc` first, or compress it with gzip or zstd");
    }
    // Zeros beyond the first limit.
    let mut zeros = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = header(EntryType::Regular, 300 << 20);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    zeros.write_all(header.as_bytes()).unwrap();
    for _ in 0..300 {
        zeros.write_all(&[0; 1 << 20]).unwrap();
    }
    let sent = zeros.finish().unwrap();
    let mut passage = Passage::new("Dockerfile", Arc::default(), found());
    let mut largest = 0;
    let refused = sent.chunks(1 << 20).find_map(|piece| {
        passage.take(Bytes::copy_from_slice(piece));
        loop {
            match passage.passed() {
                Ok(Some(piece)) => largest = largest.max(piece.len()),
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        }
    });
    assert!(refused.unwrap().message().contains("200 times as large"));
    assert!(largest < 4 << 20, "{largest}");
}

proptest! {
    #[test]
    fn nothing_that_comes_makes_it_fail_otherwise(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000), size in 1..700_usize, damage in 0..1500_usize
    ) {
        let _ = passed_in(&bytes, size);
        let mut sent = of_files(&[("a", &[1; 300]), (&"b".repeat(150), b"2")]);
        let at = damage % sent.len();
        sent[at] ^= bytes.first().copied().unwrap_or(1);
        let _ = passed_in(&sent, size);
    }
}

#[tokio::test]
async fn a_tar_is_hashed_as_it_passes_and_read_once() {
    let (tar, pieces) = Tar::new(found()).unwrap();
    let path = tar.path.clone();
    assert!(tar.read("/other").is_err());
    let stream = tar.read(&path).unwrap();
    assert!(tar.read(&path).is_err());
    pieces.send(Ok(Bytes::from_static(b"ab"))).await.unwrap();
    pieces.send(Ok(Bytes::from_static(b"c"))).await.unwrap();
    drop(pieces);
    assert_eq!(tar.digest(), None);
    let read: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(read.concat(), b"abc");
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(tar.digest(), Some(abc));
}

#[tokio::test]
async fn a_tar_that_breaks_off_has_no_digest() {
    let (tar, pieces) = Tar::new(found()).unwrap();
    let stream = tar.read(&tar.path).unwrap();
    pieces.send(Err(Status::cancelled("gone"))).await.unwrap();
    drop(pieces);
    assert!(stream.try_collect::<Vec<_>>().await.is_err());
    assert_eq!(tar.digest(), None);
}
