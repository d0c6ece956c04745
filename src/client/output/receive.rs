//! The receiving side of fsutil's DiffCopy (tonistiigi/fsutil, `receive.go`).

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;

use super::{
    sinks::Unwritten,
    tree::{Destination, Pending, Tree},
};
use crate::client::exit::{Exit, Failure};

/// How many files are requested at once. BuildKit sends four at a time, and stops reading at 128 requests.
const ASKED_MAX: usize = 32;
/// How many of this client's packets may wait: the requests, and the last one. So this side never waits for room while
/// the other waits to be read.
pub(crate) const SAID_MAX: usize = ASKED_MAX + 2;

/// `fsutil.types.Packet`. Names are bytes here: a tree may have names that are not UTF-8.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Packet {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub(super) id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) data: Bytes,
}

/// `fsutil.types.Stat`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Stat {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) path: Vec<u8>,
    /// Go's `os.FileMode`.
    #[prost(uint32, tag = "2")]
    pub(super) mode: u32,
    #[prost(int64, tag = "6")]
    pub(super) mod_time: i64,
    #[prost(bytes = "vec", tag = "7")]
    pub(super) linkname: Vec<u8>,
    #[prost(int64, tag = "8")]
    pub(super) devmajor: i64,
    #[prost(int64, tag = "9")]
    pub(super) devminor: i64,
    #[prost(message, repeated, tag = "10")]
    pub(super) xattrs: Vec<Xattr>,
}

/// An entry of a STAT's map of extended attributes.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Xattr {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

pub(super) const STAT: i32 = 0;
const REQ: i32 = 1;
pub(super) const DATA: i32 = 2;
const FIN: i32 = 3;
pub(super) const ERR: i32 = 4;

/// Receives a tree into a directory. The packets end early if the build does. Returns the last packet for the sender: when
/// it is sent the build may end, and the tree is whole.
pub(super) fn receive(
    destination: &Destination,
    mut packets: mpsc::Receiver<Bytes>,
    said: &mpsc::Sender<Bytes>,
) -> Result<Bytes, Unwritten> {
    let mut tree = Tree::open(destination)?;
    // Files that are announced and not requested; and files whose data may arrive.
    let (mut waiting, mut asked) = (VecDeque::<(u32, Pending)>::new(), HashMap::<u32, Pending>::new());
    let (mut announced, mut is_listed) = (0_u32, false);
    while !(is_listed && asked.is_empty()) {
        let message = packets.blocking_recv().ok_or(Unwritten::There)?;
        let packet = Packet::decode(message).map_err(|_| odd("a packet cannot be read"))?;
        match (packet.kind, packet.stat) {
            (STAT, None) => is_listed = true,
            (STAT, Some(_)) if is_listed => return Err(odd("an entry comes after the last")),
            (STAT, Some(stat)) => {
                waiting.extend(tree.enter(stat)?.map(|file| (announced, file)));
                announced = announced.checked_add(1).ok_or_else(|| odd("the tree has too many entries"))?;
            }
            (DATA, _) if packet.data.is_empty() => {
                let file = asked.remove(&packet.id).ok_or_else(|| odd("data comes for no file"))?;
                tree.complete(file)?;
            }
            (DATA, _) => {
                let file = asked.get_mut(&packet.id).ok_or_else(|| odd("data comes for no file"))?;
                tree.write(file, &packet.data)?;
            }
            // The build's failure says why.
            (ERR, _) => return Err(Unwritten::There),
            _ => return Err(odd("a packet is not a sender's")),
        }
        while asked.len() < ASKED_MAX
            && let Some((id, file)) = waiting.pop_front()
        {
            say(said, Packet { kind: REQ, id, ..Packet::default() })?;
            asked.insert(id, file);
        }
    }
    tree.finish()?;
    Ok(Packet { kind: FIN, ..Packet::default() }.encode_to_vec().into())
}

/// The sender does not keep to the protocol.
fn odd(text: &str) -> Unwritten {
    Failure::new(Exit::Failed, format!("cannot receive the output: {text}")).into()
}

fn say(said: &mpsc::Sender<Bytes>, packet: Packet) -> Result<(), Unwritten> {
    said.blocking_send(packet.encode_to_vec().into()).map_err(|_| Unwritten::There)
}

#[cfg(test)]
mod tests;
