use std::io::Write as _;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

mod costs;

const LIMITS: ArchiveLimits =
    ArchiveLimits { window: 32 << 20, blocks: 64 << 20, headers: 256 << 20, steps: 8 << 20, zstd: true };

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header
}

fn tar(add: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    add(&mut builder);
    builder.into_inner().unwrap()
}

/// A tar of one file.
fn of_file(bytes: &[u8]) -> Vec<u8> {
    tar(|tar| tar.append_data(&mut header(EntryType::Regular, bytes.len() as u64), "f", bytes).unwrap())
}

fn links(add: &mut Builder<Vec<u8>>, kind: EntryType, links: &[(&str, &str)]) {
    for (path, target) in links {
        add.append_link(&mut header(kind, 0), path, target).unwrap();
    }
}

/// A PAX header with these records, as they are.
fn pax(add: &mut Builder<Vec<u8>>, records: &[(&str, &str)]) {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).unwrap();
        body.push_str(&format!("{length} {key}={value}\n"));
    }
    let mut header = header(EntryType::XHeader, body.len() as u64);
    header.set_cksum();
    add.append(&header, body.as_bytes()).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut out = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn xz(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), level);
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.window_log(window_log).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn judged_in(bytes: &[u8], size: usize, limits: ArchiveLimits) -> Result<(), String> {
    let mut archive = Archive::new(limits, Arc::default());
    bytes.chunks(size).try_for_each(|piece| archive.pass(piece))?;
    archive.end()
}

fn judged(bytes: &[u8]) -> Result<(), String> {
    let judged = judged_in(bytes, 64 << 10, LIMITS);
    assert_eq!(judged_in(bytes, 7, LIMITS).is_ok(), judged.is_ok());
    judged
}

#[track_caller]
fn refused_with(bytes: &[u8], why: &str) {
    let refused = judged(bytes).unwrap_err();
    assert!(refused.contains(why), "{refused}");
}

/// The forms in which BuildKit unpacks a tar. What follows a stream of a compression goes on.
fn forms(tar: &[u8]) -> Vec<Vec<u8>> {
    let (first, rest) = tar.split_at(tar.len() / 3);
    let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(tar, 17)].concat();
    vec![
        tar.to_vec(),
        gzip(tar),
        [gzip(first), gzip(rest)].concat(),
        bzip2(tar),
        [bzip2(first), bzip2(rest)].concat(),
        xz(tar, 1),
        [xz(first, 1), xz(rest, 1)].concat(),
        zstd(tar, 17),
        [zstd(first, 17), zstd(rest, 17)].concat(),
        skipped,
    ]
}

#[test]
fn honest_archives_pass_and_others_do_not_in_each_form() {
    let random: Vec<u8> =
        (0_u32..200_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for (at, archive) in forms(&of_file(&random)).iter().enumerate() {
        assert_eq!(judged(archive), Ok(()), "{at}");
    }
    let sparse = tar(|tar| {
        tar.append_data(&mut header(EntryType::Regular, 3), "f", &b"abc"[..]).unwrap();
        pax(
            tar,
            &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "12000000000")],
        );
        tar.append_data(&mut header(EntryType::Regular, 0), "g", &[][..]).unwrap();
    });
    for archive in forms(&sparse) {
        refused_with(&archive, "has a file with holes");
    }
    refused_with(
        &tar(|tar| {
            tar.append(
                &{
                    let mut h = header(EntryType::GNUSparse, 0);
                    h.set_cksum();
                    h
                },
                &[][..],
            )
            .unwrap()
        }),
        "holes",
    );
}

#[test]
fn files_that_are_no_archives_pass() {
    let text = "a text\n".repeat(500);
    let others = forms(text.as_bytes()).into_iter().chain([
        Vec::new(),
        b"BZhello, this is a text".to_vec(),
        vec![0; 2000],
        vec![0x1f, 0x8b],
        gzip(b""),
        gzip(&[0; 4096]),
        // Broken off: BuildKit says so.
        gzip(&of_file(&[7; 5000]))[..40].to_vec(),
        of_file(&[7; 5000])[..1000].to_vec(),
    ]);
    for (at, other) in others.enumerate() {
        assert_eq!(judged(&other), Ok(()), "{at}");
    }
}

#[test]
fn windows_are_bounded() {
    let tar = of_file(&vec![b'x'; 20 << 20]);
    assert_eq!(judged(&zstd(&tar, 23)), Ok(()));
    refused_with(&zstd(&tar, 24), "has a Zstandard window of 16 MiB, and may have one of 8 MiB");
    // Later frames, those of a file that is not a tar, and those behind a tar's end.
    for before in [&tar[..], b"no tar", &of_file(b"small")] {
        refused_with(&[zstd(before, 17), zstd(&tar, 25)].concat(), "has a Zstandard window of 32 MiB");
    }
    let small = ArchiveLimits { window: 4 << 20, ..LIMITS };
    assert!(judged_in(&zstd(&tar, 21), 4096, small).unwrap_err().contains("may have one of 1 MiB"));
    let none = ArchiveLimits { zstd: false, ..LIMITS };
    for archive in [zstd(&tar, 17), zstd(b"no tar", 17)] {
        assert!(judged_in(&archive, 4096, none).unwrap_err().contains("compress it with gzip"));
    }
    assert_eq!(judged_in(&gzip(&tar), 4096, none), Ok(()));

    assert_eq!(judged(&xz(&tar, 6)), Ok(()));
    refused_with(&xz(&tar, 9), "needs a larger dictionary than the 32 MiB");
    refused_with(&[xz(b"no tar", 1), xz(&tar, 9)].concat(), "needs a larger dictionary than the 32 MiB");
    assert_eq!(judged_in(&xz(&tar, 9), 4096, ArchiveLimits { window: WINDOW_BYTES_MAX, ..LIMITS }), Ok(()));
    assert_eq!(ArchiveLimits::of(16, true).window, WINDOW_BYTES_MAX);
    assert_eq!(ArchiveLimits::of(256, true).window, 4 << 20);
}

#[test]
fn a_single_segment_is_a_window() {
    // Magic, a descriptor with a content size of four bytes in a single segment: 512 MiB.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x20, 1, 0, 0];
    refused_with(&frame, "has a Zstandard window of 512 MiB");
}

#[test]
fn archives_grow_within_bounds() {
    let zeros = |log: u32| {
        let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
        let mut header = header(EntryType::Regular, 1 << log);
        header.set_path("zeros").unwrap();
        header.set_cksum();
        out.write_all(header.as_bytes()).unwrap();
        (0..1 << (log - 20)).for_each(|_| out.write_all(&[0; 1 << 20]).unwrap());
        out.finish().unwrap()
    };
    assert_eq!(judged_in(&zeros(27), 4096, LIMITS), Ok(()));
    let refused = judged_in(&zeros(29), 1 << 20, LIMITS).unwrap_err();
    assert!(refused.contains("200 times as large unpacked"), "{refused}");
    // Behind the tar's end.
    let behind = [zstd(&of_file(b"small"), 17), zeros(29)].concat();
    assert!(judged_in(&behind, 1 << 20, LIMITS).unwrap_err().contains("200 times"));
}

#[test]
fn names_and_links_are_bounded() {
    let long = format!("{}x", format!("{}/", "y".repeat(249)).repeat(16));
    // Go keeps the link's target for each of its names.
    let of = |before: &[(EntryType, &str, &str)], count: usize| {
        let mut out = tar(|tar| {
            tar.append_data(&mut header(EntryType::Regular, 0), "file", &[][..]).unwrap();
            for (kind, path, target) in before {
                links(tar, *kind, &[(path, target)]);
            }
        });
        out.truncate(out.len() - 2 * 512);
        let target = before.last().map_or("file", |(_, path, _)| path);
        // Each with the same name: they count all the same.
        let link = tar(|tar| links(tar, EntryType::Link, &[("n", target)]));
        let link = &link[..link.len() - 2 * 512];
        let mut scan = Archive::new(LIMITS, Arc::default());
        scan.pass(&out)?;
        (0..count / 100).try_for_each(|_| scan.pass(&link.repeat(100)))?;
        scan.end()
    };
    assert_eq!(of(&[], 70_000), Ok(()));
    assert_eq!(of(&[(EntryType::Symlink, "s", "file")], 60_000), Ok(()));
    assert_eq!(of(&[(EntryType::Link, "other", "file")], 70_000), Ok(()));
    for before in [
        &[(EntryType::Symlink, "s", &long[..])][..],
        // It may be there before the archive.
        &[(EntryType::Link, "s", "elsewhere")],
        &[(EntryType::Symlink, "file", &long), (EntryType::Link, "x", "./file")],
    ] {
        assert!(of(before, 70_000).unwrap_err().contains("more than 256 MiB of paths"), "{before:?}");
    }
    let deep = tar(|tar| links(tar, EntryType::Symlink, &[("s", &"y/".repeat(2050))]));
    refused_with(&deep, "more than 4096 bytes");
}

/// Where Go reads another tar than a program that keeps a record too long, or too short: it would see entries in what
/// seems to be a file's bytes.
#[test]
fn what_go_reads_differently_is_refused_or_read_alike() {
    let hidden = tar(|tar| {
        let mut header = header(EntryType::GNUSparse, 0);
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
    });
    let size = hidden.len().to_string();
    let file = |tar: &mut Builder<Vec<u8>>, size: u64| {
        let mut header = header(EntryType::Regular, size);
        header.set_path("f").unwrap();
        header.set_cksum();
        tar.append(&header, &hidden[..]).unwrap();
    };
    // The records count for the file.
    assert_eq!(
        judged(&tar(|tar| {
            pax(tar, &[("size", &size)]);
            file(tar, 0)
        })),
        Ok(())
    );
    for (before, why) in [
        (&[("size", &size[..]), ("size", "")][..], "holes"),
        (&[("size", &size), ("size", "0")], "holes"),
        (&[("size", "-1")], "cannot be read"),
        (&[("size", "18446744073709551615")], "cannot be read"),
    ] {
        refused_with(
            &tar(|tar| {
                pax(tar, before);
                file(tar, 0)
            }),
            why,
        );
    }
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader] {
        let twice = tar(|tar| {
            pax(tar, &[("size", &size)]);
            let mut header = header(kind, 0);
            header.set_cksum();
            tar.append(&header, &[][..]).unwrap();
            file(tar, 0);
        });
        refused_with(&twice, "several extended headers");
    }
    // An old directory has no bytes, whatever its size says; its name may come from an extension.
    let old = |path: &str, size: u64| {
        let mut header = header(EntryType::new(0), size);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkflag[0] = 0;
        header.set_cksum();
        header
    };
    let directory = |name: &str, of: &[(&str, &str)]| {
        tar(|tar| {
            pax(tar, of);
            tar.append(&old(name, hidden.len() as u64), &hidden[..]).unwrap();
        })
    };
    refused_with(&directory("d/", &[]), "holes");
    refused_with(&directory("d", &[("path", "d/")]), "holes");
    assert_eq!(judged(&directory("d/", &[("path", "d")])), Ok(()));
    // A directory or a link of the newer formats has none either.
    let link = tar(|tar| {
        let mut header = header(EntryType::Symlink, hidden.len() as u64);
        header.set_path("l").unwrap();
        header.set_link_name("x").unwrap();
        header.set_cksum();
        tar.append(&header, &hidden[..]).unwrap();
    });
    refused_with(&link, "holes");
}

proptest! {
    #[test]
    fn nothing_makes_it_fail_otherwise(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000), size in 1..700_usize, at in any::<u16>(), form in 0..10_usize
    ) {
        let _ = judged_in(&bytes, size, LIMITS);
        let mut archive = forms(&of_file(&bytes)).swap_remove(form);
        let at = usize::from(at) % archive.len();
        archive[at] ^= bytes.first().copied().unwrap_or(1);
        let _ = judged_in(&archive, size, LIMITS);
    }
}

/// BuildKit looks at the beginning, finds no tar, and copies the file.
#[test]
fn a_broken_file_that_holds_no_tar_is_judged_alike_in_pieces_and_whole() {
    let text = "no tar, and not the same text over and over: ".repeat(40);
    let noise: Vec<u8> = (0..40_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let content = [text.as_bytes(), &noise].concat();
    for packed in [gzip(&content), bzip2(&content), zstd::encode_all(&content[..], 3).unwrap()] {
        let mut broken = packed.clone();
        let end = broken.len() - 200;
        broken[end..].fill(0x55);
        for file in [packed, broken] {
            let judged = |size: usize| {
                let mut archive = Archive::new(LIMITS, Arc::default());
                file.chunks(size).try_for_each(|piece| archive.pass(piece)).and_then(|()| archive.end())
            };
            assert_eq!(judged(17), Ok(()), "{:?}", &file[..4]);
            assert_eq!(judged(1 << 20), Ok(()), "{:?}", &file[..4]);
        }
    }
}
