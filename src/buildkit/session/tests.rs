//! BuildKit's side of a session, frame by frame.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A client without files, secrets or credentials.
struct Nothing;

impl SessionClient for Nothing {
    fn sync(&self, _: DirectoryRequest, _: Messages) -> BoxFuture<'_, Result<Messages, Status>> {
        Box::pin(async { Err(Status::not_found("nothing")) })
    }

    fn credentials<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<filesync::CredentialsResponse, Status>> {
        Box::pin(async { Err(Status::not_found("nothing")) })
    }

    fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret<Vec<u8>>, Status>> {
        Box::pin(async { Err(Status::not_found("nothing")) })
    }

    fn upload(&self, _: &str) -> Result<Messages, Status> {
        Err(Status::not_found("nothing"))
    }
}

// RFC 9113, 6: types of frames.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// This happens when a step fails while others wait for their secrets and wharfd reads late.
#[tokio::test]
async fn calls_that_are_taken_back_unseen_end_nothing() {
    const CALLS: u32 = 100;
    let path = b"/moby.buildkit.secrets.v1.Secrets/GetSecret";
    // RFC 7541: POST and http of the static table, then a literal path.
    let mut headers = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    headers.extend(path);
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(SETTINGS, 0, 0, &[]));
    let streams = || (0..CALLS).map(|call| 2 * call + 1);
    said.extend(streams().flat_map(|stream| frame(HEADERS, 0x4, stream, &headers)));
    said.extend(streams().flat_map(|stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())));
    said.extend(frame(PING, 0, 0, b"all read"));

    let (mut buildkit, io) = tokio::io::duplex(64 << 10);
    buildkit.write_all(&said).await.unwrap();
    let tasks = Group::root();
    let answering = tasks.clone();
    let served = tasks.spawn("answer", async move { answer(io, Arc::new(Nothing), &answering).await });
    loop {
        let mut head = [0; 9];
        buildkit.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        buildkit.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], GOAWAY, "{}", String::from_utf8_lossy(&payload));
        if (head[3], &*payload) == (PING, b"all read") {
            break;
        }
    }
    drop(buildkit);
    let _ = served.await;
    tasks.close_and_wait().await;
}
