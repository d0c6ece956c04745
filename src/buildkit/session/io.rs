//! The byte stream on which a session's HTTP/2 runs: the messages of `Control.Session`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::Stream as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;
use tonic::{Status, Streaming};

/// Bytes gathered into one message to BuildKit; larger messages are no faster (measured).
const MESSAGE_BYTES: usize = 64 << 10;

/// The session's byte stream over the messages of `Control.Session`.
pub(super) struct SessionIo {
    incoming: Incoming,
    read: Bytes,
    outgoing: PollSender<BytesMessage>,
    write: BytesMut,
}

/// BuildKit's side of the call. Its response arrives only after we have begun to serve.
enum Incoming {
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<BytesMessage>, Status>> + Send>>),
    Open(Box<Streaming<BytesMessage>>),
}

impl Incoming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BytesMessage, Status>>> {
        loop {
            match self {
                Self::Opening(call) => match ready!(call.as_mut().poll(cx)) {
                    Ok(stream) => *self = Self::Open(Box::new(stream)),
                    Err(status) => return Poll::Ready(Some(Err(status))),
                },
                Self::Open(stream) => return Pin::new(stream.as_mut()).poll_next(cx),
            }
        }
    }
}

impl AsyncRead for SessionIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.incoming.poll_next(cx)) {
                Some(Ok(message)) => self.read = message.data.into(),
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl SessionIo {
    /// The stream over the messages of `call`, which sends the bytes that leave the other end of `sender`.
    pub(super) fn new(
        call: impl Future<Output = Result<Streaming<BytesMessage>, Status>> + Send + 'static,
        sender: mpsc::Sender<BytesMessage>,
    ) -> Self {
        Self {
            incoming: Incoming::Opening(Box::pin(call)),
            read: Bytes::new(),
            outgoing: PollSender::new(sender),
            write: BytesMut::new(),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(gone)?;
        let data = self.write.chunk().to_vec();
        self.write.clear();
        Poll::Ready(self.outgoing.send_item(BytesMessage { data }).map_err(gone))
    }
}

impl AsyncWrite for SessionIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.write.len() >= MESSAGE_BYTES {
            ready!(self.poll_send(cx))?;
        }
        self.write.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}
