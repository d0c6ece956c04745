use super::*;

#[tokio::test]
async fn a_reader_that_does_not_read_gets_the_newest_of_a_step() {
    let (reporter, mut receiver) = Reporter::channel();
    let mut step = reporter.step("pull app:1");
    for current in 0..1000 {
        step.moves(if current % 2 == 0 { "a" } else { "b" }, current, 1000, false);
    }
    step.rename("pull app:1@sha256:…");
    step.done(false);
    drop(reporter);
    let progress = receiver.next().await.unwrap();
    let newest: Vec<_> =
        progress.statuses.iter().map(|status| (status.id.as_str(), status.current)).collect();
    assert_eq!(newest, [("a", 998), ("b", 999)]);
    let [vertex] = progress.vertexes.as_slice() else { panic!("{progress:?}") };
    assert!(vertex.name.contains('@') && vertex.completed.is_some());
    assert_eq!(receiver.next().await, None);
}

fn written(bytes: usize) -> Progress {
    let log = VertexLog { vertex: "a".into(), stream: None, data: vec![b'x'; bytes].into(), timestamp: None };
    let vertex = Vertex { digest: "a".into(), ..Vertex::default() };
    Progress { logs: vec![log], vertexes: vec![vertex], ..Progress::default() }
}

/// All that a reader gets: bytes of output, steps, and warnings.
async fn read(receiver: &mut Receiver) -> (usize, usize, Vec<String>) {
    let (mut bytes, mut vertexes, mut warnings) = (0, 0, Vec::new());
    while let Some(progress) = receiver.next().await {
        bytes += progress.logs.iter().map(|log| log.data.len()).sum::<usize>();
        vertexes += progress.vertexes.len();
        warnings.extend(progress.warnings.into_iter().map(|warning| warning.short));
    }
    (bytes, vertexes, warnings)
}

#[tokio::test]
async fn a_slow_reader_misses_output_and_nothing_else() {
    let (reporter, mut receiver) = Reporter::channel();
    // Whoever reports does not wait, and does not fill the memory.
    for _ in 0..1000 {
        reporter.report(written(1 << 20));
    }
    assert!(reporter.unread.bytes.load(Ordering::Relaxed) < UNREAD_BYTES_MAX + (1 << 20));
    reporter.warn("wharfd's own", Vec::new());
    drop(reporter);
    let (bytes, vertexes, warnings) = read(&mut receiver).await;
    assert_eq!((bytes, vertexes), (7 << 20, 1000));
    let [told, own] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(told.contains("bytes of the log are left out"), "{told}");
    assert_eq!(own, "wharfd's own");
}

#[tokio::test]
async fn a_reader_that_reads_gets_everything() {
    let (reporter, mut receiver) = Reporter::channel();
    for _ in 0..50 {
        reporter.report(written(1 << 20));
        assert_eq!(receiver.next().await, Some(written(1 << 20)));
    }
    drop(reporter);
    assert_eq!(receiver.next().await, None);
}
