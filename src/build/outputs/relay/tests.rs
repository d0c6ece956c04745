use futures_util::future::join;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;
use crate::build::{
    patience::tests::{LONG, SHORT, soon},
    session,
};

/// The two ends of an output.
struct Ends {
    /// BuildKit's messages; its side ends when this is dropped.
    sends: mpsc::Sender<Result<Bytes, Status>>,
    /// The messages for BuildKit.
    hears: Messages,
    /// The client's messages.
    says: mpsc::Sender<Result<FromClient, Status>>,
    /// The messages for the client.
    takes: mpsc::Receiver<Result<Bytes, Status>>,
    told: Told,
    tasks: Group,
}

impl Ends {
    fn is_whole(&self) -> bool {
        self.told.is_whole.load(Ordering::Acquire)
    }
}

fn ends(form: Form, limits: Limits) -> Ends {
    let (sends, sent) = mpsc::channel(100);
    let (says, said) = mpsc::channel(100);
    let (outgoing, takes) = session::outgoing();
    let stream = Attached { incoming: ReceiverStream::new(said).boxed(), outgoing };
    let (tasks, told) = (Group::root(), Told::default());
    let hears = begin(form, ReceiverStream::new(sent).boxed(), stream, &tasks, limits, told.clone());
    Ends { sends, hears, says, takes, told, tasks }
}

fn patient() -> Limits {
    Limits { idle: LONG, whole: LONG, ..LIMITS }
}

fn packet(kind: PacketType, id: u32) -> Bytes {
    Packet { r#type: kind.into(), id, ..Packet::default() }.encode_to_vec().into()
}

async fn say(ends: &Ends, message: Bytes) {
    ends.says.send(Ok(FromClient::Message(message))).await.unwrap();
}

#[tokio::test]
async fn a_file_is_whole_when_both_sides_have_ended() {
    let mut ends = ends(Form::File, patient());
    let sending = async {
        for number in 0..50_u8 {
            ends.sends.send(Ok(Bytes::from(vec![number]))).await.unwrap();
        }
        drop(ends.sends);
    };
    let taking = async {
        let mut taken = Vec::new();
        while let Some(message) = ends.takes.recv().await {
            taken.extend(message.unwrap());
        }
        drop(ends.says);
        taken
    };
    let ((), taken) = soon(join(sending, taking)).await;
    assert_eq!(taken, (0..50).collect::<Vec<_>>());
    assert!(!ends.told.is_whole.load(Ordering::Acquire));
    assert!(soon(ends.hears.next()).await.is_none());
    assert!(ends.told.is_whole.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_client_may_not_end_a_file_that_is_not_sent() {
    let mut ends = ends(Form::File, patient());
    drop(ends.says);
    let refused = soon(ends.hears.next()).await.unwrap().unwrap_err();
    assert!(refused.message().contains("too early"), "{refused}");
    // BuildKit ends the call.
    drop(ends.hears);
    let last = soon(ends.takes.recv()).await.unwrap().unwrap_err();
    assert!(last.message().contains("not whole"), "{last}");
    assert!(soon(ends.takes.recv()).await.is_none());
}

/// Otherwise a file that a cancel has cut off would seem to end there.
#[tokio::test]
async fn a_file_that_is_cut_off_is_said_not_to_be_whole() {
    for reads in [true, false] {
        for broken in [true, false] {
            let mut ends = ends(Form::File, patient());
            for _ in 0..if reads { 1 } else { 50 } {
                ends.sends.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
            }
            if reads {
                soon(ends.takes.recv()).await.unwrap().unwrap();
            }
            if broken && reads {
                ends.sends.send(Err(Status::cancelled("the call"))).await.unwrap();
            } else {
                ends.tasks.cancel(crate::tasks::Cause::ClientGone);
            }
            let last = soon(async {
                let mut last = None;
                while let Some(message) = ends.takes.recv().await {
                    last = Some(message);
                }
                last.unwrap()
            });
            assert_eq!(last.await.unwrap_err().code(), Code::Aborted, "{reads} {broken}");
        }
    }
}

/// BuildKit waits for room without an end if more are asked for than it takes.
#[tokio::test]
async fn a_client_asks_for_few_files_at_once() {
    let mut ends = ends(Form::Tree, patient());
    let id = |number: usize| u32::try_from(number).unwrap();
    for number in 0..ASKED_MAX {
        say(&ends, packet(PacketType::PacketReq, id(number))).await;
        soon(ends.hears.next()).await.unwrap().unwrap();
    }
    // A piece of a file is not its end.
    let piece = Packet { data: b"x".to_vec(), r#type: PacketType::PacketData.into(), ..Packet::default() };
    for message in [piece.encode_to_vec().into(), packet(PacketType::PacketData, 0)] {
        ends.sends.send(Ok(message)).await.unwrap();
        soon(ends.takes.recv()).await.unwrap().unwrap();
    }
    for (number, is_taken) in [(ASKED_MAX, true), (ASKED_MAX + 1, false)] {
        say(&ends, packet(PacketType::PacketReq, id(number))).await;
        assert_eq!(soon(ends.hears.next()).await.unwrap().is_ok(), is_taken, "{number}");
    }
}

#[tokio::test]
async fn a_trees_packets_go_both_ways() {
    let mut ends = ends(Form::Tree, patient());
    ends.sends.send(Ok(packet(PacketType::PacketStat, 0))).await.unwrap();
    assert_eq!(soon(ends.takes.recv()).await.unwrap().unwrap(), packet(PacketType::PacketStat, 0));
    // Whatever else a client says along with a request stays here.
    let more = Packet { data: b"more".to_vec(), id: 7, r#type: PacketType::PacketReq.into(), stat: None };
    say(&ends, more.encode_to_vec().into()).await;
    assert_eq!(soon(ends.hears.next()).await.unwrap().unwrap(), packet(PacketType::PacketReq, 7));
    assert!(!ends.is_whole());
    say(&ends, packet(PacketType::PacketFin, 0)).await;
    assert_eq!(soon(ends.hears.next()).await.unwrap().unwrap(), packet(PacketType::PacketFin, 0));
    assert!(ends.is_whole());
    drop(ends.says);
    // BuildKit fails if the stream ends before it has said the same.
    assert!(futures_util::poll!(ends.hears.next()).is_pending());
    ends.sends.send(Ok(packet(PacketType::PacketFin, 0))).await.unwrap();
    assert!(soon(ends.hears.next()).await.is_none());
    drop(ends.hears);
    assert_eq!(soon(ends.takes.recv()).await.unwrap().unwrap(), packet(PacketType::PacketFin, 0));
    assert!(soon(ends.takes.recv()).await.is_none(), "a tree that the client has needs no last word");
}

#[tokio::test]
async fn only_a_receivers_packets_reach_the_builder() {
    for (form, message) in [
        (Form::Tree, packet(PacketType::PacketStat, 0)),
        (Form::Tree, packet(PacketType::PacketData, 0)),
        (Form::Tree, Bytes::from_static(&[0xff])),
        (Form::Tree, Bytes::from_static(&[8, 99])),
        (Form::File, Bytes::new()),
    ] {
        let mut ends = ends(form, patient());
        say(&ends, message.clone()).await;
        let refused = soon(ends.hears.next()).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{form:?} {message:?}");
        assert!(soon(ends.hears.next()).await.is_none());
    }
    let mut ends = ends(Form::Tree, patient());
    ends.says.send(Ok(FromClient::Error(Code::Unavailable, "disk\nfull".to_owned()))).await.unwrap();
    let failed = soon(ends.hears.next()).await.unwrap().unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::Unknown, "disk\\nfull"));
}

/// BuildKit's error has the engine's paths in it.
#[tokio::test]
async fn a_builders_error_is_said_in_other_words() {
    let mut ends = ends(Form::Tree, patient());
    let data = b"open /var/lib/docker/overlay2/x: denied".to_vec();
    let error = Packet { r#type: PacketType::PacketErr.into(), data, ..Packet::default() };
    ends.sends.send(Ok(error.encode_to_vec().into())).await.unwrap();
    let told = Packet::decode(soon(ends.takes.recv()).await.unwrap().unwrap()).unwrap();
    assert_eq!(
        (told.r#type(), &*told.data),
        (PacketType::PacketErr, &b"the builder cannot read the files"[..])
    );
}

/// BuildKit keeps the path of each file until the client has it.
#[tokio::test]
async fn a_tree_has_few_entries() {
    let entry = |path: &str| {
        let stat = bollard_buildkit_proto::fsutil::types::Stat { path: path.to_owned(), ..fsutil_stat() };
        Packet { stat: Some(stat), ..Packet::default() }.encode_to_vec().into()
    };
    let long = "x".repeat(1 << 20);
    let limits = Limits { entries: 3, bytes: 2 << 20, ..patient() };
    for (paths, why) in [
        (&["a", "b", "c", "d"][..], "have more than 3 entries: leave some out"),
        (&["a", &long, &long], "links and attributes of more than 2 MiB"),
    ] {
        let mut ends = ends(Form::Tree, limits);
        let (last, paths) = paths.split_last().unwrap();
        for path in paths {
            ends.sends.send(Ok(entry(path))).await.unwrap();
            soon(ends.takes.recv()).await.unwrap().unwrap();
        }
        ends.sends.send(Ok(entry(last))).await.unwrap();
        let refused = soon(ends.hears.next()).await.unwrap().unwrap_err();
        assert!(refused.message().contains(why), "{refused}");
        assert_eq!(ends.told.refused.get().map(Status::message), Some(refused.message()));
        assert!(soon(ends.takes.recv()).await.unwrap().is_err() && !ends.is_whole());
    }
}

#[test]
fn the_trees_of_a_build_count_together() {
    let (limits, told) = (Limits { entries: 3, bytes: 100, ..LIMITS }, Told::default());
    let other = told.clone();
    assert!(told.listed.add(40, limits).is_ok() && other.listed.add(40, limits).is_ok());
    assert!(told.listed.add(40, limits).is_err());
    let told = Told::default();
    assert!((0..3).all(|_| told.clone().listed.add(1, limits).is_ok()));
    assert!(told.listed.add(1, limits).is_err());
}

/// Otherwise a client that does not read holds a place of the engine for as long as it likes.
#[tokio::test]
async fn a_client_that_does_not_go_on_ends_the_build() {
    for form in [Form::Tree, Form::File] {
        let mut ends = ends(form, Limits { idle: SHORT, whole: LONG, ..LIMITS });
        for _ in 0..50 {
            ends.sends.send(Ok(Bytes::from_static(b"\x10\x01"))).await.unwrap();
        }
        // BuildKit need not ask for the client's next message: a client that says much keeps it from that.
        let refused = soon(ends.told.refused.wait()).await.clone();
        assert!(refused.message().contains("has not gone on"), "{refused}");
        let ended = soon(ends.hears.next()).await.unwrap().unwrap_err();
        assert_eq!(ended.message(), refused.message());
        assert!(!ends.is_whole());
        // Nothing of it stays behind.
        drop(ends.hears);
        soon(ends.tasks.close_and_wait()).await;
    }
}

/// The client's turn is whatever BuildKit waits for.
#[tokio::test]
async fn a_client_is_waited_for_only_when_it_is_its_turn() {
    let stat = |stat| Packet { stat, ..Packet::default() }.encode_to_vec().into();
    let (file, end): (Bytes, Bytes) = (stat(Some(fsutil_stat())), stat(None));
    let limits = Limits { idle: SHORT, whole: LONG, ..LIMITS };
    // Neither while BuildKit gathers what it sends, nor while it owes a file or its last word.
    for (form, sent, said) in [
        (Form::File, vec![], vec![]),
        (Form::File, vec![Bytes::from_static(b"x")], vec![]),
        (Form::Tree, vec![], vec![]),
        (Form::Tree, vec![file.clone()], vec![]),
        (Form::Tree, vec![file.clone(), end.clone()], vec![packet(PacketType::PacketReq, 0)]),
        (Form::Tree, vec![end.clone()], vec![packet(PacketType::PacketFin, 0)]),
    ] {
        let mut ends = ends(form, limits);
        for message in &said {
            say(&ends, message.clone()).await;
            soon(ends.hears.next()).await.unwrap().unwrap();
        }
        for message in &sent {
            ends.sends.send(Ok(message.clone())).await.unwrap();
            soon(ends.takes.recv()).await.unwrap().unwrap();
        }
        let waited = timeout(SHORT * 5, ends.told.refused.wait()).await;
        assert!(waited.is_err(), "{form:?} {sent:?} {said:?}");
    }
    // But while it has to ask, to end the stream, or to read.
    for (form, sent) in
        [(Form::File, vec![]), (Form::Tree, vec![end.clone()]), (Form::Tree, vec![file.clone(), end.clone()])]
    {
        let Ends { sends, hears: _hears, says: _says, mut takes, told, tasks: _tasks } = ends(form, limits);
        for message in &sent {
            sends.send(Ok(message.clone())).await.unwrap();
            soon(takes.recv()).await.unwrap().unwrap();
        }
        if form == Form::File {
            drop(sends);
        }
        soon(told.refused.wait()).await;
    }
}

fn fsutil_stat() -> bollard_buildkit_proto::fsutil::types::Stat {
    bollard_buildkit_proto::fsutil::types::Stat { path: "f".to_owned(), ..Default::default() }
}

#[tokio::test]
async fn an_output_that_never_ends_ends() {
    let Ends { sends, mut hears, says: _says, mut takes, told: _told, tasks: _tasks } =
        ends(Form::File, Limits { idle: LONG, whole: SHORT, ..LIMITS });
    let trickling = async {
        loop {
            tokio::time::sleep(SHORT / 4).await;
            if sends.send(Ok(Bytes::from_static(b"x"))).await.is_err() || takes.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = soon(hears.next()) => ended.unwrap().unwrap_err(),
        () = trickling => unreachable!(),
    };
    assert!(ended.message().contains("within"), "{ended}");
}
