//! The main job: a base image admitted, its graph gated, built, and rebuilt without the registry.

use std::sync::Arc;

use wharf::wire::v1::BuildSpec;

use crate::harness::{Image, Test, Wharf, cases, image::context_tar, rpc};

cases![sync, tar];

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
    assert!(again.cached().iter().any(|name| name.contains("cat /mark")), "{:?}", again.cached());
    assert_eq!(registry.requests_since(&before).await, Vec::<String>::new());
}
