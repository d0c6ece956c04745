use tokio::sync::mpsc;

use super::{
    queued::{Sent, feed},
    *,
};
use crate::{
    build::{
        dockerfile::judging::Judging,
        input::Hear,
        limits::Used,
        patience::{
            Patience,
            tests::{LONG, SHORT, silent_after, soon},
        },
        tar::{Findings, Passage},
    },
    names::{CallerId, Namespace, Pattern},
    policy,
};

#[tokio::test]
async fn a_client_that_opens_a_call_and_is_silent_is_refused() {
    let silent = soon(first::<v1::BuildRequest>(&mut silent_after(&[]), SHORT)).await.unwrap_err();
    assert_eq!(silent.reason(), Reason::StreamBroken);
    assert!(silent.text().contains("sent no message"), "{silent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_in_a_tar_ends_it() {
    let (pieces, mut passed) = mpsc::channel(1);
    let passage = Passage::new("Dockerfile", Arc::default(), Arc::new(Findings::new(true)));
    let piece = v1::BuildRequest { request: Some(build_request::Request::Tar(vec![0; 100].into())) };
    let patience = Patience::with(SHORT, LONG);
    let hear: Hear = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
    let rules = Arc::new(policy::Rules::built_in("test", Pattern::any()));
    let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("job", "1").unwrap()).unwrap();
    let sent = Sent { requests: silent_after(&[piece]), patience, used: Arc::new(Used::nothing(&namespace)) };
    soon(feed(sent, passage, Arc::new(Judging::alone()), hear, pieces, Group::root())).await;
    let silent = passed.recv().await.unwrap().unwrap_err();
    assert_eq!(silent.code(), tonic::Code::DeadlineExceeded, "{silent}");
    assert!(silent.message().contains("sent nothing"), "{silent}");
    assert!(passed.recv().await.is_none());
}
