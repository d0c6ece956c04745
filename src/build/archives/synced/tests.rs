use super::*;
use crate::build::archives::{STEPS_MAX, Tree, Unpacked};

/// A tar of a file with holes, as far as that is read.
fn sparse() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(22);
    header.set_cksum();
    let mut body = b"22 GNU.sparse.major=1\n".to_vec();
    body.resize(512, 0);
    [header.as_bytes().as_slice(), &body].concat()
}

/// A tar of a file.
fn plain() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_size(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn unpacked(sources: &[&str]) -> Unpacked {
    Unpacked::of(sources.iter().copied(), true).unwrap()
}

#[test]
fn a_packet_is_judged_part_by_part() {
    let bytes = vec![7; 2 * PART_BYTES + 1];
    let heavy = Heavy::Bytes(3, bytes.clone());
    let parts = heavy.parts();
    assert_eq!(parts.len(), 3);
    let joined = parts.into_iter().flat_map(|part| match part {
        Part::Bytes(3, bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    });
    assert_eq!(joined.collect::<Vec<u8>>(), bytes);
    assert_eq!(Heavy::Bytes(1, Vec::new()).parts(), [Part::Bytes(1, &[])]);
    assert_eq!(Heavy::All.parts(), [Part::All]);
}

/// However they are sorted.
#[test]
fn the_files_of_many_copies_are_those_of_each() {
    let names = ["a", "b.tar", "*", "*.tar", "a?", "[ab]", "a*b"];
    let sources: Vec<String> = names
        .iter()
        .flat_map(|first| names.iter().map(move |second| format!("{first}/{second}")))
        .chain(names.map(str::to_owned))
        .collect();
    let all = Unpacked::of(sources.iter().map(String::as_str), true).unwrap();
    let each: Vec<_> = sources.iter().map(|source| unpacked(&[source])).collect();
    assert_eq!(all.all(), sources.len());
    for path in ["a", "b", "ab", "b.tar", "a/b.tar", "a/a", "ab/ab", "a/b/c", "c", "c/d", "a-", "a.tar/x"] {
        assert_eq!(all.copies(path), each.iter().map(|one| one.copies(path)).sum::<usize>(), "{path}");
        assert_eq!(all.leads(path), each.iter().any(|one| one.leads(path)), "{path}");
    }
    let twice = unpacked(&["a", "a", "*", "*"]);
    assert_eq!((twice.all(), twice.copies("a"), twice.copies("b")), (4, 4, 2));
}

#[test]
fn the_files_of_a_copy_are_found() {
    for (pattern, is, no, leads) in [
        ("/a.tar", "a.tar", "b.tar", "a.tar"),
        ("d/../a/./b.tar", "a/b.tar", "b.tar", "a"),
        ("a/*.t?r", "a/x.tar", "a/b/x.tar", "a/.tar"),
        ("a/b/*/x", "a/b/c/x", "a/c/x", "a/b"),
        ("*/x*y*z", "b/x1y2z", "b/xz", "b/xyz"),
        // A class may match a `/`.
        ("a[^b]c", "a/c", "", "else"),
        ("a/[^b]c", "a/d/c", "b/c", "a"),
        ("a\\*b", "a*b", "", "else"),
    ] {
        let unpacked = unpacked(&[pattern]);
        assert!(unpacked.contains(is) && unpacked.leads(leads), "{pattern}");
        assert!(no.is_empty() || !unpacked.contains(no), "{pattern}");
    }
    assert!(!unpacked(&["a/b"]).leads("b"));
    // BuildKit looks into no linked directory for a wildcard.
    for (pattern, link) in
        [("*/x", "a"), ("a/b*/x", "a/b"), ("a/b*/x", "c"), ("a/[b]*/x", "b"), ("*.tar", "a/x.tar")]
    {
        assert!(!unpacked(&[pattern]).leads(link), "{pattern} {link}");
    }
    assert!(Unpacked::of(["/", ".", "a/.."], true).is_none());
    // What was judged for others, or by other limits, does not count.
    let key = |sources: &[&str], zstd| Unpacked::of(sources.iter().copied(), zstd).unwrap().key();
    assert_eq!(key(&["a", "b"], true), key(&["./b", "/a"], true));
    let many: Vec<&str> = vec!["a"; 9];
    for other in [key(&["a"], true), key(&["a", "b"], false), key(&many, true), key(&["a/b"], true)] {
        assert_ne!(other, key(&["a", "b"], true));
    }
}

fn stat(path: &str, mode: u32, link: &str, size: usize) -> Bytes {
    let stat = Stat {
        path: path.to_owned(),
        mode,
        linkname: link.to_owned(),
        size: i64::try_from(size).unwrap(),
        ..Stat::default()
    };
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
        .encode_to_vec()
        .into()
}

fn data(id: u32, data: &[u8]) -> Bytes {
    Packet { r#type: PacketType::PacketData.into(), id, data: data.to_vec(), ..Packet::default() }
        .encode_to_vec()
        .into()
}

fn fin() -> Bytes {
    Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() }.encode_to_vec().into()
}

fn sync(sources: &[&str], packets: &[Bytes]) -> Result<(), String> {
    sync_to(&Arc::new(Tree::new().unwrap()), sources, packets)
}

fn sync_to(tree: &Arc<Tree>, sources: &[&str], packets: &[Bytes]) -> Result<(), String> {
    let awaited = Awaited { unpacked: unpacked(sources), tree: Arc::clone(tree) };
    let mut synced = Synced::new(Arc::new(awaited));
    for packet in packets {
        if let Some(heavy) = synced.note(packet).map_err(|status| status.message().to_owned())? {
            for part in heavy.parts() {
                synced.judge(part).map_err(|status| status.message().to_owned())?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_sync_is_judged_before_its_last_byte_goes_on() {
    let bad = sparse();
    let (begin, end) = bad.split_at(520);
    let whole = |path: &str| {
        [stat("d", crate::go_mode::DIR, "", 0), stat(path, 0o644, "", bad.len()), data(1, begin)]
    };
    assert_eq!(sync(&["bad.tar"], &whole("other.tar")), Ok(()));
    assert_eq!(sync(&["bad.tar"], &whole("bad.tar")), Ok(()));
    let refused = sync(&["bad.tar"], &[&whole("bad.tar")[..], &[data(1, end)]].concat()).unwrap_err();
    assert!(refused.contains("the archive `bad.tar`, which has a file with holes"), "{refused}");
    // A short one is judged with its last bytes.
    let short = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x20, 1, 0, 0];
    let refused = sync(&["a"], &[stat("a", 0o644, "", short.len()), data(0, &short)]).unwrap_err();
    assert!(refused.contains("512 MiB"), "{refused}");
    assert_eq!(sync(&["a"], &[stat("a", 0o644, "", 0), data(0, &[])]), Ok(()));
}

#[test]
fn a_link_does_not_lead_past_the_judge() {
    let link = |path: &str| stat(path, crate::go_mode::SYMLINK | 0o777, "bad", 0);
    for (sources, packets) in [
        (&["a.tar"][..], vec![link("a.tar")]),
        (&["d/a.tar"], vec![link("d")]),
        (&["*.tar"], vec![link("x.tar")]),
        (&["a.tar"], vec![stat("bad", 0o644, "", 1), stat("a.tar", 0o644, "bad", 1)]),
    ] {
        let refused = sync(sources, &packets).unwrap_err();
        assert!(refused.contains("is a link to `bad`"), "{refused}");
    }
    assert_eq!(sync(&["d/a.tar"], &[link("a.tar"), link("e"), link("d/b.tar")]), Ok(()));
    let both = [stat("a.tar", 0o644, "", 1), stat("b.tar", 0o644, "a.tar", 1)];
    assert_eq!(sync(&["*.tar"], &both), Ok(()));
}

#[test]
fn few_archives_come_at_once() {
    let announced = (0..5).map(|n| stat(&format!("{n}.tar"), 0o644, "", 10));
    let begun = (0..5).map(|n| data(n, b"a"));
    let packets: Vec<Bytes> = announced.chain(begun).collect();
    assert!(sync(&["*.tar"], &packets).unwrap_err().contains("more than 4 archives"));
    assert_eq!(sync(&["*.tar"], &packets[..9]), Ok(()));
    let many: Vec<Bytes> = (0..=256).map(|n| stat(&format!("{n}.tar"), 0o644, "", 10)).collect();
    assert!(sync(&["*.tar"], &many).unwrap_err().contains("more than 256 files"));
    assert_eq!(sync(&["*.tar"], &many[1..]), Ok(()));
}

/// BuildKit asks only for what it does not have.
#[test]
fn what_came_before_counts() {
    let tree = || Arc::new(Tree::new().unwrap());
    let archive = plain();
    let (tar, of_it) = (|path: &str| stat(path, 0o644, "", archive.len()), |id| data(id, &archive));
    let names: Vec<String> = (0..200).map(|number| format!("{number:03}.tar")).collect();
    let stats = |count: usize| names.iter().take(count).map(|name| tar(name));
    let (twice, known) = (["*.tar", "0*"], tree());
    let first: Vec<_> = stats(100).chain((0..100).map(of_it)).chain([fin()]).collect();
    assert_eq!(sync_to(&known, &twice, &first), Ok(()));
    // The next sync brings nothing, or as many again.
    let again: Vec<_> = stats(100).chain([fin()]).collect();
    assert_eq!(sync_to(&known, &twice, &again), Ok(()));
    let more: Vec<_> = stats(200).chain((100..200).map(of_it)).chain([fin()]).collect();
    let refused = sync_to(&known, &twice, &more).unwrap_err();
    assert!(refused.contains("is one of more than 256 archives"), "{refused}");
    assert_eq!(sync_to(&known, &["*.tar"], &more), Ok(()));
    // What is not known is not unpacked, and comes again the next time.
    assert!(sync_to(&known, &twice, &[tar("other.tar"), fin()]).unwrap_err().contains("build again"));
    assert!(sync_to(&tree(), &twice, &again).unwrap_err().contains("build again"));
    assert!(known.is_over());
}

/// Not 256 times 256 MiB of some kB each.
#[test]
fn what_came_before_counts_with_what_it_grows_to() {
    let known = Arc::new(Tree::new().unwrap());
    let costs = Costs { archives: 1, packed: 1, unpacked: 200 << 20, ..Costs::default() };
    known.remember("a.tar", costs);
    assert_eq!(sync_to(&known, &["*.tar"], &[stat("a.tar", 0o644, "", 1), fin()]), Ok(()));
    let both = [stat("a.tar", 0o644, "", 1), stat("b.tar", 0o644, "a.tar", 1), fin()];
    assert!(sync_to(&known, &["*.tar"], &both).unwrap_err().contains("200 times as large unpacked"));
    // Two builds may have brought different bytes.
    known.remember("a.tar", Costs { archives: 1, steps: STEPS_MAX, packed: 9, ..Costs::default() });
    let twice = [stat("a.tar", 0o644, "", 1), fin()];
    assert!(sync_to(&known, &["a.tar", "*.tar"], &twice).unwrap_err().contains("too deep paths"));
}

/// A file system that keeps no time so old has another one, and a hard link sets the times of its file: BuildKit does not
/// ask again, though size and time are those of another file that came there.
#[test]
fn the_worst_that_came_to_a_path_counts() {
    let (known, archive) = (Arc::new(Tree::new().unwrap()), plain());
    let names: Vec<String> = (0..256).map(|number| format!("{number:03}")).collect();
    let plain_files: Vec<_> = names.iter().map(|name| stat(name, 0o644, "", 1)).collect();
    let sent = |from: u32, to: u32, with: &[u8]| (from..to).map(|id| data(id, with)).collect::<Vec<_>>();
    let twice = ["*", "1*"];
    let first = [plain_files.clone(), sent(0, 256, b"x"), vec![fin()]].concat();
    assert_eq!(sync_to(&known, &twice, &first), Ok(()));
    // Two halves come as archives, and the last sync brings nothing.
    for (from, to) in [(0, 128), (128, 256)] {
        let mut stats = plain_files.clone();
        for (id, name) in names.iter().enumerate().take(to as usize).skip(from as usize) {
            stats[id] = stat(name, 0o644, "", archive.len());
        }
        let judged = sync_to(&known, &twice, &[stats, sent(from, to, &archive), vec![fin()]].concat());
        assert_eq!(judged.is_ok(), from == 0, "{judged:?}");
    }
    let refused = sync_to(&known, &twice, &[plain_files, vec![fin()]].concat()).unwrap_err();
    assert!(
        refused.contains("is one of more than 256 archives") && refused.contains("build again"),
        "{refused}"
    );
    assert!(known.is_over(), "the next build begins with an empty tree");
    // A name that had an archive may still have it, and has a file's as soon as it is a link to that.
    let known = Arc::new(Tree::new().unwrap());
    let link = stat("q", 0o644, "p", 1);
    let two = [stat("p", 0o644, "", archive.len()), data(0, &archive), link.clone(), fin()];
    assert_eq!(sync_to(&known, &["p", "q"], &two), Ok(()));
    assert_eq!(sync_to(&known, &["p", "q"], &[stat("p", 0o644, "", 1), data(0, b"x"), link, fin()]), Ok(()));
    assert_eq!(["p", "q"].map(|path| known.costs(path).unwrap().archives), [1, 1]);
}

#[test]
fn each_name_of_an_archive_counts() {
    let known = Arc::new(Tree::new().unwrap());
    let archive = plain();
    let first = [stat("000.tar", 0o644, "", archive.len())];
    let link = |number: usize| stat(&format!("{number:03}.tar"), 0o644, "000.tar", archive.len());
    let names = |count| first.iter().cloned().chain((1..count).map(link));
    let sent = |count| names(count).chain([data(0, &archive), fin()]).collect::<Vec<_>>();
    assert_eq!(sync_to(&known, &["*.tar", "*"], &sent(128)), Ok(()));
    assert_eq!(sync_to(&known, &["*.tar"], &sent(256)), Ok(()));
    let refused = sync_to(&known, &["*.tar", "*"], &sent(129)).unwrap_err();
    assert!(refused.contains("is one of more than 256 archives"), "{refused}");
    assert!(sync_to(&known, &["*.tar"], &sent(257)).unwrap_err().contains("more than 256 files"));
    // The second name is left when the first is gone.
    assert_eq!(sync_to(&known, &["*.tar"], &[stat("001.tar", 0o644, "", archive.len()), fin()]), Ok(()));
}
