//! Images that make the engine's list of images large, and a caller who asks for the list without end.

use std::sync::Arc;

use tonic::{Status, transport::Channel};
use wharf::wire::v1::{ListImagesRequest, TagImageRequest, image_service_client::ImageServiceClient};

use crate::harness::{
    Image, Test, Wharf, cases,
    image::{File, Layer},
    relay::Relay,
    rpc, wait_for,
};

cases![a_config_that_is_too_large, a_caller_who_looks_at_images_delays_no_other];

/// More than a config may have, and harmless to the engine.
const LABEL: usize = 2 << 20;

/// An engine sends the labels of all images whenever anybody lists them, and one of the classic store keeps a config
/// of any size.
async fn a_config_that_is_too_large(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let image = Image::of(vec![Layer::of([("f", File::Content(b"f", 0o644))])]);
    let image = Image { label: "x".repeat(LABEL), ..image };
    image.push(&registry, "large", "1").await;
    let name = registry.name("large:1");
    test.engine.pull(&name, registry.login()).await.ok();
    let listed = test.engine.get("/images/json").send().await.ok().body;
    assert!(listed.len() > LABEL, "the bare engine lists {} bytes", listed.len());
    test.engine.remove_image(&name).await;

    let job = Wharf::new(&test, &wharfd, "job#1");
    job.run(["pull", &name]).await.ended(1).says(&["its config is larger than 1 MiB"]);
    let from = test.context("from", &[("Dockerfile", &format!("FROM {name}\n"))]);
    job.build(&from, &[]).await.ended(1).says(&["its config is larger than 1 MiB"]);
    let labels: String = (0..20).map(|number| format!("LABEL l{number}=$a\n")).collect();
    let labels = format!("FROM scratch\nCOPY Dockerfile /\nARG a={}\n{labels}", "x".repeat(60_000));
    let made = test.context("made", &[("Dockerfile", &labels)]);
    job.build(&made, &[]).await.ended(3).says(&["config would be larger than 1 MiB"]);
    assert_eq!(job.images().await, []);
}

async fn list(channel: Channel, job: &'static str) -> Result<(), Status> {
    let request = ListImagesRequest { namespace: Some(rpc::namespace(job)), ..ListImagesRequest::default() };
    ImageServiceClient::new(channel).list_images(request).await.map(drop)
}

async fn a_caller_who_looks_at_images_delays_no_other(test: Arc<Test>) {
    /// Fewer than a connection may have.
    const LOOKS: usize = 60;
    let relay = Relay::start(&test);
    let config = "[[serve]]\nuid = 1000\nnamespaces = \"greedy\"\n";
    let wharfd = test.wharfd_with(Some(config), &["--engine", &relay.address()]).await;
    let greedy = rpc::connect_as(&wharfd.socket(), 1000).await;
    let other = rpc::connect(&wharfd.socket()).await;
    list(greedy.clone(), "greedy#1").await.unwrap();
    relay.pause();
    let before = relay.connections();
    let mut looks: Vec<_> = (0..LOOKS).map(|_| tokio::spawn(list(greedy.clone(), "greedy#1"))).collect();
    wait_for("the first look", async || (relay.connections() > before).then_some(())).await;
    // The last call that the connection takes is answered without the engine, and after the others have begun.
    let denied = TagImageRequest { namespace: Some(rpc::namespace("other#1")), ..TagImageRequest::default() };
    ImageServiceClient::new(greedy).tag_image(denied).await.unwrap_err();
    // One listing goes on at a time. wharfd also asks now and then whether the engine is there.
    let asked = relay.connections() - before;
    assert!(asked < LOOKS / 10, "the engine is asked {asked} times at once");
    looks.push(tokio::spawn(list(other, "other#1")));
    relay.resume();
    for look in looks {
        look.await.unwrap().unwrap();
    }
}
