//! A base image whose config claims another image's layers in place of its own.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{
    Image, Test, Wharf, cases,
    image::{File, Layer, push_index},
};

cases![
    a_forged_image_poisons_a_bare_engine,
    a_forged_image_is_refused,
    a_config_of_another_image_gives_that_image,
    a_forged_image_in_disguise_is_refused,
    a_copy_in_another_compression_does_no_harm,
];

/// A good image, and one that claims to be it.
struct Images {
    good: Image,
    forged: Image,
    content: String,
}

impl Images {
    fn new(test: &Test) -> Self {
        let content = test.unique("good");
        let layer = |content: &str| Layer::of([("data", File::Content(content.as_bytes(), 0o644))]);
        let good = Image::of(vec![Layer::busybox(), layer(&content)]);
        let evil = Image::of(vec![Layer::busybox(), layer("evil")]);
        let forged = Image { diff_ids: good.diff_ids.clone(), label: "forged".to_owned(), ..evil };
        Self { good, forged, content }
    }

    /// The diff ids in the forger's config if it were honest.
    fn evil_diff_ids(&self) -> Vec<String> {
        self.forged.layers.iter().map(|layer| layer.diff_id.clone()).collect()
    }
}

/// On an engine of its own, which stays poisoned.
async fn a_forged_image_poisons_a_bare_engine(test: Arc<Test>) {
    let images = Images::new(&test);
    // The images are pushed here and served there: the other engine has its own loopback.
    let (registry, (name, engine)) = tokio::join!(test.registry(), test.throw_away_engine());
    images.good.push(&registry, "good", "1").await;
    images.forged.push(&registry, "forged", "1").await;
    let there = test.registry_beside(&registry, &name).await;

    let home = test.new_dir("bare");
    let build = async |base: &str| {
        let dockerfile = format!("FROM {}\nRUN cp /data /seen && echo {base}\n", there.name(base));
        let context =
            test.context(&format!("bare-{}", base.replace(':', "-")), &[("Dockerfile", &dockerfile)]);
        let id = home.join("iid");
        engine.buildx_build(&home, &context, &["--load", "--iidfile", id.to_str().unwrap()]).await.ok();
        engine.text(&std::fs::read_to_string(id).unwrap(), "/seen").await
    };
    assert_eq!(build("forged:1").await, "evil");
    assert_eq!(build("good:1").await, "evil", "the good image is poisoned on a bare engine");
}

async fn a_forged_image_is_refused(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let (victim, thief) = (Wharf::new(&test, &wharfd, "victim#1"), Wharf::new(&test, &wharfd, "thief#1"));
    // First before the good image was ever here, then after it.
    for good_first in [false, true] {
        let images = Images::new(&test);
        let name = if good_first { "first" } else { "later" };
        images.good.push(&registry, &format!("good-{name}"), "1").await;
        images.forged.push(&registry, &format!("forged-{name}"), "1").await;
        let (good, forged) =
            (registry.name(&format!("good-{name}:1")), registry.name(&format!("forged-{name}:1")));
        let build = async |job: &Wharf, base: &str, flags: &[&str]| {
            let dockerfile = format!("FROM {base}\nRUN cp /data /seen\n");
            let context = test.context(&base.replace(['/', ':'], "-"), &[("Dockerfile", &dockerfile)]);
            job.build(&context, &[flags, &["--iidfile", "id"]].concat()).await
        };
        let good_is_good = async |flags: &[&str]| {
            build(&victim, &good, flags).await.ok();
            let id = std::fs::read_to_string(victim.home().join("id")).unwrap();
            assert_eq!(test.engine.text(&id, "/seen").await, images.content);
        };
        if good_first {
            good_is_good(&[]).await;
        }
        build(&thief, &forged, &[]).await.ended(3).says(&[&forged]);
        build(&thief, &forged, &["--pull", "--no-cache"]).await.ended(3);
        thief.run(["pull", &forged]).await.ended(3);
        assert_eq!(thief.images().await, []);

        good_is_good(&["--no-cache"]).await;
        let pushed = registry.name(&format!("pushed-{name}:1"));
        let context = test.context(&format!("push-{name}"), &[("Dockerfile", &format!("FROM {good}\n"))]);
        victim.build(&context, &["-t", &pushed, "--push"]).await.ok();
        let manifest = registry.manifest(&format!("pushed-{name}"), "1").await;
        let layers = manifest["layers"].to_string();
        assert!(!layers.contains(&images.forged.layers[1].digest), "the victim pushes the thief's layer");
    }
}

/// With the good image's own config, an engine that has the good image may not even look at the layers. In
/// any case nobody may get the forger's files.
async fn a_config_of_another_image_gives_that_image(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let images = Images::new(&test);
    let forged = Image { label: images.good.label.clone(), ..images.forged };
    images.good.push(&registry, "good", "1").await;
    forged.push(&registry, "forged", "1").await;
    let build = async |job: &str, base: &str| {
        let dockerfile = format!("FROM {}\nRUN cp /data /seen\n", registry.name(base));
        let context = test.context(&base.replace(':', "-"), &[("Dockerfile", &dockerfile)]);
        let job = Wharf::new(&test, &wharfd, job);
        let shown = job.build(&context, &["--no-cache", "--iidfile", "id"]).await;
        if shown.status != 0 {
            return Err(shown.status);
        }
        let id = std::fs::read_to_string(job.home().join("id")).unwrap();
        Ok(test.engine.text(&id, "/seen").await)
    };
    let good = Ok(images.content.clone());
    assert_eq!(build("victim#1", "good:1").await, good);
    let thief = build("thief#1", "forged:1").await;
    assert!(thief == Err(3) || thief == good, "{thief:?}");
    assert_eq!(build("victim#2", "good:1").await, good);
}

/// If the layers of an honest image came to the node in another compression first, the engine does not fetch
/// the honest ones, so nobody has checked those.
async fn a_copy_in_another_compression_does_no_harm(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let content = test.unique("honest");
    let honest = Image::of(vec![
        Layer::of([("bin", File::Link("x")), ("mark", File::Content(content.as_bytes(), 0o644))]),
        Layer::of([("data", File::Content(content.as_bytes(), 0o644))]),
    ]);
    let copy = Image::of(honest.layers.iter().map(Layer::repacked).collect());
    assert_ne!(copy.layers[0].digest, honest.layers[0].digest);
    for (image, name) in [(&honest, "honest"), (&copy, "copy")] {
        image.push(&registry, name, "1").await;
    }
    for (job, name) in [("thief#1", "copy"), ("victim#1", "honest"), ("thief#2", "copy")] {
        let context = test.context(
            &job.replace('#', "-"),
            &[(
                "Dockerfile",
                &format!("FROM {}\nCOPY Dockerfile /own\n", registry.name(&format!("{name}:1"))),
            )],
        );
        let job = Wharf::new(&test, &wharfd, job);
        job.build(&context, &["--iidfile", "id"]).await.ok();
        let id = std::fs::read_to_string(job.home().join("id")).unwrap();
        assert_eq!(test.engine.text(&id, "/data").await, content);
    }
    // A lie about such a layer is still a lie, although the engine fetches nothing.
    let evil = Layer::of([("data", File::Content(b"evil", 0o644))]);
    let layers = vec![honest.layers[0].repacked(), evil];
    let liar = Image { diff_ids: honest.diff_ids.clone(), label: "liar".to_owned(), ..Image::of(layers) };
    liar.push(&registry, "liar", "1").await;
    Wharf::new(&test, &wharfd, "thief#3").run(["pull", &registry.name("liar:1")]).await.ended(3);
}

/// Differences between the engine's reading of a document and the check's. The forger's layer is already on
/// the node under an honest name, so nothing is missing.
async fn a_forged_image_in_disguise_is_refused(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let (victim, thief) = (Wharf::new(&test, &wharfd, "victim#1"), Wharf::new(&test, &wharfd, "thief#1"));
    let images = Images::new(&test);
    let honest =
        Image { diff_ids: images.evil_diff_ids(), label: "honest".to_owned(), ..images.forged.clone() };
    images.good.push(&registry, "good", "1").await;
    images.good.push(&registry, "disguised", "good").await;
    images.forged.push(&registry, "disguised", "forged").await;
    honest.push(&registry, "disguised", "honest").await;
    let name = |tag: &str| registry.name(&format!("disguised:{tag}"));
    // Pulled but not built from yet, so BuildKit may still take either image's layers for the good image's.
    victim.run(["pull", &registry.name("good:1")]).await.ok();
    for tag in ["honest", "good"] {
        thief.run(["pull", &name(tag)]).await.ok();
    }

    // Go matches a name in any case, and takes the last of two.
    let config = honest.config().to_string();
    let rootfs = json!({"type": "layers", "diff_ids": images.good.diff_ids});
    let config = format!("{},\"RootFS\":{rootfs}}}", config.strip_suffix('}').unwrap());
    honest.push_with_config(&registry, "disguised", "case", config).await;
    let platform = |os: &str, architecture: &str| json!({"os": os, "architecture": architecture});
    let own = images.good.config();
    let (os, architecture) = (own["os"].as_str().unwrap(), own["architecture"].as_str().unwrap());
    let other = if architecture == "amd64" { "x86_64" } else { "aarch64" };
    let disguises: [(&str, Value); 3] = [
        ("alias", platform(os, other)),
        ("upper", platform("Linux", architecture)),
        ("empty", platform("", architecture)),
    ];
    for (tag, forged) in &disguises {
        let of = [("forged", forged.clone()), ("good", platform(os, architecture))];
        push_index(&registry, "disguised", tag, &of).await;
    }
    for tag in ["case", "alias", "upper", "empty"] {
        let context = test.context(tag, &[("Dockerfile", &format!("FROM {}\nRUN cat /data\n", name(tag)))]);
        thief.build(&context, &[]).await.ended(3).says(&[&name(tag)]);
        thief.run(["pull", &name(tag)]).await.ended(3);
    }

    let dockerfile = format!("FROM {}\nRUN cp /data /seen\n", registry.name("good:1"));
    let context = test.context("victim", &[("Dockerfile", &dockerfile)]);
    let pushed = registry.name("pushed:1");
    victim.build(&context, &["-t", &pushed, "--push"]).await.ok();
    let manifest = registry.manifest("pushed", "1").await["layers"].to_string();
    assert!(!manifest.contains(&images.forged.layers[1].digest), "the victim pushes the thief's layer");
}
