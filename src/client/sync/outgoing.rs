//! A queue of outgoing packets, bounded in bytes, so that it holds many small packets or a few large ones.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// How many bytes may be queued: a few pieces of files, or some thousand announcements.
const BYTES_MAX: u32 = 512 * 1024;

/// How many packets may be queued.
const PACKETS_MAX: usize = 1024;

/// The sending side of the queue.
#[derive(Clone, Debug)]
pub struct Outgoing {
    packets: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// The encoded packets to send, in order. The stream ends with the sync.
#[derive(Debug)]
pub struct Packets(mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>);

/// The other end is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// Makes a queue. A reader that stops reading blocks the senders.
pub fn channel() -> (Outgoing, Packets) {
    let (sender, receiver) = mpsc::channel(PACKETS_MAX);
    let room = Arc::new(Semaphore::new(usize::try_from(BYTES_MAX).unwrap_or(usize::MAX)));
    (Outgoing { packets: sender, room }, Packets(receiver))
}

impl Outgoing {
    pub(crate) async fn send(&self, packet: Bytes) -> Result<(), Closed> {
        let bytes = u32::try_from(packet.len()).unwrap_or(BYTES_MAX).min(BYTES_MAX);
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Closed)?;
        self.packets.send((packet, room)).await.map_err(|_| Closed)
    }

    /// Sends from a thread that may block.
    pub(crate) fn send_blocking(&self, runtime: &Handle, packet: Bytes) -> Result<(), Closed> {
        runtime.block_on(self.send(packet))
    }
}

impl Stream for Packets {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.poll_recv(context).map(|received| received.map(|(packet, _room)| packet))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn a_receiver_that_does_not_read_stops_the_sender() {
        let (out, mut packets) = channel();
        let packet = Bytes::from(vec![0; 64 * 1024]);
        let mut waiting = 0;
        while out.send(packet.clone()).now_or_never().is_some() {
            waiting += packet.len();
        }
        assert_eq!(waiting, 512 * 1024);
        packets.next().await.unwrap();
        assert!(out.send(packet.clone()).now_or_never().is_some());
        assert!(out.send(packet).now_or_never().is_none());
    }

    #[tokio::test]
    async fn many_small_packets_are_bounded_too() {
        let (out, _packets) = channel();
        // Unconstrained: otherwise tokio would make the task yield after about a hundred packets.
        let send = || tokio::task::unconstrained(out.send(Bytes::from_static(b"s"))).now_or_never();
        let sent = (0..2 * PACKETS_MAX).take_while(|_| send().is_some());
        assert_eq!(sent.count(), PACKETS_MAX);
    }
}
