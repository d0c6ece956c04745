use futures_util::{StreamExt as _, stream};

use super::*;
use crate::{
    build::patience::tests::{SHORT, soon},
    names::Pattern,
    policy::Rules,
};

#[tokio::test]
async fn a_client_that_does_not_attach_is_waited_for_so_long() {
    let sessions = Sessions::default();
    let (announcements, mut announced) = mpsc::channel(1);
    let caller = CallerId::Uid(1000);
    let rules = Arc::new(Rules::built_in("test", Pattern::any()));
    let session = ClientSession {
        id: "session".to_owned(),
        namespace: rules.namespace(&caller, Namespace::new("job", "1").unwrap()).unwrap(),
        offer: Offer { directories: Vec::new(), secrets: true, credentials: false },
        announcements,
        attach_within: SHORT,
        sessions: sessions.clone(),
        tasks: Group::root(),
    };
    let late = soon(session.stream(Subject::Secret("s".to_owned()))).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("did not attach"), "{late}");
    // Nobody waits for the stream any more.
    let id = announced.recv().await.unwrap().id;
    let attached = Attached { incoming: stream::pending().boxed(), outgoing: outgoing().0 };
    let refused = sessions.attach(&caller, &id, attached).unwrap_err();
    assert_eq!(refused.reason(), Reason::SessionNotFound);
}
