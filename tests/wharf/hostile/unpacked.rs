//! Which archives an `ADD` unpacks, and how many: those of earlier builds, behind links, and by several names.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc};

use tar::{Builder, EntryType};
use wharf::wire::v1::BuildSpec;

use super::archives::{gzip, header, sparse};
use crate::harness::{
    Test, Wharf, cases,
    image::{File, tar as tar_of},
    rpc,
    tree::{same, tree},
};

cases![
    archives_of_several_builds,
    names_of_one_archive,
    names_of_one_archive_in_a_tar,
    archives_behind_a_directory_that_is_a_link,
];

/// Each archive twice: at most 256 are unpacked in one build.
const TWICE: &str = "FROM scratch\nADD *.tar /a/\nADD *.tar /b/\n";

fn archives(context: &Path, numbers: std::ops::Range<usize>) {
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
