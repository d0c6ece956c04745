//! Archives that the engine unpacks for an `ADD`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};
use wharf::wire::v1::BuildSpec;

use crate::harness::{
    Engine, Test, Wharf, cases,
    image::{File, tar as tar_of},
    rpc,
    tree::{same, tree},
};

cases![
    windows_of_archives,
    links_of_archives,
    attributes_of_archives,
    holes_in_archives,
    an_archive_that_came_before,
    archives_in_a_tar,
    archives_are_unpacked,
];

pub(super) fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.window_log(window_log).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A context with a Dockerfile and one archive.
fn context(test: &Test, name: &str, dockerfile: &str, archive: &str, bytes: &[u8]) -> PathBuf {
    let context = test.context(name, &[("Dockerfile", dockerfile)]);
    fs::write(context.join(archive), bytes).unwrap();
    context
}

/// The most memory that the engine's daemon has taken, in bytes.
fn peak(engine: &Engine) -> u64 {
    let number = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let statuses: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok())
        .collect();
    let mut family = vec![u64::from(engine.pid().unsigned_abs())];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        let children = statuses.iter().filter(|status| number(status, "PPid:") == Some(parent));
        family.extend(children.filter_map(|status| number(status, "Pid:")));
        at += 1;
    }
    let of_family = |status: &&String| number(status, "Pid:").is_some_and(|pid| family.contains(&pid));
    let daemons = statuses.iter().filter(of_family).filter(|status| status.starts_with("Name:\tdockerd"));
    daemons.filter_map(|status| number(status, "VmHWM:")).max().unwrap() << 10
}

/// 13 kB, for which the engine takes a window of 128 MiB in each step.
async fn windows_of_archives(test: Arc<Test>) {
    let mut file = header(EntryType::Regular, 160 << 20);
    file.set_path("f").unwrap();
    file.set_cksum();
    let mut archive = file.as_bytes().to_vec();
    archive.resize(archive.len() + (160 << 20) + 1024, 0);
    let archive = zstd(&archive, 27);
    assert!(archive.len() < 32 << 10, "{}", archive.len());
    let stages = |count: usize| {
        let stages: String =
            (0..count).map(|n| format!("FROM scratch AS s{n}\nADD a.tar.zst /{n}/\n")).collect();
        let copies: String = (0..count).map(|n| format!("COPY --from=s{n} /{n}/f /{n}\n")).collect();
        format!("{stages}FROM scratch\n{copies}")
    };
    let several = context(&test, "several", &stages(3), "a.tar.zst", &archive);
    let (_, engine) = test.throw_away_engine().await;
    let before = peak(&engine);
    engine.buildx_build(&test.new_dir("bare"), &several, &[]).await.ok();
    let after = peak(&engine);
    assert!(after > before + (300 << 20), "{before} {after}");

    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let why = if test.engine.is_containerd() {
        "has a Zstandard window of 128 MiB, and may have one of 8 MiB"
    } else {
        "compress it with gzip"
    };
    job.build(&several, &[]).await.ended(1).says(&["archive `a.tar.zst`", why]);
    let copied = "FROM scratch\nADD Dockerfile /\nCOPY a.tar.zst /\n";
    job.build(&context(&test, "copied", copied, "a.tar.zst", &archive), &[]).await.ok();
}

/// An archive of links to two links, with so many names each.
fn linked(names: usize) -> Vec<u8> {
    let long = format!("{}/", "y".repeat(249)).repeat(16);
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header(EntryType::Directory, 0), "d/", &[][..]).unwrap();
    // A file system has at most 65,000 links to one.
    for target in 0..2 {
        builder.append_link(&mut header(EntryType::Symlink, 0), format!("d/s{target}"), &long).unwrap();
        for number in 0..names {
            let path = format!("d/{target}{number}");
            builder.append_link(&mut header(EntryType::Link, 0), path, format!("d/s{target}")).unwrap();
        }
    }
    gzip(&builder.into_inner().unwrap())
}

/// The engine keeps the target of a link for each of its names.
async fn links_of_archives(test: Arc<Test>) {
    let dockerfile = "FROM scratch AS a\nADD a.tar.gz /\nFROM scratch\nCOPY --from=a /d /e\n";
    let some = context(&test, "some", dockerfile, "a.tar.gz", &linked(8_000));
    let (_, engine) = test.throw_away_engine().await;
    let before = peak(&engine);
    engine.buildx_build(&test.new_dir("bare"), &some, &[]).await.ok();
    let after = peak(&engine);
    assert!(after > before + (60 << 20), "{before} {after}");

    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let many = context(&test, "many", dockerfile, "a.tar.gz", &linked(33_000));
    let refused = job.build(&many, &[]).await.ended(1);
    refused.says(&["archive `a.tar.gz`", "more than 256 MiB of paths, links and attributes"]);
}

/// Directories with 100,000 attributes each.
fn attributed(directories: usize) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let letters = || b'A'..=b'z';
    let keys = letters()
        .flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c].map(char::from))));
    let records: String = keys.take(100_000).map(|[a, b, c]| format!("8 {a}{b}{c}=1\n")).collect();
    for number in 0..directories {
        let mut attributes = header(EntryType::XHeader, records.len() as u64);
        attributes.set_cksum();
        builder.append(&attributes, records.as_bytes()).unwrap();
        let mut directory = header(EntryType::Directory, 0);
        builder.append_data(&mut directory, format!("d{number}/"), &[][..]).unwrap();
    }
    gzip(&builder.into_inner().unwrap())
}

/// The engine keeps the headers of all directories until it has unpacked the archive.
async fn attributes_of_archives(test: Arc<Test>) {
    let dockerfile = "FROM scratch\nADD a.tar.gz /\n";
    let (_, engine) = test.throw_away_engine().await;
    let context = context(&test, "attributes", dockerfile, "a.tar.gz", &attributed(12));
    let before = peak(&engine);
    engine.buildx_build(&test.new_dir("bare"), &context, &[]).await.ok();
    let after = peak(&engine);
    assert!(after > before + (60 << 20), "{before} {after}");

    let wharfd = test.wharfd().await;
    let refused = Wharf::new(&test, &wharfd, "job#1").build(&context, &[]).await.ended(1);
    refused.says(&["archive `a.tar.gz`", "more than 256 MiB of paths, links and attributes"]);
}

/// A tar of some hundred bytes with a file of 128 MiB.
pub(super) fn sparse() -> Vec<u8> {
    let records =
        [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "134217728")];
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions(records.map(|(key, value)| (key, value.as_bytes()))).unwrap();
    // The map: one piece of no bytes, at the end.
    let mut map = b"1\n134217728\n0\n".to_vec();
    map.resize(512, 0);
    builder.append_data(&mut header(EntryType::Regular, 512), "f", &map[..]).unwrap();
    builder.into_inner().unwrap()
}

/// The engine writes the holes of a file.
async fn holes_in_archives(test: Arc<Test>) {
    let dockerfile = "FROM scratch\nADD a.tar.gz /\n";
    let holes = context(&test, "holes", dockerfile, "a.tar.gz", &gzip(&sparse()));
    let bare = test.new_dir("bare");
    let output = format!("type=local,dest={}", bare.join("out").display());
    test.engine.buildx_build(&bare, &holes, &["-o", &output]).await.ok();
    assert_eq!(fs::metadata(bare.join("out/f")).unwrap().len(), 128 << 20);

    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build(&holes, &[]).await.ended(1).says(&["archive `a.tar.gz`", "a file with holes"]);
}

/// BuildKit asks only for files that it does not have from an earlier build: a `COPY` brings an archive, or an `ADD` of
/// something else does, and a later `ADD` unpacks it.
async fn an_archive_that_came_before(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let holes = context(&test, "holes", "FROM scratch\nCOPY a.tar.gz /\n", "a.tar.gz", &gzip(&sparse()));
    let build = async |dockerfile: &str| {
        fs::write(holes.join("Dockerfile"), format!("FROM scratch\n{dockerfile}\n")).unwrap();
        job.build(&holes, &[]).await
    };
    build("COPY a.tar.gz /").await.ok();
    build("ADD Dockerfile /\nCOPY a.tar.gz /").await.ok();
    for add in ["ADD a.tar.gz /", "ADD *.gz /", "ADD Dockerfile a.tar.gz /", "ADD a.tar.gz /"] {
        build(add).await.ended(1).says(&["archive `a.tar.gz`", "a file with holes"]);
    }
    std::os::unix::fs::symlink("a.tar.gz", holes.join("b.tar.gz")).unwrap();
    build("ADD b.tar.gz /").await.ended(1).says(&["`b.tar.gz` is a link to `a.tar.gz`", "COPY"]);
    build("COPY b.tar.gz /").await.ok();
    // The next build can unpack it once it is good.
    fs::write(holes.join("a.tar.gz"), gzip(&tar_of([("f", File::Content(b"good", 0o644))]))).unwrap();
    build("ADD a.tar.gz /").await.ok();
}

async fn archives_in_a_tar(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let bad = gzip(&sparse());
    let build = async |dockerfile: &str| {
        let dockerfile = format!("FROM scratch\n{dockerfile}\n");
        let mut builder = Builder::new(Vec::new());
        for (path, bytes) in [("Dockerfile", dockerfile.as_bytes()), ("d/a.tar.gz", &bad), ("d/plain", b"x")]
        {
            builder.append_data(&mut header(EntryType::Regular, bytes.len() as u64), path, bytes).unwrap();
        }
        let context = builder.into_inner().unwrap();
        rpc::build_tar(&channel, rpc::start("job#1", BuildSpec::default()), context).await
    };
    for copy in ["COPY d/a.tar.gz /", "ADD d/plain /\nCOPY d/a.tar.gz /", "ADD d /"] {
        let built = build(copy).await;
        assert!(built.result.is_some(), "{copy}: {:?} {:?}", built.failure, built.status);
    }
    for add in ["ADD d/a.tar.gz /", "ADD d/* /"] {
        let refused = build(add).await;
        let text = format!("{:?} {:?}", refused.failure, refused.status);
        assert!(text.contains("the archive `d/a.tar.gz`, which has a file with holes"), "{add}: {text}");
    }
}

/// The same tree as from the bare engine, of every form.
async fn archives_are_unpacked(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let long = format!("{}/{}", "a".repeat(120), "b".repeat(120));
    let mut builder = Builder::new(Vec::new());
    let noise: Vec<u8> = (0_u32..100_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for (path, bytes) in [("d/f", &noise[..]), (&long, b"long"), ("e", b"")] {
        builder.append_data(&mut header(EntryType::Regular, bytes.len() as u64), path, bytes).unwrap();
    }
    builder.append_link(&mut header(EntryType::Symlink, 0), "s", &long).unwrap();
    builder.append_link(&mut header(EntryType::Link, 0), "d/l", "d/f").unwrap();
    let tar = builder.into_inner().unwrap();
    let dir = test.context("archives", &[("a.txt", "a"), ("dir/b.txt", "b")]);
    fs::write(dir.join("tar"), &tar).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tar).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 9);
    xz.write_all(&tar).unwrap();
    fs::write(dir.join("gz"), gzip(&tar)).unwrap();
    fs::write(dir.join("bz2"), bzip2.finish().unwrap()).unwrap();
    fs::write(dir.join("xz"), xz.finish().unwrap()).unwrap();
    fs::write(dir.join("data.gz"), gzip(b"no tar")).unwrap();
    fs::write(dir.join("zst"), zstd(&tar, 21)).unwrap();
    let mut adds = "ADD tar /tar/\nADD gz /gz/\nADD bz2 /bz2/\nADD a.txt data.gz /plain/\nADD dir /dir/\n\
                    ADD *.txt /wild/\n"
        .to_owned();
    // The newest engine fails if it has no program `xz`.
    adds.push_str(if test.engine.is_containerd() { "ADD zst /zst/\n" } else { "ADD xz /xz/\n" });
    fs::write(dir.join("Dockerfile"), format!("FROM scratch\n{adds}")).unwrap();
    let out = test.new_dir("out");
    let output = |name: &str| format!("type=local,dest={}", out.join(name).display());
    test.engine.buildx_build(&test.new_dir("bare"), &dir, &["-o", &output("bare")]).await.ok();
    // Once more, when nothing is sent again.
    for name in ["ours", "again"] {
        job.build(&dir, &["-o", &output(name)]).await.ok();
        same(&tree(&out.join("bare")), &tree(&out.join(name)));
    }
    let unpacked = tree(&out.join("ours"));
    for form in ["tar", "gz", "bz2"] {
        assert!(unpacked.contains_key(&Path::new(form).join("d/l")), "{form}");
    }
}
