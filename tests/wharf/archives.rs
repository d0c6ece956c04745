//! `wharf build --output type=oci` and `type=docker`: images for the client alone, also from the classic store, which
//! has no such exporters.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, sync::Arc};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use crate::harness::{PATIENCE, Test, Wharf, Wharfd, cases, image::digest, tree};

cases![
    archives_are_whole_and_docker_loads_them,
    archives_have_what_buildx_writes,
    an_archive_comes_beside_other_outputs,
    an_archive_that_nobody_takes_leaves_nothing,
];

/// The files of an archive.
type Files = BTreeMap<String, Vec<u8>>;

fn files(archive: &[u8]) -> Files {
    let entries = tree::tar(archive).into_iter();
    let entries = entries.map(|(path, entry)| (path.to_str().unwrap().to_owned(), entry.content));
    entries.filter(|(path, _)| !path.ends_with('/')).collect()
}

fn json(files: &Files, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn blob(files: &Files, digest: &Value) -> Value {
    json(files, &format!("blobs/{}", digest.as_str().unwrap().replace(':', "/")))
}

/// An archive's only image: its names, its config, and its layers' digests.
fn image(files: &Files) -> (Vec<String>, Value, Vec<String>) {
    for (path, content) in files {
        if let Some(name) = path.strip_prefix("blobs/sha256/").filter(|name| !name.is_empty()) {
            assert_eq!(format!("sha256:{name}"), digest(content));
        }
    }
    assert_eq!(json(files, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json(files, "index.json");
    let listed = index["manifests"].as_array().unwrap();
    let names = listed.iter().filter_map(|one| one["annotations"]["io.containerd.image.name"].as_str());
    let manifest = blob(files, &listed[0]["digest"]);
    let layers = manifest["layers"].as_array().unwrap();
    let layers: Vec<_> = layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect();
    assert!(layers.iter().all(|layer| files.contains_key(&format!("blobs/{}", layer.replace(':', "/")))));
    (names.map(str::to_owned).collect(), blob(files, &manifest["config"]["digest"]), layers)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Nothing of the job's is in the engine.
async fn nothing_is_left(test: &Test, wharfd: &Wharfd, job: &Wharf) {
    assert!(job.images().await.is_empty());
    job.run(["namespace", "rm"]).await.ok();
    let names = test.engine.names_with_prefix(&wharfd.prefix()).await;
    assert!(names.is_empty(), "{names:?}");
}

async fn archives_are_whole_and_docker_loads_them(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let base = test.base(&registry).await;
    let mark = test.unique("mark");
    let context =
        test.context("context", &[("Dockerfile", &format!("FROM {base}\nRUN echo {mark} > /made\n"))]);
    let out = test.new_dir("out");
    let (oci, docker) = (out.join("oci.tar"), out.join("docker.tar"));
    let output = format!("type=oci,\"name=app:1,reg.example/team/app:2\",dest={}", path(&oci));
    job.build(&context, &["-o", &output, "--iidfile", "id", "--metadata-file", "facts.json"]).await.ok();
    let all = files(&fs::read(&oci).unwrap());
    let (names, config, _) = image(&all);
    assert_eq!(names, ["docker.io/library/app:1", "reg.example/team/app:2"]);
    assert!(config["history"].to_string().contains(&mark), "{config}");
    assert!(!all.contains_key("manifest.json"), "that is Docker's");
    let id = fs::read_to_string(job.home().join("id")).unwrap();
    let facts = fs::read_to_string(job.home().join("facts.json")).unwrap();
    assert!(id.starts_with("sha256:") && facts.contains("containerimage.config.digest"), "{id} {facts}");
    // The tags name the image in the archive, and nothing in the namespace.
    let output = format!("type=docker,dest={}", path(&docker));
    job.build(&context, &["-o", &output, "-t", "loaded:1", "-t", "reg.example/loaded:2"]).await.ok();
    let all = files(&fs::read(&docker).unwrap());
    assert_eq!(
        json(&all, "manifest.json")[0]["RepoTags"],
        serde_json::json!(["loaded:1", "reg.example/loaded:2"])
    );
    for (path, content) in &all {
        assert!(!String::from_utf8_lossy(content).contains("wharf.invalid"), "{path} has a private name");
    }
    // Standard output has the same.
    let mut command =
        job.command(["build", "-q", "-o", "type=docker,dest=-", "-t", "loaded:1", path(&context)]);
    let sent = command.stdout(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
    assert!(sent.status.success());
    assert_eq!(image(&files(&sent.stdout)).1, image(&all).1);
    nothing_is_left(&test, &wharfd, &job).await;

    let (_, empty) = test.throw_away_engine().await;
    empty.post("/images/load").body("application/x-tar", fs::read(&docker).unwrap()).send().await.ok();
    for name in ["loaded:1", "reg.example/loaded:2"] {
        assert_eq!(empty.text(name, "/made").await, format!("{mark}\n"));
    }
}

/// The classic store's builder has no such exporters: there buildx says so, and Wharf's archive holds the same image.
async fn archives_have_what_buildx_writes(test: Arc<Test>) {
    let wharfd = test.wharfd_with(Some("layers = \"shared\"\n"), &[]).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context = test.context(
        "context",
        &[
            ("Dockerfile", "FROM scratch\nCOPY f /f\nCOPY f /g\nENV A=b\nLABEL c=d\n"),
            ("f", &test.unique("f")),
        ],
    );
    let home = test.dir().join("home");
    // A directory that a step makes has the time of the step; the files have their own.
    for kind in ["oci", "docker"] {
        let [bare, ours] = ["bare", "ours"].map(|name| test.dir().join(format!("{name}-{kind}.tar")));
        let output = |file: &Path| format!("type={kind},name=app:1,dest={}", path(file));
        let label = ["--label", "e=f"];
        job.build(&context, &[&["-o", &output(&ours)][..], &label].concat()).await.ok();
        let written = files(&fs::read(&ours).unwrap());
        let (names, config, layers) = image(&written);
        let flags = ["--provenance=false", "-o", &output(&bare), label[0], label[1]];
        let built = test.engine.buildx_build(&home, &context, &flags).await;
        if !test.engine.is_containerd() {
            assert!(built.stderr.contains("is not supported for the docker driver"), "{built}");
            assert_eq!((names, layers.len()), (vec!["docker.io/library/app:1".to_owned()], 2));
            continue;
        }
        built.ok();
        let expected = files(&fs::read(&bare).unwrap());
        let (bare_names, bare_config, bare_layers) = image(&expected);
        assert_eq!((names, &layers), (bare_names, &bare_layers));
        for field in ["rootfs", "architecture", "os"] {
            assert_eq!(config[field], bare_config[field], "{field}");
        }
        assert_eq!(config["config"]["Env"], bare_config["config"]["Env"]);
        let documents = |files: &Files| -> Vec<String> {
            files.keys().filter(|path| !path.starts_with("blobs/")).cloned().collect()
        };
        assert_eq!(documents(&written), documents(&expected));
    }
}

async fn an_archive_comes_beside_other_outputs(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "job#1");
    let context =
        test.context("context", &[("Dockerfile", "FROM scratch\nCOPY f /d/f\n"), ("f", &test.unique("f"))]);
    let out = test.new_dir("out");
    let name = registry.name("app:1");
    let outputs = [
        format!("type=oci,dest={}", path(&out.join("oci.tar"))),
        path(&out.join("tree")).to_owned(),
        format!("type=docker,dest={}", path(&out.join("docker.tar"))),
        format!("type=tar,dest={}", path(&out.join("files.tar"))),
        format!("type=registry,name={name}"),
    ];
    let mut flags: Vec<_> = outputs.iter().flat_map(|output| ["-o", output]).collect();
    flags.extend(["--iidfile", "id", "--metadata-file", "facts"]);
    job.build(&context, &flags).await.ok();
    let [oci, docker] =
        ["oci.tar", "docker.tar"].map(|file| image(&files(&fs::read(out.join(file)).unwrap())));
    assert_eq!(oci.1, docker.1);
    let content = fs::read(context.join("f")).unwrap();
    assert_eq!(fs::read(out.join("tree/d/f")).unwrap(), content);
    assert_eq!(tree::tar(&fs::read(out.join("files.tar")).unwrap())[Path::new("d/f")].content, content);
    assert_eq!(registry.stored_manifests("app").len(), 1);
    let images = job.images().await;
    assert_eq!(images.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [&name]);
    // Each exporter of an image states facts about its own.
    let id = |job: &Wharf| fs::read_to_string(job.home().join("id")).unwrap();
    assert_eq!(images[0].1, id(&job));
    let facts: Value = serde_json::from_slice(&fs::read(job.home().join("facts")).unwrap()).unwrap();
    let descriptor = facts.get("containerimage.descriptor").map(|descriptor| &descriptor["digest"]);
    assert!(descriptor.is_none_or(|digest| *digest == id(&job)), "{facts}");
    // Of archives alone the id is the config's digest, as with buildx.
    job.build(&context, &["-o", &outputs[0], "-o", &outputs[2], "--iidfile", "id"]).await.ok();
    let archived = files(&fs::read(out.join("docker.tar")).unwrap());
    assert_eq!(blob(&archived, &Value::from(id(&job))), docker.1);
}

async fn an_archive_that_nobody_takes_leaves_nothing(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let noise = test.unique("noise").repeat(1 << 20);
    let context = test.context("large", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &noise)]);
    let full = job.build(&context, &["-o", "type=oci,dest=/dev/full"]).await.ended(1);
    full.says(&["ERROR: cannot write /dev/full: No space left on device"]);
    let pipe = test.dir().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let output = format!("type=docker,dest={}", path(&pipe));
    let build = job.start(["build", "--progress=plain", "-o", &output, path(&context)]);
    let mut reader = tokio::fs::File::open(&pipe).await.unwrap();
    // The layer may be compressed.
    reader.read_exact(&mut vec![0; 512]).await.unwrap();
    build.signal(Signal::TERM);
    assert_eq!(build.wait(PATIENCE).await.unwrap().code(), Some(143));
    drop(reader);
    nothing_is_left(&test, &wharfd, &job).await;
}
