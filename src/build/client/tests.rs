use super::*;
use crate::build::patience::tests::{LONG, SHORT, soon};

/// A client that sends these messages, and then nothing more.
fn silent_after(messages: Vec<Vec<u8>>) -> BoxStream<'static, Result<FromClient, Status>> {
    let messages = messages.into_iter().map(|message| Ok(FromClient::Message(message.into())));
    stream::iter(messages).chain(stream::pending()).boxed()
}

/// Otherwise BuildKit, a connection and the session would wait for as long as the client stays.
#[tokio::test]
async fn a_client_that_is_silent_in_a_sync_ends_it() {
    let request = DirectoryRequest {
        name: "context".to_owned(),
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        follow_paths: Vec::new(),
    };
    let side = ClientSide {
        // An empty packet announces nothing, and is complete.
        incoming: silent_after(vec![Vec::new()]),
        judge: Arc::new(Mutex::new(Judge::of(&request, &Arc::default()))),
        ignored: IgnoreFiles::of(&request),
        hear: Arc::new(|| Box::pin(std::future::ready(Ok(())))),
        patience: Patience::with(SHORT, LONG),
        refused: Arc::default(),
    };
    let messages: Vec<_> = soon(side.messages().collect()).await;
    let [Ok(_), Err(silent)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
    assert!(silent.message().contains("said nothing"), "{silent}");
}

#[tokio::test]
async fn a_client_that_is_asked_and_silent_is_waited_for_so_long() {
    let silent = soon(answer::<GetSecretResponse>(silent_after(Vec::new()), SHORT)).await.unwrap_err();
    assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
    let secret = GetSecretResponse { data: b"secret".to_vec() };
    let answered = silent_after(vec![secret.encode_to_vec()]);
    assert_eq!(answer::<GetSecretResponse>(answered, LONG).await.unwrap(), secret);
}
