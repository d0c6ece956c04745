//! The main job: a base image is admitted, the graph is judged, the image is built, and rebuilt without the
//! registry.

use std::sync::Arc;

use wharf::wire::v1::BuildSpec;

use crate::{
    harness::{
        Image, Test, Wharf, cases,
        files::{Answer, FileServer},
        image::{context_tar, digest},
        rpc,
    },
    urls::may_add,
};

cases![sync, tar, steps_on_fetched_sources];

fn dockerfile(base: &str) -> String {
    format!("FROM {base}\nCOPY file /file\nRUN cat /mark /file > /both\n")
}

async fn sync(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let mark = test.unique("base");
    Image::base(&mark).push(&registry, "base", "1").await;
    let base = registry.name("base:1");
    let context = test.context("context", &[("Dockerfile", &dockerfile(&base)), ("file", "+content")]);
    let job = Wharf::new(&test, &wharfd, "acme/app#1");

    let first = job.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(test.engine.text(&first, "/both").await, format!("{mark}+content"));

    let before = registry.mark().await;
    let again = job.build(&context, &["-t", "app:1", "--iidfile", "id"]).await.ok().says(&["CACHED"]);
    assert_eq!(std::fs::read_to_string(job.home().join("id")).unwrap(), first, "{again}");
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
}

async fn tar(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let mark = test.unique("base");
    Image::base(&mark).push(&registry, "base", "1").await;
    let base = registry.name("base:1");
    let context = context_tar(&[("Dockerfile", &dockerfile(&base)), ("file", "+content")]);
    let channel = rpc::connect(&wharfd.socket()).await;
    let start =
        rpc::start("acme/app#1", BuildSpec { tags: vec!["app:1".to_owned()], ..BuildSpec::default() });

    let first = rpc::build_tar(&channel, start.clone(), context.clone()).await;
    assert_eq!(test.engine.text(&first.ok().image_id, "/both").await, format!("{mark}+content"));

    let before = registry.mark().await;
    let again = rpc::build_tar(&channel, start, context).await;
    assert_eq!(again.ok().image_id, first.ok().image_id);
    let cached = again.cached();
    assert!(cached.contains(&"[2/3] COPY file /file"), "{cached:?}");
    assert!(cached.contains(&"[3/3] RUN cat /mark /file > /both"), "{cached:?}");
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
}

/// Steps on sources that BuildKit fetches by URL, including an uploaded tar: their names, their cache, and
/// the Dockerfile's lines of a failed step.
async fn steps_on_fetched_sources(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let channel = rpc::connect(&wharfd.socket()).await;
    let mark = test.unique("mark");
    let dockerfile = format!("FROM {base}\nCOPY file /file\nRUN cat /file; exit 3\n");
    let context = context_tar(&[("Dockerfile", &dockerfile), ("file", &mark)]);
    let start = |spec: BuildSpec| rpc::start("acme/app#1", spec);
    let failed = rpc::build_tar(&channel, start(BuildSpec::default()), context.clone()).await;
    let failure = failed.failure.as_ref().unwrap();
    let step = failed.vertex("[3/3] RUN cat /file; exit 3");
    assert_eq!((failure.exit_code, &failure.vertex), (3, &step.digest));
    assert!(failed.progress.iter().any(|facts| facts.logs.iter().any(|log| log.vertex == step.digest)));
    let lines = failure.source.as_ref().unwrap();
    assert_eq!((lines.filename.as_str(), lines.start, lines.end), ("Dockerfile", 3, 3));
    assert!(lines.text.contains(&"RUN cat /file; exit 3".to_owned()), "{lines:?}");

    let dockerfile =
        format!("FROM {base}\nCOPY file /file\nRUN cat /proc/sys/kernel/random/uuid > /random\n");
    let context = context_tar(&[("Dockerfile", &dockerfile), ("file", &mark)]);
    let random = async |no_cache: bool| {
        let spec = BuildSpec { no_cache, ..BuildSpec::default() };
        let built = rpc::build_tar(&channel, start(spec), context.clone()).await;
        test.engine.text(&built.ok().image_id, "/random").await
    };
    let first = random(false).await;
    assert_eq!(random(false).await, first);
    assert_ne!(random(true).await, first);

    let content = mark.clone();
    let server = FileServer::start(move |_, _| Answer::file("", content.clone())).await;
    let url = format!("--checksum={} {} /t", digest(mark.as_bytes()), server.url("/t"));
    let dockerfile = format!("FROM {base}\nADD {url}\nRUN grep -q {mark} /t && exit 4\n");
    let context = test.context("add", &[("Dockerfile", &dockerfile)]);
    let may_add = test.wharfd_with(Some(&may_add(&[server.host()])), &[]).await;
    let job = Wharf::new(&test, &may_add, "acme/app#1");
    let add = format!("[2/3] ADD {url}");
    let run = format!("[3/3] RUN grep -q {mark} /t && exit 4");
    job.build(&context, &[]).await.ended(1).says(&[&add, &run, "Dockerfile:3", ">>> RUN grep"]);
}
