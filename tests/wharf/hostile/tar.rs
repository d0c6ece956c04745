//! Entries of a tar that the engine unpacks and reads as root, outside of any container.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tar::{EntryType, Header};
use wharf::wire::v1::BuildSpec;

use crate::harness::{Engine, Test, Wharf, cases, image::context_tar, process::Output, rpc, wait_for};

cases![
    devices_in_a_tar,
    a_pipe_as_the_dockerfile,
    links_out_of_a_tar,
    compressed_tars,
    oversized_dockerfiles,
];

/// A tar with one entry that is not a file.
fn of_entry(kind: EntryType, path: &str, device: (u32, u32)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_mode(0o666);
    header.set_size(0);
    header.set_device_major(device.0).unwrap();
    header.set_device_minor(device.1).unwrap();
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, &[][..]).unwrap();
    tar.into_inner().unwrap()
}

/// Runs `buildx build -` on the bare socket.
async fn on_bare_engine(test: &Test, engine: &Engine, dockerfile: &str, tar: &[u8]) -> Output {
    let mut command = engine.buildx(&test.new_dir("bare"));
    command.args(["-f", dockerfile, "-"]);
    Output::of(command, tar, Duration::from_secs(120)).await
}

/// The failure of a build of `tar` through wharfd.
async fn refused(channel: &tonic::transport::Channel, dockerfile: &str, tar: Vec<u8>) -> String {
    let spec = BuildSpec { dockerfile: dockerfile.to_owned(), ..BuildSpec::default() };
    let build = rpc::build_tar(channel, rpc::start("job#1", spec), tar).await;
    // This is a failure of the Dockerfile, which does not invite another try.
    build.failure.unwrap_or_else(|| panic!("no failure: {:?} {:?}", build.result, build.status)).message
}

/// BuildKit opens the node's own device; here it is `/dev/null`, whose end is reached at once.
async fn devices_in_a_tar(test: Arc<Test>) {
    let hostile = of_entry(EntryType::Char, "Dockerfile", (1, 3));
    let read = on_bare_engine(&test, &test.engine, "Dockerfile", &hostile).await;
    // The newest engine checks the type first.
    let said = if test.engine.is_containerd() { "not a regular file" } else { "cannot be empty" };
    read.ended(1).says(&[said]);

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let message = refused(&channel, "Dockerfile", hostile).await;
    assert!(message.contains("`Dockerfile` is a device"), "{message}");
    let beside = [
        context_tar(&[("Dockerfile", "FROM scratch\nCOPY . /\n")])[..1024].to_vec(),
        of_entry(EntryType::Block, "disk", (8, 0)),
    ];
    let message = refused(&channel, "Dockerfile", beside.concat()).await;
    assert!(message.contains("`disk` is a device"), "{message}");
}

/// Opening a pipe waits for its other end: on the bare engine a thread of dockerd waits for ever.
async fn a_pipe_as_the_dockerfile(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let name = test.unique("pipe");
    let hostile = of_entry(EntryType::Fifo, &name, (0, 0));
    let building = on_bare_engine(&test, &engine, &name, &hostile);
    let files = engine.socket().parent().unwrap().to_owned();
    let opened = wait_for("somebody who reads the pipe", async || {
        let pipe = found(&files, &name)?;
        // This open fails if the pipe has no reader.
        let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new().write(true).custom_flags(no_wait).open(pipe).ok()
    });
    tokio::select! {
        read = building => panic!("nobody waits: {read}"),
        // Dropping the sender closes the pipe.
        _pipe = opened => {}
    }

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let message = refused(&channel, &name, hostile).await;
    assert!(message.contains("is a pipe"), "{message}");
}

/// The pipe of that name under a directory.
fn found(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            found(&entry.path(), name)
        } else {
            (kind.is_fifo() && entry.file_name().to_str() == Some(name)).then(|| entry.path())
        }
    })
}

async fn links_out_of_a_tar(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let mut header = Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o644);
    for (kind, path, target, why) in [
        (EntryType::Link, "Dockerfile", "../../etc/shadow", "is not a path inside"),
        (EntryType::Symlink, "Dockerfile", "other", "is a link"),
        (EntryType::Regular, ".tmp.123456789", "", "makes for itself"),
    ] {
        header.set_entry_type(kind);
        let mut tar = tar::Builder::new(Vec::new());
        if kind == EntryType::Regular {
            tar.append_data(&mut header, path, &[][..]).unwrap();
        } else {
            tar.append_link(&mut header, path, target).unwrap();
        }
        let message = refused(&channel, "", tar.into_inner().unwrap()).await;
        assert!(message.contains(why), "{message}");
    }
    // The target of a link in the context only matters to the step that reads it.
    let mut tar = tar::Builder::new(Vec::new());
    header.set_entry_type(EntryType::Symlink);
    tar.append_link(&mut header, "link", "/etc/shadow").unwrap();
    header.set_entry_type(EntryType::Regular);
    let text = "FROM scratch\nCOPY . /\n";
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, "Dockerfile", text.as_bytes()).unwrap();
    let tar = tar.into_inner().unwrap();
    rpc::build_tar(&channel, rpc::start("job#1", BuildSpec::default()), tar).await.ok();
}

async fn compressed_tars(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let mark = test.unique("mark");
    let tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("file", &mark)]);
    let compressed = zstd::encode_all(&tar[..], 3).unwrap();
    let built = rpc::build_tar(&channel, rpc::start("job#1", BuildSpec::default()), compressed).await;
    assert_eq!(test.engine.text(&built.ok().image_id, "/file").await, mark);
    // A compressed tar is unpacked, so its device is found.
    let device = zstd::encode_all(&of_entry(EntryType::Char, "Dockerfile", (1, 3))[..], 3).unwrap();
    let message = refused(&channel, "", device).await;
    assert!(message.contains("is a device"), "{message}");
    for (begin, kind) in [(&b"BZh91AY&SY"[..], "bzip2"), (b"\xfd7zXZ\0\0\x04", "xz")] {
        let message = refused(&channel, "", begin.to_vec()).await;
        assert!(
            message.contains(&format!("compressed with {kind}: unpack it with `{kind} -dc`")),
            "{message}"
        );
    }
}

/// A tar with a Dockerfile that BuildKit finds although its entry has another path.
fn behind_a_further_name(text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, size| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size);
        header
    };
    tar.append_data(&mut header(EntryType::Regular, 0), "file", &[][..]).unwrap();
    tar.append_link(&mut header(EntryType::Symlink, 0), "here", ".").unwrap();
    tar.append_link(&mut header(EntryType::Link, 0), "again", "here").unwrap();
    let mut dockerfile = header(EntryType::Regular, text.len() as u64);
    tar.append_data(&mut dockerfile, "again/Dockerfile", text.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

/// The engine's own memory holds the values of a Dockerfile's variables. Here they are small, but twelve more
/// lines would make half a GiB.
async fn oversized_dockerfiles(test: Arc<Test>) {
    let doubling = "ARG a=$a$a\n".repeat(13);
    let text = format!("FROM scratch\nARG a=aaaaaaaaaaaaaaaa\n{doubling}COPY file /\n");
    let hostile = context_tar(&[("Dockerfile", &text), ("file", "")]);
    on_bare_engine(&test, &test.engine, "Dockerfile", &hostile).await.ok();

    // Under another name, and under a hard link to the directory's link.
    let small = context_tar(&[("dockerfile", &text), ("file", "")]);
    let behind = behind_a_further_name(&text);
    for tar in [&small, &behind] {
        on_bare_engine(&test, &test.engine, "Dockerfile", tar).await.ok();
    }

    let wharfd = test.wharfd().await;
    let channel = rpc::connect(&wharfd.socket()).await;
    assert!(refused(&channel, "", small).await.contains("line 14"));
    assert!(refused(&channel, "", behind).await.contains("is below the link `again`"));
    let large = "#".repeat((1 << 20) + 1);
    // BuildKit 0.13 has no checks.
    let (line, why) = match test.engine.is_containerd() {
        true => ("ENV a b\n", "warnings about it, each of which contains all of it"),
        false => ("LABEL a=b \\\n\n c=d\n", "instructions have empty lines in them"),
    };
    let warned = format!("FROM scratch\n{}", line.repeat(5000));
    for (text, why) in [
        (&text, "line 14: the value of a variable would have more than 1 MiB"),
        (&format!("FROM scratch\nLABEL a={}\n", "${a:-".repeat(1100)), "line 2: more than 1024"),
        (&warned, why),
    ] {
        let message = refused(&channel, "", context_tar(&[("Dockerfile", text), ("file", "")])).await;
        assert!(message.contains(why), "{message}");
    }
    // The same by a sync.
    let context = test.context("context", &[("Dockerfile", &text), ("file", "")]);
    let job = Wharf::new(&test, &wharfd, "job#1");
    job.build(&context, &[]).await.ended(1).says(&["line 14: the value of a variable"]);
    let context = test.context("large", &[("Dockerfile", &large.repeat(4))]);
    job.build(&context, &[]).await.ended(1).says(&["is too large"]);
}
