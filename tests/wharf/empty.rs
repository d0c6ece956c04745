//! Images without layers, in each form in which tools write them.

use std::sync::Arc;

use crate::harness::{
    Registry, Test, Wharf, cases,
    image::{CONFIG, MANIFEST, push_texts},
};

cases![a_base_without_layers];

const OCI: (&str, &str) =
    ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json");
const DOCKER: (&str, &str) = (MANIFEST, CONFIG);

/// Whatever the engine itself pulls is a base: Go writes an empty list as `null`, others leave it out.
async fn a_base_without_layers(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let forms = [
        (r#""rootfs":{"type":"layers","diff_ids":[]},"history":[]"#, r#""layers":[],"#),
        (r#""rootfs":{"type":"layers","diff_ids":null},"history":null"#, r#""layers":null,"#),
        (r#""rootfs":{"type":"layers"}"#, ""),
    ];
    for (which, kinds) in [("docker", DOCKER), ("oci", OCI)] {
        for (at, (rootfs, layers)) in forms.iter().enumerate() {
            let form = format!("{which}-{at}");
            let mark = test.unique(&form);
            let config = format!(
                r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["FORM={form}"],"Labels":{{"mark":"{mark}"}}}},{rootfs}}}"#
            );
            push_texts(&registry, ("empty", &form), kinds, config, layers).await;
            is_pulled_and_a_base(&test, &registry, &wharfd, &form).await;
        }
    }

    // Without a file system at all: the classic store refuses it, and Docker's own inspection cannot be read.
    let config = format!(r#"{{"architecture":"{architecture}","os":"linux","rootfs":null}}"#);
    push_texts(&registry, ("empty", "none"), OCI, config, "").await;
    let job = Wharf::new(&test, &wharfd, "none#1");
    let dockerfile = format!("FROM {}\nLABEL a=1\n", registry.name("empty:none"));
    let context = test.context("none", &[("Dockerfile", &dockerfile)]);
    let (status, text) = match test.engine.is_containerd() {
        true => (3, "empty:none is refused: its config does not match its layers"),
        false => (1, "the engine failed on"),
    };
    job.build(&context, &[]).await.ended(status).says(&["empty:none", text]);

    // An image of this kind that Wharf itself has made, in another run.
    let job = Wharf::new(&test, &wharfd, "own#1");
    let dockerfile = format!("FROM scratch\nENV FORM=own\nLABEL mark={}\n", test.unique("own"));
    let context = test.context("own", &[("Dockerfile", &dockerfile)]);
    job.build(&context, &["-t", &registry.name("empty:own"), "--push"]).await.ok();
    is_pulled_and_a_base(&test, &registry, &wharfd, "own").await;
}

/// The engine itself pulls `empty:TAG`, and it is a base.
async fn is_pulled_and_a_base(
    test: &Arc<Test>,
    registry: &Registry,
    wharfd: &crate::harness::Wharfd,
    tag: &str,
) {
    let name = registry.name(&format!("empty:{tag}"));
    let pulled = test.engine.pull(&name, None).await;
    assert!(pulled.status.is_success() && !pulled.text().contains("\"error\""), "{tag}: {pulled:?}");
    test.engine.remove_image(&name).await;
    let job = Wharf::new(test, wharfd, &format!("job-{tag}#1"));
    let dockerfile = format!("FROM {name}\nCOPY mark /mark\n");
    let context = test.context(tag, &[("Dockerfile", &dockerfile), ("mark", tag)]);
    job.build(&context, &["-t", "app:1"]).await.ok();
    let shown = job.run(["inspect", "app:1"]).await.ok().stdout;
    assert!(shown.contains(&format!("FORM={tag}")), "{shown}");
    // On nothing but metadata, too.
    let context =
        test.context(&format!("{tag}-label"), &[("Dockerfile", &format!("FROM {name}\nLABEL more=1\n"))]);
    job.build(&context, &["-t", "label:1"]).await.ok();
}
