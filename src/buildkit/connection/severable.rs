//! A socket that can be cut from outside.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{io::BufWriter, net::UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A socket that can be cut from outside. Dropping or aborting hyper's task does not close the socket: HTTP/2
/// runs in a task of its own, which would continue, and the build's steps with it.
///
/// Written bytes are sent only when flushed. h2 writes the client's preface and the settings that must
/// follow it in two tasks, and Go's server ends a connection if the settings come more than two seconds
/// after the preface, which easily happens when many builds start at once.
pub(super) struct Severable {
    io: TokioIo<BufWriter<UnixStream>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Severable {
    /// The socket, and a token that cuts it.
    pub(super) fn new(stream: UnixStream) -> (Self, CancellationToken) {
        let token = CancellationToken::new();
        let cut = Box::pin(token.clone().cancelled_owned());
        (Self { io: TokioIo::new(BufWriter::new(stream)), cut }, token)
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Read for Severable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Severable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }
}
