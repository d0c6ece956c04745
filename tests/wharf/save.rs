//! `wharf save`: an archive has the images that a job names, whole, under the job's names alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
    process::Stdio,
    sync::Arc,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use wharf::wire::v1::{
    DeleteNamespaceRequest, SaveImagesRequest, image_service_client::ImageServiceClient,
    namespace_service_client::NamespaceServiceClient, save_images_response::Response,
};

use crate::harness::{
    Image, Test, Wharf, cases,
    image::{File, Layer, digest},
    rpc, wait_for,
};

cases![
    an_archive_is_whole_and_docker_loads_it,
    only_a_namespaces_own_images_are_saved,
    nothing_is_half_saved,
    a_save_ends_with_its_client_and_its_namespace,
];

/// The files of an archive.
fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let entries = archive.entries().unwrap();
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), content)
    };
    entries.map(read).collect()
}

fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

/// A layer that does not fit into what is on its way to a client that does not read.
fn large_layer() -> Layer {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..32 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect();
    Layer::of([("noise", File::Content(&noise, 0o644))])
}

async fn an_archive_is_whole_and_docker_loads_it(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = test.base(&registry).await;
    let mark = test.unique("mark");
    let dockerfile = format!("FROM {base}\nRUN echo {mark} > /made\n");
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    job.build(&context, &["-t", "app:1", "-t", "reg.example/team/app:2"]).await.ok();
    job.build(&context, &["-t", "other:1", "--label", "other=1"]).await.ok();
    let unnamed = job.build_id(&context, &["--label", "unnamed=1"]).await;

    let file = test.dir().join("images.tar");
    let name = file.to_str().unwrap();
    let saved =
        job.run(["save", "-o", name, "app:1", "other:1", "reg.example/team/app:2", &unnamed]).await.ok();
    assert_eq!(saved.stdout, "");
    let archive = files(&file);
    let blobs: Vec<_> =
        archive.iter().filter_map(|(path, blob)| Some((path.strip_prefix("blobs/sha256/")?, blob))).collect();
    for (name, blob) in &blobs {
        assert_eq!(format!("sha256:{name}"), digest(blob));
    }
    let index = json(&archive, "index.json");
    let names: BTreeSet<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["annotations"]["io.containerd.image.name"].as_str().unwrap_or("none"))
        .collect();
    let expected = ["docker.io/library/app:1", "docker.io/library/other:1", "reg.example/team/app:2", "none"];
    assert_eq!(names, BTreeSet::from(expected));
    // Each manifest, its config and its layers are there.
    for one in index["manifests"].as_array().unwrap() {
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let manifest = json(&archive, &blob(&one["digest"]));
        json(&archive, &blob(&manifest["config"]["digest"]));
        for layer in manifest["layers"].as_array().unwrap() {
            assert!(archive.contains_key(&blob(&layer["digest"])), "{layer}");
        }
    }
    let listed = json(&archive, "manifest.json");
    assert_eq!(listed[0]["RepoTags"], serde_json::json!(["app:1", "reg.example/team/app:2"]));
    assert_eq!(listed[1]["RepoTags"], serde_json::json!(["other:1"]));
    assert!(listed[2]["RepoTags"].is_null());
    // The engine's own name for the image would be another job's way to it.
    for (path, content) in &archive {
        let secret = wharfd.prefix();
        assert!(!String::from_utf8_lossy(content).contains(&secret), "{path} has {secret}");
    }

    // Standard output has the same archive, and nothing else.
    let mut command = job.command(["save", "app:1", "other:1", "reg.example/team/app:2", &unnamed]);
    let out = fs::File::create(test.dir().join("stdout.tar")).unwrap();
    assert!(command.stdout(out).status().await.unwrap().success());
    assert!(fs::read(test.dir().join("stdout.tar")).unwrap() == fs::read(&file).unwrap());

    let (_, empty) = test.throw_away_engine().await;
    let loaded =
        empty.post("/images/load").body("application/x-tar", fs::read(&file).unwrap()).send().await.ok();
    let said = String::from_utf8_lossy(&loaded.body).into_owned();
    for (name, here) in [("app:1", "app:1"), ("reg.example/team/app:2", "app:1"), ("other:1", "other:1")] {
        assert_eq!(empty.text(name, "/made").await, format!("{mark}\n"), "{said}");
        let described = job.inspect(here).await;
        assert_eq!(empty.id(name).await, described["Id"].as_str().unwrap(), "{name}");
    }
    // Docker has loaded it without a name, too.
    empty.remove_image(&unnamed).await;
}

async fn only_a_namespaces_own_images_are_saved(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let [job, other] = ["job#1", "other#1"].map(|namespace| Wharf::new(&test, &wharfd, namespace));
    let base = test.base(&registry).await;
    let context =
        test.context("context", &[("Dockerfile", &format!("FROM {base}\nRUN echo secret > /made\n"))]);
    let id = job.build_id(&context, &["-t", "app:1"]).await;
    let private = test.engine.names_with_prefix(&wharfd.prefix()).await;
    let private = private.iter().find(|name| name.ends_with("/app:1")).unwrap();
    assert!(test.engine.inspect(private).await.is_some(), "the engine itself would save it");
    for image in ["app:1", &id, &id[7..19], private] {
        let refused = other.run(["save", "-o", "x.tar", image]).await.ended(6);
        assert!(refused.stderr.contains("no such image in the namespace other#1"), "{refused}");
        // One of the same kind that nobody has.
        let digits = "0123456789abcdef".repeat(4);
        let nothing = match image.strip_prefix("sha256:") {
            Some(_) => format!("sha256:{digits}"),
            None if image == &id[7..19] => digits[..12].to_owned(),
            None => "nothing:1".to_owned(),
        };
        let missing = other.run(["save", "-o", "x.tar", &nothing]).await.ended(6);
        assert_eq!(refused.stderr.replace(image, "IMAGE"), missing.stderr.replace(&nothing, "IMAGE"));
        assert!(!other.home().join("x.tar").exists());
    }
}

async fn nothing_is_half_saved(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = test.base(&registry).await;
    job.run(["pull", &base]).await.ok();
    let out = test.new_dir("out");
    let file = out.join("images.tar");
    // A file of an earlier run must not pass for this one's.
    fs::write(&file, "old").unwrap();
    job.run(["save", "-o", file.to_str().unwrap(), &base, "nothing:1"]).await.ended(6);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    job.run(["save", "-o", out.to_str().unwrap(), &base]).await.ended(2).says(&["is a directory"]);
    job.run(["save", "-o", "absent/x.tar", &base]).await.ended(2).says(&["absent"]);
    job.run(["save"]).await.ended(2);
    let mut full = job.command(["save", &base]);
    full.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let full = full.spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).contains("cannot write to standard output"));
}

async fn a_save_ends_with_its_client_and_its_namespace(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    Image::of(vec![large_layer()]).push(&registry, "large", "1").await;
    let image = format!("{}/large:1", registry.host());
    job.run(["pull", &image]).await.ok();

    // The client stops in the middle of a pipe that nobody reads on.
    let pipe = test.dir().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let save = job.start(["save", "-q", "-o", pipe.to_str().unwrap(), &image]);
    let mut reader = tokio::fs::File::open(&pipe).await.unwrap();
    let mut begun = vec![0; 1 << 20];
    reader.read_exact(&mut begun).await.unwrap();
    save.signal(Signal::TERM);
    assert_eq!(save.wait(crate::harness::PATIENCE).await.unwrap().code(), Some(143));
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < 16 << 20, "it was in the middle");
    wait_for("the end of the save in the log", async || {
        let log = wharfd.log();
        log.iter()
            .any(|line| line.contains("ImageService/SaveImages") && line.contains("the client is gone"))
            .then_some(())
    })
    .await;

    // The namespace ends: the client is told so, and what it has is no archive.
    let channel = rpc::connect(&wharfd.socket()).await;
    let request = SaveImagesRequest { namespace: Some(rpc::namespace("job#1")), images: vec![image] };
    let mut answers =
        ImageServiceClient::new(channel.clone()).save_images(request).await.unwrap().into_inner();
    loop {
        let message = answers.message().await.unwrap().unwrap();
        if matches!(message.response, Some(Response::Piece(_))) {
            break;
        }
    }
    let request = DeleteNamespaceRequest { namespace: Some(rpc::namespace("job#1")), job: false };
    NamespaceServiceClient::new(channel).delete_namespace(request).await.unwrap();
    let refused = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the archive has an end"),
            Err(status) => break status,
        }
    };
    assert!(refused.message().contains("namespace"), "{refused}");
    assert!(test.engine.names_with_prefix(&wharfd.prefix()).await.is_empty());
}
