//! What archives may cost an engine.

use super::*;

/// A number of variable length, as xz writes it.
fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    bytes.extend(crc.sum().to_le_bytes());
    bytes
}

/// As `xz -T2` compresses: a block for so many bytes, each of which tells its sizes.
fn xz_in_threads(bytes: &[u8], block: usize) -> Vec<u8> {
    const CHECK_BYTES: usize = 8;
    let (mut out, mut footer, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for piece in bytes.chunks(block) {
        let one = xz(piece, 1);
        let (rest, end) = one.split_at(one.len() - 12);
        let index = 4 * (u32::from_le_bytes(end[4..8].try_into().unwrap()) as usize + 1);
        let (rest, index) = rest.split_at(rest.len() - index);
        let (start, block) = rest.split_at(12);
        let (header, data) = block.split_at(4 * (usize::from(block[0]) + 1));
        // The size without padding: a header's, the data's and the check's.
        let mut at = &index[2..];
        let length = blocks::number(&mut at).unwrap() as usize - header.len() - CHECK_BYTES;
        // The id of LZMA2, and its window.
        let mut body = [&[0xc0][..], &number(length), &number(piece.len()), &header[2..5]].concat();
        body.resize((body.len() + 1).next_multiple_of(4) - 1, 0);
        let header = checked([&[(body.len().div_ceil(4)) as u8][..], &body].concat());
        sizes.extend([number(header.len() + length + CHECK_BYTES), number(piece.len())].concat());
        if out.is_empty() {
            (out, footer) = (start.to_vec(), end.to_vec());
        }
        out.extend([&header, data].concat());
    }
    let mut index = [&[0][..], &number(bytes.len().div_ceil(block)), &sizes].concat();
    index.resize(index.len().next_multiple_of(4), 0);
    let index = checked(index);
    let back = [&(index.len() as u32 / 4 - 1).to_le_bytes()[..], &footer[8..10]].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&back);
    [out, index, crc.sum().to_le_bytes().to_vec(), back, b"YZ".to_vec()].concat()
}

#[test]
fn blocks_that_xz_holds_are_bounded() {
    let random: Vec<u8> =
        (0_u32..2 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let tar = of_file(&random);
    let held = |bytes: &[u8]| {
        let mut archive = Archive::new(LIMITS, Arc::default());
        bytes.chunks(1000).try_for_each(|piece| archive.pass(piece)).unwrap();
        archive.end().unwrap();
        archive.costs().blocks >> 20
    };
    // One of 8 MiB, beside the window of 1 MiB; and as many as are held at once.
    assert_eq!(held(&xz(&tar, 1)), 0);
    assert!(
        (9..=18).contains(&held(&xz_in_threads(&tar, 16 << 20))),
        "{}",
        held(&xz_in_threads(&tar, 16 << 20))
    );
    assert!((16..=64).contains(&held(&xz_in_threads(&tar, 64 << 10))));
    let (one, many) = (xz(&tar, 1), xz_in_threads(&tar, 1 << 20));
    // Streams that follow one another, with padding between them.
    assert_eq!(judged(&[&one[..], &[0; 8], &many].concat()), Ok(()));
    let zeros = xz_in_threads(&of_file(&vec![0; 100 << 20]), 200 << 20);
    refused_with(&zeros, "has blocks that `xz` holds in memory, more than the 64 MiB");
    for before in [&xz(b"no tar", 1)[..], &xz(&of_file(b"small"), 1), &many] {
        refused_with(&[before, &zeros].concat(), "has blocks that `xz` holds in memory");
    }
    let small = ArchiveLimits { blocks: 4 << 20, ..LIMITS };
    assert!(judged_in(&many, 4096, small).unwrap_err().contains("more than the 4 MiB"));
}

#[test]
fn records_and_directories_count() {
    let (many, value) = (vec![("a", "b"); 100_000], "c".repeat(1 << 19));
    let of = |records: &[(&str, &str)], count: usize| {
        tar(|tar| {
            for number in 0..count {
                pax(tar, records);
                let mut directory = header(EntryType::Directory, 0);
                tar.append_data(&mut directory, format!("d{number}/"), &[][..]).unwrap();
            }
        })
    };
    // The engine keeps each record of a directory for some ninety bytes, and a long one for its length.
    refused_with(&gzip(&of(&many, 11)), "has more than 256 MiB of paths, links and attributes");
    assert_eq!(judged_in(&of(&many[..1000], 11), 4096, LIMITS), Ok(()));
    assert_eq!(judged_in(&gzip(&of(&[("a", &value)], 100)), 4096, LIMITS), Ok(()));
    let few = ArchiveLimits { headers: 1 << 20, ..LIMITS };
    let directories = |count| judged_in(&gzip(&of(&[("a", "b")], count)), 4096, few);
    assert_eq!(directories(500), Ok(()));
    assert!(directories(2000).unwrap_err().contains("more than 1 MiB"));
}

#[test]
fn deep_paths_are_bounded() {
    let limits = ArchiveLimits { steps: 1 << 20, ..LIMITS };
    let judged = |bytes: &[u8]| judged_in(bytes, 4096, limits);
    let refused_with = |bytes: &[u8], why: &str| {
        let refused = judged(bytes).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    };
    let file = |tar: &mut Builder<Vec<u8>>, path: &str| {
        tar.append_data(&mut header(EntryType::Regular, 0), path, &[][..]).unwrap();
    };
    let deep = |names: usize, count: usize, implied: bool| {
        tar(|tar| {
            for number in 0..count {
                let first = if implied { number } else { 0 };
                file(tar, &format!("{first}/{}f{number}", "y/".repeat(names)));
            }
        })
    };
    refused_with(&deep(255, 1, true), "has a path or a link of more than 256 names");
    refused_with(&tar(|tar| links(tar, EntryType::Symlink, &[("s", &"y/".repeat(257))])), "256 names");
    // Each makes its own directories, each of which is reached by name after name.
    assert_eq!(judged(&deep(250, 3, true)), Ok(()));
    refused_with(&deep(250, 5, true), "takes more than 1048576 steps");
    // The directories are made only once.
    assert_eq!(judged(&deep(250, 300, false)), Ok(()));
    refused_with(&deep(250, 500, false), "has too many or too deep paths");
    assert_eq!(judged(&deep(10, 1000, true)), Ok(()));
    // What is removed is made again.
    let again = |count| {
        tar(|tar| {
            for _ in 0..count {
                file(tar, &format!("{}f", "y/".repeat(250)));
                file(tar, "y");
            }
        })
    };
    assert_eq!(judged(&again(3)), Ok(()));
    refused_with(&again(5), "has too many or too deep paths");
}

#[test]
fn entries_in_directories_that_an_archive_does_not_make_are_bounded() {
    let archive = |directories: &[&str], path: &str, count: u64| {
        tar(|tar| {
            for directory in directories {
                tar.append_data(&mut header(EntryType::Directory, 0), directory, &[][..]).unwrap();
            }
            for number in 0..count {
                let mut header = header(EntryType::Regular, 0);
                tar.append_data(&mut header, format!("{path}f{number}"), &[][..]).unwrap();
            }
        })
    };
    // An earlier step may have made a symlink of each directory without an entry.
    for (directories, path, strays) in [
        (&[][..], "", 0),
        (&[], "a/", 3),
        (&["a"], "a/", 0),
        (&["a", "a/b"], "a/b/", 0),
        (&["a"], "a/b/", 3),
        // The entry of `a/b` is behind `a`.
        (&["a/b"], "a/b/", 4),
    ] {
        let mut judge = Archive::new(LIMITS, Arc::default());
        judge.pass(&archive(directories, path, 3)).and_then(|()| judge.end()).unwrap();
        assert_eq!(judge.costs().strays, strays, "{directories:?} {path}");
    }
    let refused = judged_in(&archive(&[], "a/", STRAYS_MAX + 1), 64 << 10, LIMITS).unwrap_err();
    assert!(refused.contains("directories that have no entry of their own"), "{refused}");
    let costs = Costs { archives: 1, strays: STRAYS_MAX / 4, ..Costs::default() };
    let mut all = Costs::default();
    assert_eq!(all.add(costs, 4), Ok(()));
    assert!(all.add(costs, 1).unwrap_err().contains("with the archives before it"));
}

/// Whatever is behind a link has another path, too.
#[test]
fn nothing_is_behind_a_link_of_the_archive() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let of = |entries: &[(EntryType, &str, &str)]| {
        tar(|tar| {
            for (kind, path, target) in entries {
                match target.is_empty() {
                    true => tar.append_data(&mut header(*kind, 0), path, &[][..]).unwrap(),
                    false => links(tar, *kind, &[(path, target)]),
                }
            }
        })
    };
    for entries in [
        &[(Symlink, "s", "y"), (Regular, "s/a", "")][..],
        &[(Symlink, "s", "y"), (Directory, "./s/a/", "")],
        &[(Symlink, "s", "y"), (Symlink, "s/a", "b")],
        &[(Symlink, "s", "y"), (Link, "a", "s/b")],
        &[(Symlink, "d/s", "y"), (Regular, "d/s/a/b", "")],
        // Behind another name of a link.
        &[(Symlink, "t", "y"), (Link, "s", "t"), (Regular, "s/a", "")],
    ] {
        refused_with(&of(entries), "behind a symlink of its own");
    }
    for entries in [
        &[(Symlink, "s", "y"), (Regular, "./s", ""), (Regular, "y/a", "")][..],
        &[(Symlink, "s", "y"), (Link, "a", "s")],
        &[(Symlink, "s", "y"), (Directory, "s", ""), (Regular, "s/a", "")],
    ] {
        assert_eq!(judged(&of(entries)), Ok(()), "{entries:?}");
    }
    refused_with(&of(&[(Symlink, "s", &"x/../".repeat(129))]), "256 names");
}

#[test]
fn the_archives_of_a_context_share_what_they_may_unpack_to() {
    let zeros = bzip2(&of_file(&vec![0; 100 << 20]));
    let spent = Arc::<Spent>::default();
    let judged = |bytes: &[u8]| {
        let mut archive = Archive::new(LIMITS, Arc::clone(&spent));
        archive.pass(bytes)?;
        archive.end()
    };
    assert_eq!(judged(&zeros), Ok(()));
    assert_eq!(judged(&zeros), Ok(()));
    let third = judged(&zeros).unwrap_err();
    assert!(third.contains("with the archives before it"), "{third}");
    // And their number, without files that are no tars.
    let spent = Arc::<Spent>::default();
    let judged = |bytes: &[u8]| {
        let mut archive = Archive::new(LIMITS, Arc::clone(&spent));
        archive.pass(bytes)?;
        archive.end()
    };
    let (text, small) = (gzip(&[b'x'; 2000]), gzip(&of_file(b"small")));
    assert!((0..300).all(|_| judged(&text).is_ok()));
    assert!((0..256).all(|_| judged(&small).is_ok()));
    assert!(judged(&small).unwrap_err().contains("comes after 256 other archives"));
    assert_eq!(judged(&of_file(b"small")), Ok(()));
    // Of a tar, the bytes that were sent count: it may itself be compressed.
    let spent = Arc::new(Spent::of_a_tar());
    spent.sent(1000);
    let mut archive = Archive::new(LIMITS, Arc::clone(&spent));
    let packed = bzip2(&of_file(&vec![0; 300 << 20]));
    assert!(archive.pass(&packed).and_then(|()| archive.end()).unwrap_err().contains("200 times"));
}

#[test]
fn what_the_copies_of_a_build_unpack_together() {
    let costs = |steps| Costs { archives: 1, steps, ..Costs::default() };
    let mut all = Costs::default();
    assert_eq!(all.add(costs(STEPS_MAX / 4), 3), Ok(()));
    assert!(all.add(costs(STEPS_MAX / 4), 2).unwrap_err().contains("too deep paths"));
    let mut all = Costs::default();
    assert_eq!(all.add(costs(1), 256), Ok(()));
    assert!(all.add(costs(1), 1).unwrap_err().contains("one of more than 256 archives"));
    let unpacked = Unpacked::of(["a.tar", "/a.tar", "*.tar", "b/*"], true).unwrap();
    let copies = |path| unpacked.copies(path);
    assert_eq!((copies("a.tar"), copies("c.tar"), copies("b/c"), copies("b")), (3, 1, 1, 0));
    // A long pattern is taken for one that fits more.
    let long = Unpacked::of([format!("x{}y", "*a".repeat(20)).as_str()], true).unwrap();
    assert_eq!((long.copies("x-ay"), long.copies("x-az")), (1, 0));
    // But one with a class, which may match more than a name, stays that.
    let class =
        Unpacked::of([format!("x{}[^b]{}y", "*a".repeat(10), "*a".repeat(10)).as_str()], true).unwrap();
    assert!(class.contains("any/path"));
}
