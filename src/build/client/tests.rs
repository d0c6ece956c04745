use super::*;
use crate::{
    build::patience::tests::{LONG, SHORT, soon},
    names::{CallerId, Namespace, Pattern},
    policy::Rules,
};

/// A client that sends these messages, and then nothing more.
fn silent_after(messages: Vec<Vec<u8>>) -> BoxStream<'static, Result<FromClient, Status>> {
    let messages = messages.into_iter().map(|message| Ok(FromClient::Message(message.into())));
    stream::iter(messages).chain(stream::pending()).boxed()
}

fn side(path: &str, incoming: BoxStream<'static, Result<FromClient, Status>>) -> ClientSide {
    let request = DirectoryRequest {
        name: "context".to_owned(),
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        follow_paths: [path.to_owned()].into(),
    };
    let rules = Arc::new(Rules::built_in("test", Pattern::any()));
    let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("job", "1").unwrap()).unwrap();
    ClientSide {
        incoming,
        judge: Arc::new(Mutex::new(Judge::of(&request, &Arc::default()))),
        ignored: IgnoreFiles::of(&request),
        dockerfile: Arc::new(Judging::alone()),
        hear: None,
        patience: Patience::with(SHORT, LONG),
        used: Arc::new(Used::nothing(&namespace)),
        refused: Arc::default(),
        archives: None,
    }
}

/// Otherwise BuildKit, a connection and the session would wait for as long as the client stays.
#[tokio::test]
async fn a_client_that_is_silent_in_a_sync_ends_it() {
    // An empty packet announces nothing, and is complete.
    let side = side("key", silent_after(vec![Vec::new()]));
    let messages: Vec<_> = soon(side.messages().collect()).await;
    let [Ok(_), Err(silent)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
    assert!(silent.message().contains("sent nothing"), "{silent}");
}

/// BuildKit ends a build whose context does not come, but goes on without an ignore file.
#[tokio::test]
async fn a_sync_of_an_ignore_file_that_fails_ends_the_build() {
    let gone = || Ok(FromClient::Error(Code::PermissionDenied, "permission denied".to_owned()));
    let broken = || Err(Status::cancelled("gone"));
    let of = |said: Option<Result<FromClient, Status>>| stream::iter(said).boxed();
    let ends = [of(None), of(Some(gone())), of(Some(broken())), silent_after(Vec::new())];
    for (end, incoming) in ends.into_iter().enumerate() {
        let side = side(".dockerignore", incoming);
        let refused = Arc::clone(&side.refused);
        let messages: Vec<_> = soon(side.messages().collect()).await;
        assert!(matches!(messages.as_slice(), [Err(_)]), "{end}: {messages:?}");
        assert!(refused.get().is_some(), "{end}");
    }
    for incoming in [of(None), of(Some(gone())), silent_after(Vec::new())] {
        let side = side("key", incoming);
        let refused = Arc::clone(&side.refused);
        let _: Vec<_> = soon(side.messages().collect()).await;
        assert!(refused.get().is_none());
    }
}

#[tokio::test]
async fn a_client_that_is_asked_and_silent_is_waited_for_so_long() {
    let silent = soon(answer::<GetSecretResponse>(silent_after(Vec::new()), SHORT)).await.unwrap_err();
    assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
    let secret = GetSecretResponse { data: b"secret".to_vec() };
    let answered = silent_after(vec![secret.encode_to_vec()]);
    assert_eq!(answer::<GetSecretResponse>(answered, LONG).await.unwrap(), secret);
}

#[test]
fn a_login_is_small() {
    let login = |bytes: usize| CredentialsResponse { username: "u".to_owned(), secret: "x".repeat(bytes) };
    assert!(small(login(LOGIN_BYTES_MAX)).is_ok());
    assert!(small(login(LOGIN_BYTES_MAX + 1)).is_err());
    let login = CredentialsResponse { username: "x".repeat(LOGIN_BYTES_MAX + 1), secret: "x".to_owned() };
    assert!(small(login).is_err());
}
