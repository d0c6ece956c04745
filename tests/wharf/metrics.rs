//! The metrics: each counts what it says, docs/metrics.md has all of them, and nobody who scrapes harms wharfd.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use http::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    harness::{
        PATIENCE, Test, Wharf, Wharfd,
        authority::Authority,
        cases, engine,
        http::Server,
        process::{Output, command},
        rpc, wait_for,
    },
    turns::Builds,
};

cases![
    builds_and_transfers_are_counted,
    waiting_builds_are_counted,
    an_engine_that_is_down_is_seen,
    only_metrics_are_served,
    a_flood_of_scrapers_keeps_nobody_out,
];

const PAGE: &str = include_str!("../../docs/metrics.md");
const PORT: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];

/// One scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    text: String,
    /// By the name and the labels, as they are written.
    values: BTreeMap<String, f64>,
}

impl Scrape {
    fn read(text: String) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        let values = values.collect();
        Self { text, values }
    }

    /// The value of a series.
    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        *self.values.get(series).unwrap_or_else(|| panic!("no {series} in:\n{}", self.text))
    }

    /// A counter of the default engine with this further label.
    #[track_caller]
    fn of(&self, name: &str, label: &str) -> f64 {
        let label = if label.is_empty() { String::new() } else { format!(",{label}") };
        self.value(&format!("wharf_{name}{{engine=\"default\"{label}}}"))
    }

    /// The families, and of each the names of its labels but those of histograms.
    fn families(&self) -> BTreeMap<String, BTreeSet<String>> {
        let kinds: BTreeMap<&str, &str> =
            self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        let mut families = BTreeMap::<String, BTreeSet<String>>::new();
        for series in self.values.keys() {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let parts = ["_bucket", "_count", "_sum"].iter().filter_map(|part| name.strip_suffix(part));
            let family = parts.clone().find(|name| kinds.get(name) == Some(&"histogram")).unwrap_or(name);
            assert!(kinds.contains_key(family), "{series} has no type");
            let labels = labels.split("=\"").map(|part| part.rsplit(['"', ',', '{']).next().unwrap());
            let labels = labels.filter(|label| !["", "}", "le"].contains(label));
            families.entry(family.to_owned()).or_default().extend(labels.map(str::to_owned));
        }
        families
    }
}

/// Where a wharfd serves its metrics.
pub(crate) async fn port(wharfd: &Wharfd) -> SocketAddr {
    let said = |line: &str| {
        let (_, rest) = line.split_once("listening for scrapes of metrics address=tcp://")?;
        rest.trim().parse().ok()
    };
    wharfd.process().says("the port for metrics", said).await
}

/// The metrics as they are now: an answer may be a second old.
pub(crate) async fn scrape(port: SocketAddr) -> Scrape {
    let answer = Server::Tcp(port.to_string()).get("/metrics").send().await.ok();
    assert_eq!(answer.header("content-type").unwrap(), "text/plain; version=0.0.4; charset=utf-8");
    Scrape::read(answer.text())
}

/// A scrape of which this is true.
async fn scrape_with(port: SocketAddr, what: &str, is: impl Fn(&Scrape) -> bool) -> Scrape {
    wait_for(what, async || Some(scrape(port).await).filter(|scrape| is(scrape))).await
}

async fn builds_and_transfers_are_counted(test: Arc<Test>) {
    // The disk of the tests' engines is not watched by itself: their root is elsewhere. This one is never low.
    let server = Authority::new(&test.new_dir("tls")).issue_expired("server", &["localhost"]);
    let config = format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\n[disk]\nlow = \"2MiB\"\n[engines.default]\nsocket = \"{}\"\ndisk = {:?}\n",
        server.certificate,
        server.key,
        test.engine.address(),
        test.dir()
    );
    let wharfd = test.wharfd_with(Some(&config), &PORT).await;
    let port = port(&wharfd).await;
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "a-name-of-a-job#a-name-of-a-run");

    let is_up = |now: &Scrape| now.of("engine_up", "") == 1.0;
    let first = scrape_with(port, "the engine", is_up).await;
    for result in ["done", "failed", "refused", "engine_error"] {
        assert_eq!(first.of("builds_total", &format!("result=\"{result}\"")), 0.0);
    }

    let text = format!("FROM {base}\nRUN echo {}\nCOPY file /\n", test.unique("step"));
    let context = test.context("context", &[("Dockerfile", &text), ("file", &"x".repeat(100_000))]);
    let tag = registry.name("a-name-of-an-image:1");
    job.build(&context, &["-t", &tag, "--push"]).await.ok();
    // Calls are counted before their clients hear of their end.
    let done = "result=\"done\"";
    let built = scrape_with(port, "the build", |now| now.of("builds_total", done) == 1.0).await;
    assert_eq!((built.of("pulls_total", done), built.of("pushes_total", done)), (1.0, 1.0));
    assert!((100_000.0..200_000.0).contains(&built.of("context_bytes_total", "")), "{}", built.text);
    let ran = built.of("build_steps_total", "result=\"ran\"");
    assert!(ran >= 2.0, "RUN and COPY: {}", built.text);
    assert_eq!(built.of("build_duration_seconds_count", done), 1.0);
    assert_eq!(built.of("build_wait_seconds_count", ""), 1.0);
    assert_eq!(built.value("wharf_calls_total{method=\"BuildService/Build\",result=\"done\"}"), 1.0);

    job.build(&context, &["-t", &tag]).await.ok();
    let again = scrape_with(port, "the second build", |now| now.of("builds_total", done) == 2.0).await;
    let cached = |scrape: &Scrape| scrape.of("build_steps_total", "result=\"cached\"");
    assert!(cached(&again) >= cached(&built) + 2.0, "{}", again.text);
    assert!(again.of("build_steps_total", "result=\"ran\"") <= ran + 1.0, "{}", again.text);

    let failing = format!("FROM {base}\nRUN exit 3\n");
    let failing = test.context("failing", &[("Dockerfile", &failing)]);
    job.build(&failing, &[]).await.ended(1);
    let denied = "FROM scratch\nADD http://127.0.0.1:1/a-name-of-a-file /\n";
    let denied = test.context("denied", &[("Dockerfile", denied)]);
    job.build(&denied, &[]).await.ended(3);
    job.build(test.context("wrong", &[("Dockerfile", "FROM scratch\nNOTHING\n")]), &[]).await.ended(1);
    job.run(["push", "a-name-of-no-image:1"]).await.ended(6);
    job.run(["pull", &registry.name("a-name-of-no-image:1")]).await.ended(6);
    job.build(&context, &["-o", "a-name-of-a-directory"]).await.ok();
    job.run(["save", "-o", "saved.tar", &tag]).await.ok();
    let saved = std::fs::metadata(job.home().join("saved.tar")).unwrap().len();
    let last = scrape_with(port, "all of them", |now| {
        now.values.get("wharf_calls_total{method=\"ImageService/SaveImages\",result=\"done\"}") == Some(&1.0)
    })
    .await;
    assert_eq!(last.of("builds_total", "result=\"failed\""), 2.0, "{}", last.text);
    assert_eq!(last.of("builds_total", "result=\"refused\""), 1.0, "{}", last.text);
    assert_eq!(last.value("wharf_call_faults_total{reason=\"SourceDenied\"}"), 1.0);
    assert_eq!(last.of("pulls_total", "result=\"client_error\""), 1.0, "{}", last.text);
    assert_eq!(last.of("pushes_total", done), 1.0, "there was no image to push");
    assert!(last.of("sent_bytes_total", "kind=\"output\"") >= 100_000.0, "{}", last.text);
    assert_eq!(last.of("sent_bytes_total", "kind=\"save\""), saved as f64);
    assert_eq!(last.of("namespaces", ""), 1.0);
    assert!(last.of("engine_disk_size_bytes", "") >= last.of("engine_disk_free_bytes", ""));
    assert!(last.value("wharf_store_size_bytes") > 4096.0);
    // 2021-01-01.
    assert_eq!(last.value("wharf_certificate_expiry_timestamp_seconds"), 1_609_459_200.0);
    let own = last.value("wharf_connections_total{socket=\"unix\"}");
    assert!(own >= 10.0, "one of each command: {own}");
    let looked = |now: &Scrape| now.of("engine_ping_seconds_count", "") >= 1.0;
    let all = scrape_with(port, "a look at the engine", looked).await;
    is_documented(&all);
    is_watched(&all).await;
    // Nothing that a job chooses is in it.
    for own in ["a-name", "base", registry.host(), "file", "uid"] {
        let lines = all.text.lines().filter(|line| !line.starts_with('#'));
        assert!(!lines.clone().any(|line| line.contains(own)), "`{own}`:\n{}", all.text);
    }
}

/// Fails unless the page has just the metrics of a scrape, each with its labels.
fn is_documented(scrape: &Scrape) {
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = PAGE.lines().filter(|line| line.starts_with("| `wharf_"));
    let told: BTreeMap<String, BTreeSet<String>> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            (quoted(cells[1]).remove(0), quoted(cells[3]).into_iter().collect())
        })
        .collect();
    assert_eq!(told, scrape.families(), "docs/metrics.md, and a scrape");
}

/// Fails unless the rules pass Prometheus' own checks, and all that the rules and the dashboard ask for is in a scrape:
/// each metric, its labels, and their values.
async fn is_watched(scrape: &Scrape) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/monitoring");
    let mut check = command(engine::tool("WHARF_PROMCHECK"));
    check.args(["rules.yaml", "dashboard.json"].map(|file| format!("{directory}/{file}")));
    let checked = Output::of(check, b"", PATIENCE).await.ok();
    let mut asked = BTreeMap::<String, usize>::new();
    for line in checked.stdout.lines() {
        let query: Value = serde_json::from_str(line).unwrap();
        *asked.entry(query["file"].as_str().unwrap().to_owned()).or_default() += 1;
        // Prometheus' own.
        let mut known: BTreeSet<&str> = ["job", "instance"].into();
        for series in query["series"].as_array().unwrap() {
            let metric = format!("{}{{", series["metric"].as_str().unwrap());
            let written =
                |name: &&String| name.starts_with(&metric) || Some(name.as_str()) == metric.strip_suffix('{');
            let written: Vec<&String> = scrape.values.keys().filter(written).collect();
            assert!(!written.is_empty(), "no {metric} in a scrape: {query}");
            let labels = written.iter().flat_map(|name| name.split(['{', ',']).skip(1));
            known.extend(labels.filter_map(|label| Some(label.split_once('=')?.0)));
            for (label, values) in series["labels"].as_object().unwrap() {
                assert!(known.contains(label.as_str()), "{metric} has no label {label}: {query}");
                for value in values.as_array().unwrap() {
                    let label = format!("{label}=\"{}\"", value.as_str().unwrap());
                    assert!(
                        written.iter().any(|name| name.contains(&label)),
                        "{metric} with {label}: {query}"
                    );
                }
            }
        }
        for label in query["groups"].as_array().unwrap() {
            assert!(known.contains(label.as_str().unwrap()), "no label {label}: {query}");
        }
    }
    let [rules, dashboard] = ["rules.yaml", "dashboard.json"].map(|file| asked[file]);
    assert!(rules >= 8 && dashboard >= 25, "{asked:?}");
}

async fn waiting_builds_are_counted(test: Arc<Test>) {
    let config =
        "max_builds = 1\n[metrics]\nlisten = \"127.0.0.1:0\"\n[[serve]]\nuid = 1000\nnamespaces = \"*\"\n";
    let wharfd = test.wharfd_as_it_ships(Some(config)).await;
    let port = port(&wharfd).await;
    let channel = rpc::connect_as(&wharfd.socket(), 1000).await;
    let mut builds = Builds::new(&wharfd).await;
    builds.runs(&channel, "first#1").await;
    builds.waits(&channel, "second#1", 0).await;
    let waits =
        |now: &Scrape| now.of("builds_waiting", "") == 1.0 && now.of("queue_oldest_seconds", "") > 0.0;
    let now = scrape_with(port, "a waiting build", waits).await;
    assert_eq!((now.of("builds_running", ""), now.of("build_places", "")), (1.0, 1.0));
    assert_eq!(now.of("build_wait_seconds_count", ""), 1.0, "of the one that has its turn");
    let waited = now.of("queue_oldest_seconds", "");
    builds.after("first#1", "second#1").await;
    builds.release("second#1");
    builds.end("second#1").await.unwrap();
    let idle = |now: &Scrape| now.of("builds_running", "") == 0.0;
    let now = scrape_with(port, "an idle engine", idle).await;
    assert_eq!((now.of("builds_waiting", ""), now.of("queue_oldest_seconds", "")), (0.0, 0.0));
    assert_eq!(now.of("build_wait_seconds_count", ""), 2.0);
    assert!(now.of("build_wait_seconds_sum", "") >= waited, "{}", now.text);
}

async fn an_engine_that_is_down_is_seen(test: Arc<Test>) {
    let config = format!(
        "default_engine = \"default\"\n[engines.default]\nsocket = \"{}\"\n[engines.gone]\nsocket = \"unix://{}\"\n\
         [[serve]]\nuid = 1000\nnamespaces = \"*\"\nengine = \"gone\"\n",
        test.engine.address(),
        test.dir().join("no.sock").display()
    );
    let wharfd = test.wharfd_with(Some(&config), &PORT).await;
    let port = port(&wharfd).await;
    let context = test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    Wharf::new(&test, &wharfd, "job#1").as_uid(1000).build(&context, &[]).await.ended(5);
    let now = scrape_with(port, "the engine", |now| now.of("engine_up", "") == 1.0).await;
    let gone = |name: &str| now.value(&format!("wharf_{name}{{engine=\"gone\"}}"));
    assert_eq!((gone("engine_up"), gone("engine_takes_builds")), (0.0, 0.0));
    assert_eq!(now.value("wharf_builds_total{engine=\"gone\",result=\"engine_error\"}"), 1.0, "{}", now.text);
    assert_eq!(now.of("builds_total", "result=\"engine_error\""), 0.0);
    assert!(!now.text.contains("wharf_engine_disk_free_bytes{engine=\"gone\"}"), "it is not known");
}

async fn only_metrics_are_served(test: Arc<Test>) {
    let wharfd = test.wharfd_with(None, &PORT).await;
    let port = port(&wharfd).await;
    let server = Server::Tcp(port.to_string());
    let open =
        server.get("/metrics").header("accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
    let open = open.send().await.ok();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type").as_deref(), Some(kind));
    assert!(open.text().ends_with("# EOF\n") && open.text().contains("\n# TYPE wharf_builds counter\n"));
    for path in ["/", "/metrics/", "/healthz", "/metrics%2f", "/../metrics"] {
        assert_eq!(server.get(path).send().await.status, 404, "{path}");
    }
    assert_eq!(server.get("/metrics?a=b").send().await.status, 200);
    for method in [Method::POST, Method::HEAD, Method::DELETE, Method::OPTIONS] {
        let refused = server.call(method.clone(), "/metrics").send().await;
        assert_eq!(
            (refused.status.as_u16(), refused.header("allow").as_deref()),
            (405, Some("GET")),
            "{method}"
        );
    }
    // One request on each connection, within bounds.
    let long = format!("GET /metrics HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nhost: h\r\n{}\r\n", "x: y\r\n".repeat(1000));
    let twice = "GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n".repeat(2);
    let (preface, body) = (
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nhost: h\r\n\
         content-length: 9999999\r\n\r\n",
    );
    let broken = "\u{0}\u{1}\r\n\r\n";
    for (sent, answers) in [(&*long, 0), (&*many, 0), (&*twice, 1), (preface, 0), (body, 0), (broken, 0)] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        // It may be closed before all of it is sent.
        let _ = stream.write_all(sent.as_bytes()).await;
        let mut read = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
        assert!(closed.is_ok(), "it stays open: {}", &sent[..20]);
        let read = String::from_utf8_lossy(&read);
        assert_eq!(read.matches("HTTP/1.1 200 OK").count(), answers, "{read}");
    }
    scrape(port).await;
    assert!(wharfd.process().ended().await.is_none());
}

/// Connections from so many addresses of loopback, as many from each, on which nothing is said.
async fn idle(port: SocketAddr, sources: u8, each: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for source in 1..=sources {
        for _ in 0..each {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 1, source], 0))).unwrap();
            open.push(socket.connect(port).await.unwrap());
        }
    }
    open
}

async fn a_flood_of_scrapers_keeps_nobody_out(test: Arc<Test>) {
    let wharfd = test.wharfd_with(None, &PORT).await;
    let port = port(&wharfd).await;
    let connections = || {
        let pid = wharfd.process().pid().as_raw_nonzero();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        open.filter(|entry| {
            let target = std::fs::read_link(entry.as_ref().unwrap().path());
            target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        })
        .count()
    };
    let before = connections();
    // Those of one source take no more than its places, and those of many no more than all.
    for (sources, each, places) in [(1, 100, 4), (100, 2, 32)] {
        let held = idle(port, sources, each).await;
        // It comes after all of them.
        scrape(port).await;
        let bounded = async || (connections() <= before + places).then_some(());
        wait_for("a bounded number of connections", bounded).await;
        // The port serves nobody else's calls, and takes no place of theirs.
        rpc::connect(&wharfd.socket()).await;
        drop(held);
    }
    // One who says nothing, or reads nothing, is not waited for.
    let mut silent = idle(port, 1, 2).await;
    silent[1].write_all(b"GET /metr").await.unwrap();
    for mut stream in silent {
        let mut read = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
        assert!(closed.is_ok(), "it stays open");
    }
}
