use super::*;

fn said(sync: &mut Judge, packet: &Packet) -> Result<Packet, Status> {
    sync.client_says(packet.encode_to_vec().into()).map(|bytes| Packet::decode(bytes).unwrap())
}

fn heard(sync: &mut Judge, packet: &Packet) -> Result<Packet, Status> {
    sync.builder_says(packet.encode_to_vec().into()).map(|bytes| Packet::decode(bytes).unwrap())
}

fn announced(stat: Stat) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
}

fn file(path: &str) -> Stat {
    Stat { path: path.to_owned(), mode: 0o644, ..Stat::default() }
}

fn other(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

fn asked(id: u32) -> Packet {
    Packet { id, ..other(PacketType::PacketReq) }
}

fn data(id: u32, bytes: &[u8]) -> Packet {
    Packet { id, data: bytes.to_vec(), ..other(PacketType::PacketData) }
}

/// A sync in which BuildKit has requested the only file, of three bytes.
fn of_a_file() -> Judge {
    let mut sync = Judge::default();
    said(&mut sync, &announced(Stat { size: 3, ..file("a") })).unwrap();
    heard(&mut sync, &asked(0)).unwrap();
    sync
}

#[test]
fn an_honest_sync_passes() {
    let mut sync = Judge::default();
    let capability = std::collections::HashMap::from([("security.capability".to_owned(), vec![1])]);
    for packet in [
        announced(Stat { mode: mode::DIR | 0o755, ..file("a") }),
        announced(Stat { xattrs: capability.clone(), size: 9, ..file("a/b") }),
        announced(Stat { mode: mode::SYMLINK | 0o777, linkname: "/etc".into(), ..file("c") }),
        announced(Stat { mode: mode::NAMED_PIPE | 0o666, ..file("d") }),
        announced(Stat { linkname: "a/b".into(), xattrs: capability, ..file("..e") }),
        announced(file("f")),
        other(PacketType::PacketStat),
    ] {
        assert_eq!(said(&mut sync, &packet).unwrap(), packet);
    }
    for packet in [asked(1), asked(5)] {
        assert_eq!(heard(&mut sync, &packet).unwrap(), packet);
    }
    for packet in [data(1, &[7; 4]), data(5, &[]), data(1, &[7; 5]), data(1, &[])] {
        assert_eq!(said(&mut sync, &packet).unwrap(), packet);
    }
    let fin = other(PacketType::PacketFin);
    assert_eq!(heard(&mut sync, &fin).unwrap(), fin);
    assert_eq!(said(&mut sync, &fin).unwrap(), fin);
    // The end has a judgement of all of the sync.
    for packet in [fin, other(PacketType::PacketErr)] {
        assert!(said(&mut sync, &packet).unwrap_err().message().contains("after the end of the sync"));
    }
}

#[test]
fn a_file_has_the_bytes_that_were_announced_and_one_end() {
    for (hostile, text) in [
        (vec![data(0, &[1; 4])], "more bytes"),
        (vec![data(0, &[1; 2]), data(0, &[1; 2])], "more bytes"),
        (vec![data(0, &[])], "ended before"),
        (vec![data(0, &[1; 2]), data(0, &[])], "ended before"),
        (vec![data(0, &[1; 3]), data(0, &[]), data(0, b"evil")], "did not request"),
        (vec![data(0, &[1; 3]), data(0, &[]), data(0, &[])], "did not request"),
        (vec![data(1, &[])], "did not request"),
    ] {
        let mut sync = of_a_file();
        let (last, before) = hostile.split_last().unwrap();
        for packet in before {
            said(&mut sync, packet).unwrap();
        }
        let refused = said(&mut sync, last).unwrap_err();
        assert!(refused.message().contains(text), "{hostile:?}: {refused}");
    }
    // A file is not sent before it is requested, and the sync does not end before BuildKit has said so.
    let mut sync = Judge::default();
    said(&mut sync, &announced(file("a"))).unwrap();
    assert!(said(&mut sync, &data(0, &[])).is_err());
    assert!(said(&mut sync, &other(PacketType::PacketFin)).is_err());
    assert!(said(&mut sync, &announced(Stat { size: -1, ..file("b") })).is_err());
}

#[test]
fn the_builder_asks_once_for_files_that_were_announced() {
    let link = Stat { mode: mode::SYMLINK | 0o777, linkname: "a".into(), ..file("b") };
    for (entry, asks) in [(file("a"), vec![0, 0]), (file("a"), vec![1]), (link, vec![0])] {
        let mut sync = Judge::default();
        said(&mut sync, &announced(entry)).unwrap();
        let (last, before) = asks.split_last().unwrap();
        for id in before {
            heard(&mut sync, &asked(*id)).unwrap();
        }
        assert!(heard(&mut sync, &asked(*last)).is_err(), "{asks:?}");
    }
}

#[test]
fn the_builders_own_words_stay_here() {
    let error =
        Packet { data: b"failed to symlink /x/.tmp.474270919".into(), ..other(PacketType::PacketErr) };
    assert_eq!(heard(&mut Judge::default(), &error).unwrap(), other(PacketType::PacketErr));
    for packet in [other(PacketType::PacketStat), data(0, b"x")] {
        assert!(heard(&mut Judge::default(), &packet).is_err());
    }
    let padded = Packet { data: b"/var/lib".into(), ..other(PacketType::PacketFin) };
    assert_eq!(heard(&mut Judge::default(), &padded).unwrap(), other(PacketType::PacketFin));
}

#[test]
fn no_entry_has_a_name_of_the_builders_own() {
    for path in [".tmp.474270919", "a/.tmp.1", ".tmp.000000001/a", ".TMP.474270919", ".fsutil-metadata"] {
        assert!(said(&mut Judge::default(), &announced(file(path))).is_err(), "{path}");
        let link = Stat { linkname: path.to_owned(), ..file("a") };
        assert!(said(&mut Judge::default(), &announced(link)).is_err(), "{path}");
        for kind in [mode::DIR, mode::SYMLINK, mode::NAMED_PIPE] {
            let entry = Stat { mode: kind, linkname: "a".to_owned(), ..file(path) };
            assert!(said(&mut Judge::default(), &announced(entry)).is_err(), "{path}");
        }
    }
    for path in [".tmp", ".tmp.", ".tmp.a1", "x.tmp.1", ".tmp.1a", ".tmp-1", ".t", "a/.fsutil-metadata"] {
        assert!(said(&mut Judge::default(), &announced(file(path))).is_ok(), "{path}");
    }
}

#[test]
fn a_link_points_somewhere_and_a_directory_nowhere() {
    for target in ["", "a\0b"] {
        let link = Stat { mode: mode::SYMLINK | 0o777, linkname: target.to_owned(), ..file("a") };
        assert!(said(&mut Judge::default(), &announced(link)).is_err(), "{target:?}");
    }
    let directory = Stat {
        mode: mode::DIR | 1 << 30 | 0o755,
        linkname: "/etc".into(),
        uid: 7,
        gid: 7,
        devmajor: 1,
        devminor: 3,
        ..file("a")
    };
    let passed = said(&mut Judge::default(), &announced(directory)).unwrap();
    assert_eq!(passed, announced(Stat { mode: mode::DIR | 0o755, ..file("a") }));
}

#[test]
fn a_list_has_one_end() {
    for after in [other(PacketType::PacketStat), announced(file("a"))] {
        let mut sync = Judge::default();
        said(&mut sync, &other(PacketType::PacketStat)).unwrap();
        assert!(said(&mut sync, &after).is_err());
    }
}

#[test]
fn entries_stay_inside() {
    for path in ["", ".", "..", "/", "/etc", "../a", "a/..", "a/../b", "a//b", "a/", "a\0b"] {
        assert!(said(&mut Judge::default(), &announced(file(path))).is_err(), "{path}");
        if !path.is_empty() {
            let link = Stat { linkname: path.to_owned(), ..file("a") };
            assert!(said(&mut Judge::default(), &announced(link)).is_err(), "{path}");
        }
    }
}

#[test]
fn an_entry_is_one_thing() {
    for mode in [
        mode::DIR | mode::SYMLINK,
        mode::SYMLINK | mode::NAMED_PIPE,
        mode::DEVICE,
        mode::DEVICE | mode::CHAR_DEVICE,
        mode::CHAR_DEVICE,
        mode::NAMED_PIPE | mode::CHAR_DEVICE,
        mode::IRREGULAR,
        mode::SOCKET,
    ] {
        let entry = announced(Stat { mode, ..file("a") });
        assert!(said(&mut Judge::default(), &entry).is_err(), "{mode:o}");
    }
    let pipe = announced(Stat { mode: mode::NAMED_PIPE, ..file("a") });
    let asked = |name: &str, path: &str| {
        let follow_paths = vec![path.to_owned()];
        Judge::of(
            &DirectoryRequest { name: name.to_owned(), follow_paths, ..DirectoryRequest::default() },
            &Arc::default(),
        )
    };
    assert!(said(&mut asked("context", "a"), &pipe).is_ok());
    assert!(said(&mut asked("context", ".dockerignore"), &pipe).is_err());
    assert!(said(&mut asked("dockerfile", "Dockerfile"), &pipe).is_err());
}

#[test]
fn attributes_are_the_files_own() {
    let xattrs = ["security.capability", "user.x", "security.selinux", "trusted.overlay.redirect"]
        .map(|name| (name.to_owned(), vec![1]));
    let left = |mode, link: &str| {
        let entry =
            announced(Stat { mode, xattrs: xattrs.clone().into(), linkname: link.into(), ..file("a") });
        let passed = said(&mut Judge::default(), &entry).unwrap().stat.unwrap().xattrs;
        passed.into_keys().collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(left(0o644, ""), ["security.capability", "user.x"].map(str::to_owned).into());
    assert!(left(mode::SYMLINK | 0o777, "b").is_empty());
}

#[test]
fn a_further_name_has_its_files_mode_and_attributes() {
    let xattrs = std::collections::HashMap::from([("user.x".to_owned(), vec![1])]);
    let first = Stat { mode: 0o755, xattrs, ..file("a") };
    let judged = |further: Stat| {
        let mut sync = Judge::default();
        said(&mut sync, &announced(first.clone())).unwrap();
        said(&mut sync, &announced(Stat { path: "b".into(), linkname: "a".into(), ..further }))
    };
    assert!(judged(first.clone()).is_ok());
    // Forbidden fields of the first name have been removed.
    assert!(judged(Stat { mode: 0o755 | 1 << 30, uid: 7, mod_time: 7, ..first.clone() }).is_ok());
    for further in [
        Stat { mode: 0o644, ..first.clone() },
        Stat { mode: mode::SETUID | 0o755, ..first.clone() },
        Stat { xattrs: std::collections::HashMap::new(), ..first.clone() },
        Stat { xattrs: [("user.x".to_owned(), vec![2])].into(), ..first.clone() },
    ] {
        let refused = judged(further.clone()).unwrap_err();
        assert!(refused.message().contains("`b` is a hard link to `a`"), "{further:?}: {refused}");
    }
    let of_nothing = announced(Stat { linkname: "c".into(), ..file("d") });
    assert!(said(&mut Judge::default(), &of_nothing).is_err());
}

#[test]
fn nothing_else_passes() {
    for packet in [
        other(PacketType::PacketReq),
        Packet { r#type: 9, ..Packet::default() },
        Packet { stat: Some(file("a")), ..other(PacketType::PacketData) },
    ] {
        assert!(said(&mut Judge::default(), &packet).is_err(), "{packet:?}");
    }
    assert!(Judge::default().client_says(Bytes::from_static(b"\xff")).is_err());
    // An unknown field is not passed on.
    let bytes = [announced(file("a")).encode_to_vec(), vec![0x98, 0x06, 0x01]].concat();
    assert_eq!(Judge::default().client_says(bytes.into()).unwrap(), announced(file("a")).encode_to_vec());
}

#[test]
fn files_that_are_read_whole_are_bounded() {
    let asked = |name: &str, paths: &[&str]| {
        let follow_paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Judge::of(
            &DirectoryRequest { name: name.to_owned(), follow_paths, ..DirectoryRequest::default() },
            &Arc::default(),
        )
    };
    let large = |bytes: i64| announced(Stat { size: bytes, ..file("a") });
    for (name, paths, mib) in [("dockerfile", &["Dockerfile"][..], 4), ("context", &[".dockerignore"], 1)] {
        assert!(said(&mut asked(name, paths), &large(mib << 20)).is_ok());
        let refused = said(&mut asked(name, paths), &large((mib << 20) + 1)).unwrap_err();
        assert!(refused.message().contains("`a` is too large"), "{refused}");
        let mut many = asked(name, paths);
        for _ in 0..6 {
            said(&mut many, &large(1 << 20)).unwrap();
        }
        assert!(said(&mut many, &large(1)).is_err());
    }
    let ignored = Stat { size: (1 << 20) + 1, ..file("Dockerfile.dockerignore") };
    assert!(said(&mut asked("dockerfile", &["Dockerfile"]), &announced(ignored)).is_err());
    for paths in [&[][..], &["a"], &[".dockerignore", "a"]] {
        assert!(said(&mut asked("context", paths), &large(1 << 40)).is_ok());
    }
}

#[test]
fn a_dockerfile_is_judged_before_its_end_has_gone_on() {
    let text = format!("FROM scratch\nENV a=aaaaaaaaaaaaaaaa\n{}", "ENV a=$a$a\n".repeat(25));
    let ends = |name: &str| {
        let dockerfile = Arc::<dockerfile::Judge>::default();
        let request = DirectoryRequest { name: name.to_owned(), ..DirectoryRequest::default() };
        let mut judge = Judge::of(&request, &dockerfile);
        let size = text.len().try_into().unwrap();
        said(&mut judge, &announced(Stat { size, ..file("a") })).unwrap();
        judge.builder_says(other(PacketType::PacketReq).encode_to_vec().into()).unwrap();
        for part in text.as_bytes().chunks(100) {
            let data = Packet { data: part.to_vec(), ..other(PacketType::PacketData) };
            said(&mut judge, &data).unwrap();
            dockerfile.judge_all().unwrap();
        }
        said(&mut judge, &other(PacketType::PacketData)).unwrap();
        dockerfile.judge_all()
    };
    let refused = ends("dockerfile").unwrap_err();
    assert!(refused.contains("line 18: the value of a variable"), "{refused}");
    assert_eq!(ends("context"), Ok(()));
}

#[test]
fn what_entries_say_is_bounded() {
    let mut sync = Judge::default();
    let mut say = |number: usize| {
        let xattrs = [("user.a".to_owned(), vec![0; 1 << 20])].into();
        said(&mut sync, &announced(Stat { xattrs, ..file(&format!("{number:03}")) }))
    };
    for number in 0..255 {
        say(number).unwrap();
    }
    assert!(say(255).unwrap_err().message().contains("have more than 256 MiB"));

    let long = "a/".repeat(2048) + "a";
    let link = Stat { mode: mode::SYMLINK | 0o777, linkname: long.clone(), ..file("link") };
    for stat in [file(&long), link] {
        let refused = said(&mut Judge::default(), &announced(stat)).unwrap_err();
        assert!(refused.message().contains("longer than a path can be") && refused.message().len() < 300);
    }
    said(&mut Judge::default(), &announced(file(&"a/".repeat(2047)[..4093]))).unwrap();
}

#[test]
fn a_clients_own_words_are_a_line() {
    let text = "no\n".repeat(1 << 20);
    let passed = said(&mut Judge::default(), &Packet { data: text.into(), ..other(PacketType::PacketErr) });
    let passed = String::from_utf8(passed.unwrap().data).unwrap();
    assert!(passed.starts_with(r"no\nno\n") && passed.len() < 9000, "{}", passed.len());
}

/// Each of them is judged as a Dockerfile.
#[test]
fn few_files_come_in_place_of_a_dockerfile() {
    let request = |name: &str| DirectoryRequest { name: name.to_owned(), ..DirectoryRequest::default() };
    let mut sync = Judge::of(&request("dockerfile"), &Arc::default());
    for number in 0..READ_FILES_MAX {
        said(&mut sync, &announced(file(&number.to_string()))).unwrap();
    }
    let refused = said(&mut sync, &announced(file("one more"))).unwrap_err();
    assert!(refused.message().contains("more than 16 files"), "{refused}");
    let mut context = Judge::of(&request("context"), &Arc::default());
    for number in 0..=READ_FILES_MAX {
        said(&mut context, &announced(file(&number.to_string()))).unwrap();
    }
}
