use super::*;
use crate::build::patience::tests::{SHORT, silent_after, soon};

#[tokio::test]
async fn a_client_that_does_not_attach_is_waited_for_so_long() {
    let sessions = Sessions::default();
    let (announcements, mut announced) = mpsc::channel(1);
    let caller = CallerId::Uid(1000);
    let session = ClientSession {
        id: "session".to_owned(),
        caller: caller.clone(),
        namespace: Namespace::new("job", "1").unwrap(),
        offer: Offer { directories: Vec::new(), secrets: true, credentials: false },
        announcements,
        attach_within: SHORT,
        sessions: sessions.clone(),
        tasks: Group::root(),
    };
    let secret = v1::stream_opened::Subject::Secret(v1::SecretQuery { id: "s".to_owned() });
    let late = soon(session.stream(secret)).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("did not attach"), "{late}");
    // Nobody waits for the stream any more.
    let id = announced.recv().await.unwrap().stream_id;
    let attached = Attached { incoming: silent_after(&[]), outgoing: outgoing().0 };
    let refused = sessions.attach(&caller, &id, attached).unwrap_err();
    assert_eq!(refused.reason(), Reason::SessionNotFound);
}
