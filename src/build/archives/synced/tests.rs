use super::*;

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

fn unpacked(sources: &[&str]) -> Unpacked {
    Unpacked::of(sources.iter().copied(), true).unwrap()
}

#[test]
fn the_files_of_a_copy_are_found() {
    for (pattern, is, no, leads) in [
        ("/a.tar", "a.tar", "b.tar", "a.tar"),
        ("d/../a/./b.tar", "a/b.tar", "b.tar", "a"),
        ("a/*.t?r", "a/x.tar", "a/b/x.tar", "a/.tar"),
        ("*/x*y*z", "b/x1y2z", "b/xz", "b"),
        // A class may match a `/`.
        ("a[^b]c", "a/c", "", "else"),
        ("a\\*b", "a*b", "", "else"),
    ] {
        let unpacked = unpacked(&[pattern]);
        assert!(unpacked.contains(is) && unpacked.leads(leads), "{pattern}");
        assert!(no.is_empty() || !unpacked.contains(no), "{pattern}");
    }
    assert!(!unpacked(&["a/b"]).leads("b"));
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

fn sync(sources: &[&str], packets: &[Bytes]) -> Result<(), String> {
    let mut synced = Synced::new(std::sync::Arc::new(unpacked(sources)));
    for packet in packets {
        if let Some((id, bytes)) = synced.note(packet).map_err(|status| status.message().to_owned())? {
            synced.pass(id, &bytes).map_err(|status| status.message().to_owned())?;
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
