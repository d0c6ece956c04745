//! Which archives an `ADD` unpacks, and how many: those of earlier builds, behind links, and by several names.

use std::{fs, ops::Range, os::unix::fs::symlink, path::Path, sync::Arc};

use bollard_buildkit_proto::fsutil::types::{Stat, packet::PacketType};
use tar::{Builder, EntryType};
use wharf::wire::v1::BuildSpec;

use super::archives::{gzip, header, sparse};
use crate::harness::{
    Test, Wharf, cases,
    image::{File, tar as tar_of},
    lock, rpc,
    sender::{Bare, Sender, announced, end_of_list, file, sender},
    tree::{same, tree},
};

cases![
    archives_of_several_builds,
    archives_that_the_engine_takes_for_other_files,
    paths_behind_links_of_one_archive,
    names_of_one_archive,
    names_of_one_archive_in_a_tar,
    archives_behind_a_directory_that_is_a_link,
    wildcards_that_each_entry_is_compared_with,
];

/// Each archive twice: at most 256 are unpacked in one build.
const TWICE: &str = "FROM scratch\nADD *.tar /a/\nADD *.tar /b/\n";

fn archives(context: &Path, numbers: Range<usize>) {
    for number in numbers {
        let name = format!("f{number}");
        let file = (name.as_str(), File::Content(b"x", 0o644));
        fs::write(context.join(format!("{number}.tar")), tar_of([file])).unwrap();
    }
}

/// Each build brings as many as one may unpack, and the last one unpacks all of them: BuildKit asks only for files that it
/// does not have.
async fn archives_of_several_builds(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let bare = test.context("bare", &[("Dockerfile", TWICE)]);
    archives(&bare, 0..200);
    let out = test.new_dir("out");
    let output = format!("type=local,dest={}", out.join("bare").display());
    test.engine.buildx_build(&test.new_dir("bare"), &bare, &["-o", &output]).await.ok();
    for directory in ["a", "b"] {
        assert_eq!(fs::read_dir(out.join("bare").join(directory)).unwrap().count(), 200);
    }

    let context = test.context("several", &[("Dockerfile", TWICE)]);
    archives(&context, 0..100);
    job.build(&context, &[]).await.ok();
    // Once more, when nothing is sent.
    job.build(&context, &["--no-cache"]).await.ok();
    archives(&context, 100..200);
    let too_many = ["`ADD` would unpack the archive", "which is one of more than 256 archives"];
    job.build(&context, &[]).await.ended(1).says(&too_many);
    // Neither are they forgotten, nor does the engine have what was refused.
    job.build(&context, &[]).await.ended(1).says(&too_many);
    for number in 100..200 {
        fs::remove_file(context.join(format!("{number}.tar"))).unwrap();
    }
    job.build(&context, &[]).await.ok();
    // Another wharfd on the same engine has not judged what came before.
    wharfd.terminate().await;
    wharfd.start().await;
    job.build(&context, &["--no-cache"]).await.ok();
    archives(&context, 100..200);
    job.build(&context, &[]).await.ended(1).says(&too_many);
}

/// A disk keeps no time before 1901 (ext4), so BuildKit finds another time there than was announced, and asks for nothing:
/// archives pass for the plain files whose time they have got.
async fn archives_that_the_engine_takes_for_other_files(test: Arc<Test>) {
    const FIRST: i64 = -(1 << 31) * 1_000_000_000;
    const BEFORE: i64 = FIRST - 1_000_000_000_000_000;
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    // Each four times: at most 64 may be unpacked. The last line asks for the whole context.
    const OFTEN: &str =
        "FROM scratch\nADD *.tar /a/\nADD *.tar /b/\nADD *.tar /c/\nADD *.tar /d/\nCOPY . /e/\n";
    const HALF: usize = 33;
    let archive = tar_of([("f", File::Content(b"x", 0o644))]);
    let size = i64::try_from(archive.len()).unwrap();
    let context = |archives: Range<usize>| {
        let mut names: Vec<_> = (0..2 * HALF).map(|number| format!("{number}.tar")).collect();
        names.sort();
        let stats = names.iter().enumerate().map(|(index, name)| {
            let mod_time = if archives.contains(&index) { BEFORE } else { FIRST };
            announced(Stat { size, mod_time, ..file(name) })
        });
        let packets = stats.chain([end_of_list()]).collect();
        let content = |(index, name): (usize, &String)| {
            let plain = vec![b'x'; archive.len()];
            (name.clone(), if archives.contains(&index) { archive.clone() } else { plain })
        };
        let contents = names.iter().enumerate().map(content).collect();
        Sender { text: OFTEN, contents, ..sender(packets) }
    };
    let bare = Bare { key: test.unique("key"), name: None };
    for archives in [0..0, 0..2, 2..4] {
        context(archives).build_bare(&test, &test.engine, &bare).await.unwrap();
    }
    let last = context(0..0);
    last.build_bare(&test, &test.engine, &bare).await.unwrap();
    let asked = lock(&last.heard).iter().filter(|packet| packet.r#type() == PacketType::PacketReq).count();
    assert_eq!(asked, 0, "the engine unpacks archives of which it asks for none");
    assert!(lock(&last.heard).iter().any(|packet| packet.r#type() == PacketType::PacketFin));

    let build = async |archives| context(archives).build(&test, &channel, "job#1").await;
    build(0..0).await.ok();
    build(0..HALF).await.ok();
    let refused = format!("{:?}", build(HALF..2 * HALF).await);
    assert!(refused.contains("which is one of more than 256 archives"), "{refused}");
    // The engine has none of them for the next build.
    build(0..HALF).await.ok();
}

/// What is there behind a link is not known by its path: the engine removes and makes the same directories again and again.
async fn paths_behind_links_of_one_archive(test: Arc<Test>) {
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header(EntryType::Regular, 0), "b/x/y/f", &[][..]).unwrap();
    builder.append_link(&mut header(EntryType::Symlink, 0), "l", "b").unwrap();
    builder.append_data(&mut header(EntryType::Regular, 0), "l/x", &[][..]).unwrap();
    let context = test.context("behind", &[("Dockerfile", "FROM scratch\nADD a.tar.gz /\n")]);
    fs::write(context.join("a.tar.gz"), gzip(&builder.into_inner().unwrap())).unwrap();
    let out = test.new_dir("out");
    let output = format!("type=local,dest={}", out.display());
    test.engine.buildx_build(&test.new_dir("bare"), &context, &["-o", &output]).await.ok();
    assert!(out.join("b/x").is_file(), "the directory was removed by another path");
    let wharfd = test.wharfd().await;
    let refused = Wharf::new(&test, &wharfd, "job#1").build(&context, &[]).await.ended(1);
    refused.says(&[
        "`ADD` would unpack the archive `a.tar.gz`",
        "has an entry `l/x` behind a symlink of its own",
    ]);
}

/// Each name of an archive is unpacked.
async fn names_of_one_archive(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context("names", &[("Dockerfile", TWICE)]);
    archives(&context, 0..1);
    let link = |number: usize| fs::hard_link(context.join("0.tar"), context.join(format!("{number}.tar")));
    (1..100).for_each(|number| link(number).unwrap());
    job.build(&context, &[]).await.ok();
    job.build(&context, &["--no-cache"]).await.ok();
    // A name that outlives the first one, which the engine has already.
    fs::remove_file(context.join("0.tar")).unwrap();
    job.build(&context, &["--no-cache"]).await.ok();
    fs::hard_link(context.join("1.tar"), context.join("0.tar")).unwrap();
    (100..200).for_each(|number| link(number).unwrap());
    let refused = job.build(&context, &[]).await.ended(1);
    refused.says(&["`ADD` would unpack the archive", "which is one of more than 256 archives"]);
}

async fn names_of_one_archive_in_a_tar(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let build = async |names: usize, kind: EntryType| {
        let mut builder = Builder::new(Vec::new());
        let archive = tar_of([("f", File::Content(b"x", 0o644))]);
        for (path, bytes) in [("Dockerfile", TWICE.as_bytes()), ("0.tar", &archive), ("plain", b"x")] {
            builder.append_data(&mut header(EntryType::Regular, bytes.len() as u64), path, bytes).unwrap();
        }
        for number in 1..names {
            let path = format!("{number}.tar");
            builder.append_link(&mut header(kind, 0), path, "0.tar").unwrap();
            builder.append_link(&mut header(kind, 0), format!("plain{number}"), "plain").unwrap();
        }
        let context = builder.into_inner().unwrap();
        rpc::build_tar(&channel, rpc::start("job#1", BuildSpec::default()), context).await
    };
    for kind in [EntryType::Link, EntryType::Symlink] {
        let built = build(100, kind).await;
        assert!(built.result.is_some(), "{kind:?}: {:?} {:?}", built.failure, built.status);
        let refused = build(200, kind).await;
        let text = format!("{:?} {:?}", refused.failure, refused.status);
        assert!(text.contains("which is one of more than 256 archives"), "{kind:?}: {text}");
    }
}

/// BuildKit looks into no linked directory for the files of a wildcard, but follows the links before the wildcard, and the
/// files that it finds.
async fn archives_behind_a_directory_that_is_a_link(test: Arc<Test>) {
    let good = gzip(&tar_of([("good", File::Content(b"good", 0o644))]));
    let dockerfile = |add: &str| format!("FROM scratch\nADD {add} /\n");
    let context = test.context("linked", &[("v1/deep/text", "text"), ("v2/text", "text")]);
    fs::write(context.join("v1/x.tar.gz"), &good).unwrap();
    // No other path leads to it.
    fs::write(context.join("v1/deep/x.tar.gz"), gzip(&sparse())).unwrap();
    fs::write(context.join("v1/deep/y.tar.gz"), gzip(&sparse())).unwrap();
    symlink("v1/deep", context.join("current")).unwrap();
    symlink("v1/deep/y.tar.gz", context.join("z.tar.gz")).unwrap();
    let out = test.new_dir("out");
    let output = |name: &str| format!("type=local,dest={}", out.join(name).display());
    let home = test.new_dir("bare");
    let bare = async |add: &str, name: &str| {
        fs::write(context.join("Dockerfile"), dockerfile(add)).unwrap();
        test.engine.buildx_build(&home, &context, &["-o", &output(name)]).await.ok();
        tree(&out.join(name))
    };
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    for (index, add) in ["*/x.tar.gz", "*/[x]*.gz"].into_iter().enumerate() {
        let expected = bare(add, &format!("bare{index}")).await;
        assert!(expected.contains_key(Path::new("good")) && !expected.contains_key(Path::new("f")), "{add}");
        if !add.contains('[') {
            job.build(&context, &["-o", &output(&format!("ours{index}"))]).await.ok();
            same(&expected, &tree(&out.join(format!("ours{index}"))));
        }
    }
    for (index, (add, link)) in
        [("current/x.tar.gz", "current"), ("current/*.gz", "current"), ("*.gz", "z.tar.gz")]
            .into_iter()
            .enumerate()
    {
        let expected = bare(add, &format!("followed{index}")).await;
        assert!(expected.contains_key(Path::new("f")), "{add}");
        let refused = job.build(&context, &[]).await.ended(1);
        refused.says(&[&format!("`{link}` is a link to"), "`ADD` would unpack an archive behind it"]);
    }
}

/// wharfd compares each entry of a context with all of them.
async fn wildcards_that_each_entry_is_compared_with(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let context = |name: &str, sources: usize| {
        let sources: String = (0..sources).map(|number| format!("*{number}*a ")).collect();
        let context = test.context(name, &[("Dockerfile", &format!("FROM scratch\nADD f {sources}/d/\n"))]);
        fs::write(context.join("f"), "f").unwrap();
        context
    };
    let hostile = context("hostile", 33);
    test.engine.buildx_build(&test.new_dir("bare"), &hostile, &[]).await.ok();
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build(&hostile, &[]).await.ended(3).says(&["Dockerfile:2", "more than 32 paths with wildcards"]);
    job.build(&context("plain", 32), &[]).await.ok();
}
