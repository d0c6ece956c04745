//! Configs of base images, as tools other than docker write them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Image, Test, Wharf, cases};

cases![configs_that_the_engine_takes, configs_that_the_engine_cannot_read];

/// The names that people have for the engine's processor, the first one as Go has it, and its oldest variant.
const PROCESSOR: ([&str; 2], &str) = match cfg!(target_arch = "aarch64") {
    true => (["arm64", "aarch64"], "v8"),
    false => (["amd64", "x86_64"], "v1"),
};

/// The config of `image` with other fields; `null` removes one.
fn with(image: &Image, changes: &Value) -> String {
    let mut config = image.config();
    let fields = config.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    config.to_string()
}

async fn configs_that_the_engine_takes(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("base"));
    let job = Wharf::new(&test, &wharfd, "job#1");
    let (names, variant) = PROCESSOR;
    let empty = json!({
        "Env": null, "Cmd": null, "Entrypoint": null, "Labels": null, "Volumes": null, "ExposedPorts": null,
        "OnBuild": null, "Shell": null, "Healthcheck": null,
    });
    for (at, changes) in [
        json!({"os": null}),
        json!({"os": "Linux"}),
        json!({"architecture": names[1]}),
        json!({"architecture": names[0].to_uppercase()}),
        json!({"variant": variant}),
        json!({"config": null}),
        json!({"config": empty}),
        json!({"config": {"Env": ["NAMED", "", "PATH=/bin"], "WorkingDir": "relative"}}),
        json!({"created": null, "history": null}),
        json!({"created": "2020-04-21T13:22:10.836777828-07:00", "history": []}),
        json!({"container_config": {"Cmd": null}, "docker_version": "1.12", "x-other": [[{"a": null}]]}),
    ]
    .into_iter()
    .enumerate()
    {
        image.push_with_config(&registry, &format!("taken-{at}"), "1", with(&image, &changes)).await;
        let dockerfile = format!(
            "FROM {}\nCOPY Dockerfile sub/\nLABEL at={at}\n",
            registry.name(&format!("taken-{at}:1"))
        );
        let context = test.context("taken", &[("Dockerfile", &dockerfile)]);
        job.build(&context, &["-t", "app:1"]).await.ok();
        let shown = job.run(["inspect", "app:1"]).await.ok().stdout;
        assert!(shown.contains(&format!("\"at\": \"{at}\"")), "{changes}: {shown}");
    }

    // The classic store does not pull an image of no processor, and BuildKit does not export one to the other store.
    let unknown = with(&image, &json!({"architecture": null}));
    image.push_with_config(&registry, "unknown", "1", unknown).await;
    let dockerfile = format!("FROM {}\nCOPY Dockerfile /\n", registry.name("unknown:1"));
    let built = job.build(test.context("unknown", &[("Dockerfile", &dockerfile)]), &[]).await;
    match test.engine.is_containerd() {
        true => built.ended(1).says(&["missing architecture"]),
        false => built.ended(6).says(&["has no image for"]),
    };
}

/// The engine's own words for these are for the log; the job sees that it is the image.
async fn configs_that_the_engine_cannot_read(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::base(&test.unique("base"));
    let job = Wharf::new(&test, &wharfd, "job#1");
    // Docker itself takes a text for a command, and the containerd store any history.
    let other = match test.engine.is_containerd() {
        true => json!({"config": {"Cmd": "sh"}}),
        false => json!({"history": [{}, {}, {}, {}]}),
    };
    let unreadable = [json!({"config": {"Labels": {"a": 1}}}), json!({"created": ""}), other];
    for (at, changes) in unreadable.into_iter().enumerate() {
        image.push_with_config(&registry, &format!("unreadable-{at}"), "1", with(&image, &changes)).await;
        let name = registry.name(&format!("unreadable-{at}:1"));
        let context =
            test.context("unreadable", &[("Dockerfile", &format!("FROM {name}\nCOPY Dockerfile /\n"))]);
        let shown = job.build(&context, &[]).await.ended(1);
        shown.says(&["the engine cannot use", &name, "the image's config", "hint: "]);
        job.run(["pull", &name]).await.ended(1).says(&["the engine cannot use", &name]);
    }
}
