use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::mpsc, time::Duration};

use serde_json::Value;

use super::{writer::Out, *};
use crate::names::{CallerId, EngineName, IssuerName, Namespace, Reference, reference::Digest};

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("wharf-audit-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap();
    path
}

fn event(number: u64) -> Event {
    Event::new(EventKind::Ended).number("call", number)
}

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The numbers of the calls in a file.
fn calls(path: &Path) -> Vec<u64> {
    read(path).iter().map(|event| event["call"].as_u64().unwrap()).collect()
}

/// A trail that writes to `out`.
fn trail_to(out: impl Out + 'static) -> Trail {
    let (lines, queue) = mpsc::channel();
    let (backlog, (done, written)) = (Arc::default(), oneshot::channel());
    writer::start_with(Box::new(out), queue, Arc::clone(&backlog), done).unwrap();
    let sending = Mutex::new(Sending { next: 1, lines: Some(lines) });
    Trail { inner: Some(Arc::new(Inner { sending, backlog, written: Mutex::new(Some(written)) })) }
}

#[test]
fn a_destination_is_an_absolute_path_or_stderr() {
    assert_eq!("stderr".parse(), Ok(Destination::Stderr));
    assert_eq!("/var/log/audit".parse(), Ok(Destination::File("/var/log/audit".into())));
    for wrong in ["", "audit.jsonl", "./stderr", "STDERR", "stdout"] {
        assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
    }
}

#[test]
fn an_event_is_one_printable_line_of_bounded_length() {
    let hostile = "acme\u{202e}\u{2028}\"\\,\u{e0041}";
    let issuer = IssuerName::try_from("ci".to_owned()).unwrap();
    let job = "acme\"\\,{}";
    let namespace = Namespace::new(job, "j".repeat(255)).unwrap().issued_by(issuer);
    let details = Details::default();
    details.source(&format!("{hostile}\u{9b}2J\n{{\"event\":\"started\"}}\r{}", "x".repeat(100_000)));
    details.asked_about(&format!("job {hostile}{}", "\u{1f600}".repeat(20_000)));
    let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
    for number in 0..1000 {
        let reference = Reference::parse(&format!("registry.example/{}:{number}", "r".repeat(200))).unwrap();
        details.reference(&reference);
        details.admitted(&reference, Some(&digest), By::Registry);
        details.pushed(&reference, &digest);
        details.untagged(&reference);
    }
    let engine = EngineName::try_from("main".to_owned()).unwrap();
    let event = Event::new(EventKind::Ended).by(&CallerId::Uid(1), &engine).namespace(Some(&namespace));
    let line = details.add_to(event.text("message", hostile.repeat(10_000))).line(7);
    // One call has three lists at most, as a build; this has four.
    assert!(line.len() < 48 << 10, "{}", line.len());
    assert_eq!(line.find('\n'), Some(line.len() - 1));
    let shown = line.trim_end_matches('\n');
    assert!(!shown.contains(|c: char| c.is_control() || "\u{202e}\u{2028}\u{e0041}".contains(c)), "{shown}");
    let read: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["namespace"]["job"], job, "a machine reads the name as it is");
    assert_eq!((read["namespace"]["issuer"].as_str(), read["number"].as_u64()), (Some("ci"), Some(7)));
    let references = read["references"].as_array().unwrap();
    let (more, listed) = references.split_last().unwrap();
    assert!((20..64).contains(&listed.len()), "{}", listed.len());
    assert_eq!(more["more"], 1000 - listed.len());
    let few = Details::default();
    (0..100).for_each(|number| few.reference(number));
    let few: Value = serde_json::from_str(&few.add_to(Event::new(EventKind::Ended)).line(1)).unwrap();
    assert_eq!(
        (few["references"].as_array().unwrap().len(), &few["references"][64]["more"]),
        (65, &Value::from(36))
    );
    assert!(read["message"].as_str().unwrap().ends_with('…'));
    assert_eq!(read["admitted"][0]["by"], "registry");
}

#[tokio::test]
async fn a_file_that_others_rotate_is_opened_again() {
    let directory = directory("rotated");
    let path = directory.join("audit.jsonl");
    let destination = Destination::File(path.clone());
    let trail = Trail::open(&destination).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let written = async |path: &Path, wanted: &[u64]| {
        while calls(path) != wanted {
            tokio::task::yield_now().await;
        }
    };
    trail.record(event(1));
    written(&path, &[1]).await;
    assert_eq!(mode(&path), 0o600);
    // As logrotate does without `create`.
    let rotated = directory.join("audit.jsonl.1");
    fs::rename(&path, &rotated).unwrap();
    trail.record(event(2));
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    written(&path, &[2]).await;
    assert_eq!((calls(&rotated), mode(&path)), (vec![1], 0o600));
    // With `copytruncate`.
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    trail.record(event(3));
    written(&path, &[3]).await;
    // With `create 0640`: the mode is the operator's.
    fs::rename(&path, &rotated).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    trail.record(event(4));
    trail.close().await;
    assert_eq!((calls(&path), calls(&rotated), mode(&path)), (vec![4], vec![3], 0o640));
    // A new wharfd goes on in the same file.
    let trail = Trail::open(&destination).unwrap();
    trail.record(event(5));
    trail.close().await;
    assert_eq!(calls(&path), [4, 5]);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let directory = directory("missing");
    let path = directory.join("none/audit.jsonl");
    let error = Trail::open(&Destination::File(path.clone())).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write the audit log {}", path.display()));
    fs::remove_dir_all(directory).unwrap();
}

/// Writes until it fails, then succeeds again; passes the lines on.
struct Failing {
    writes: u32,
    lines: mpsc::Sender<String>,
}

impl Out for Failing {
    fn line(&mut self, line: &str) -> io::Result<()> {
        self.writes += 1;
        if (2..=3).contains(&self.writes) {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.lines.send(line.to_owned()).map_err(io::Error::other)
    }
}

#[tokio::test]
async fn lost_events_are_counted_and_their_numbers_are_missing() {
    let (lines, written) = mpsc::channel();
    let trail = trail_to(Failing { writes: 0, lines });
    for number in 1..=4 {
        trail.record(event(number));
    }
    trail.close().await;
    let written: Vec<Value> = written.iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
    // The second was lost by the first failure. The third was lost by the second, which was to tell so.
    let numbers: Vec<_> = written.iter().map(|event| event["number"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), None, Some(4)]);
    assert_eq!((&written[1]["event"], &written[1]["events"]), (&"lost".into(), &2.into()));
}

#[tokio::test]
async fn a_full_disk_ends_nothing() {
    let trail = Trail::open(&Destination::File("/dev/full".into())).unwrap();
    for number in 0..100 {
        trail.record(event(number));
    }
    trail.close().await;
    assert_eq!(trail.inner.as_ref().unwrap().backlog.lost(), 100);
}

/// Waits before its first line until the other end is gone.
struct Stuck(mpsc::Receiver<()>);

impl Out for Stuck {
    fn line(&mut self, _line: &str) -> io::Result<()> {
        let _ = self.0.recv();
        Ok(())
    }
}

#[tokio::test]
async fn a_slow_disk_holds_nobody_up_and_fills_no_memory() {
    let (let_go, stuck) = mpsc::channel();
    let trail = trail_to(Stuck(stuck));
    let backlog = &trail.inner.as_ref().unwrap().backlog;
    let large = || event(1).text("message", "x".repeat(1024));
    // More than the backlog takes: if a caller waited, this would never end.
    for _ in 0..10_000 {
        trail.record(large());
    }
    let lost = backlog.lost();
    assert!((1000..9000).contains(&lost), "{lost}");
    let closing = tokio::time::timeout(Duration::from_millis(1), trail.close());
    assert!(closing.await.is_err(), "the lines are not written yet");
    drop(let_go);
}
