//! wharfd in the network: TLS, client certificates, and those who prove nothing.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

use crate::harness::{
    Issuer, Test, Wharf, Wharfd,
    authority::{Authority, Issued},
    cases,
    process::shell_status,
    wait_for,
};

cases![
    a_certificate_builds_and_pushes,
    a_token_needs_no_certificate,
    a_certificate_that_is_not_good_is_refused,
    a_name_of_another_scheme_is_nobody,
    the_servers_name_is_verified,
    plain_tcp_needs_the_operators_word,
    half_open_connections_hold_up_nobody,
    a_renewed_certificate_is_taken_up,
];

/// Certificates, and a wharfd that serves by them.
struct Network {
    authority: Authority,
    server: Issued,
    wharfd: Arc<Wharfd>,
    address: SocketAddr,
}

impl Network {
    /// The certificate `agent` may act in `acme/*`.
    async fn new(test: &Test, further: &str) -> Self {
        let dir = test.new_dir("tls");
        let authority = Authority::new(&dir);
        let server = authority.issue("server", &["localhost", "127.0.0.1"]);
        let config = format!(
            "[tls]\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n\
             [[serve]]\ncertificate = \"agent\"\nnamespaces = \"acme/*\"\n{further}",
            server.certificate.display(),
            server.key.display(),
            authority.file().display(),
        );
        let wharfd = test.wharfd_with(Some(&config), &["--listen", "tcp://127.0.0.1:0"]).await;
        let address = port_of(&wharfd).await;
        Self { authority, server, wharfd, address }
    }

    /// A job that trusts the authority, with this certificate.
    fn job(&self, test: &Test, own: Option<&Issued>) -> Wharf {
        let job = Wharf::new(test, &self.wharfd, "acme/app#1");
        let job = job.at(&format!("tcp://{}", self.address));
        let job = job.with_variable("WHARF_TLSCACERT", &self.authority.file().display().to_string());
        match own {
            None => job,
            Some(own) => job
                .with_variable("WHARF_TLSCERT", &own.certificate.display().to_string())
                .with_variable("WHARF_TLSKEY", &own.key.display().to_string()),
        }
    }
}

/// The port that the kernel has chosen.
async fn port_of(wharfd: &Wharfd) -> SocketAddr {
    wait_for("wharfd's port", async || {
        let said =
            |line: &String| line.split_once("listening address=tcp://")?.1.split(' ').next()?.parse().ok();
        wharfd.log().iter().find_map(said)
    })
    .await
}

const DOCKERFILE: &str = "FROM scratch\nCOPY Dockerfile /\n";

async fn a_certificate_builds_and_pushes(test: Arc<Test>) {
    let network = Network::new(&test, "").await;
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let text = format!("FROM {base}\nCOPY data /data\nRUN test -s /data\n");
    // Larger than what may wait unread in HTTP/2 and TLS.
    let data = "0123456789abcdef".repeat(1 << 17);
    let context = test.context("context", &[("Dockerfile", &text), ("data", &data)]);
    let job = network.job(&test, Some(&network.authority.issue("agent", &["agent"])));
    let tag = format!("{}/app:1", registry.host());
    let built = job.build(&context, &["-t", &tag, "--push"]).await.ok();
    assert!(built.stderr.contains("RUN test"), "{built:?}");
    assert_eq!(job.images().await.len(), 1);
    let info = job.run(["info"]).await.ok().stdout;
    assert!(info.contains("certificate agent") && info.contains("acme/*"), "{info}");
    job.in_namespace("other#1").run(["images"]).await.ended(3).says(&["is not yours"]);

    // The flags do the same as the variables.
    let own = network.authority.issue("flags", &["agent"]);
    let [ca, certificate, key] =
        [&network.authority.file(), &own.certificate, &own.key].map(|path| path.display().to_string());
    let address = format!("tcp://localhost:{}", network.address.port());
    let flags =
        ["--addr", &address, "--tlscacert", &ca, "--tlscert", &certificate, "--tlskey", &key, "images", "-q"];
    let plain = Wharf::new(&test, &network.wharfd, "acme/app#1");
    assert!(!plain.run(flags).await.ok().stdout.is_empty());
    job.run(["namespace", "rm"]).await.ok();
}

async fn a_token_needs_no_certificate(test: Arc<Test>) {
    const TOKEN: &str = "5f2b0c3c4d5e6f708192a3b4c5d6e7f8";
    let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let issuer = Issuer::new(&test, "ci");
    let further = format!(
        "[[serve]]\ntoken = \"nightly\"\nsha256 = \"{hash}\"\nnamespaces = \"nightly/*\"\n{}",
        issuer.config("*")
    );
    let network = Network::new(&test, &further).await;
    let context = test.context("context", &[("Dockerfile", DOCKERFILE)]);
    let nobody = network.job(&test, None);
    nobody.run(["images"]).await.ended(3).says(&["nothing proves who calls"]);
    nobody.build(&context, &[]).await.ended(3).says(&["nothing proves who calls"]);
    let nightly = nobody.with_token(TOKEN).in_namespace("nightly/app#1");
    nightly.build_id(&context, &["-t", "app:1"]).await;
    let job = nobody.with_token(&issuer.token("acme/app", 1));
    let id = job.build_id(&context, &["-t", "app:1"]).await;
    assert_eq!(job.images().await, [("app:1".to_owned(), id)]);
    job.run(["namespace", "rm"]).await.ok();
    // A token decides, even beside a certificate that is served.
    let agent = network.job(&test, Some(&network.authority.issue("agent", &["agent"])));
    agent
        .with_token("nobody-has-this-token-0123456789")
        .run(["images"])
        .await
        .ended(3)
        .says(&["not known here"]);
    let info = agent.with_token(&issuer.token("acme/app", 2)).run(["info"]).await.ok().stdout;
    assert!(info.contains("job ci:acme/app"), "{info}");
}

async fn a_certificate_that_is_not_good_is_refused(test: Arc<Test>) {
    let network = Network::new(&test, "").await;
    let own = &network.authority;
    let foreign = Authority::new(&test.new_dir("foreign"));
    for (bad, why) in [
        (foreign.issue("agent", &["agent"]), "refuses the client certificate"),
        (own.issue_expired("expired", &["agent"]), "refuses the client certificate: CertificateExpired"),
    ] {
        network.job(&test, Some(&bad)).run(["images"]).await.ended(4).says(&[why, "client_ca"]);
    }
    for (unknown, why) in [
        (own.issue("other", &["other", "spiffe://ci/agent"]), "no name of the certificate is served here"),
        (own.issue_for_common_name("common", "agent"), "the certificate has no name"),
    ] {
        network.job(&test, Some(&unknown)).run(["images"]).await.ended(3).says(&[why]);
    }
    network.job(&test, Some(&own.issue("agent", &["agent"]))).run(["images"]).await.ok();
    let log = network.wharfd.log().join("\n");
    assert!(log.contains("closed a connection: TLS failed") && log.contains("127.0.0.1"), "{log}");
}

/// Root and wharfd's own uid are operators on the socket; a token and a job have names, too.
async fn a_name_of_another_scheme_is_nobody(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let network = Network::new(&test, &issuer.config("*")).await;
    let names = ["root", "uid:0", "operator:0", "ci", "ci:acme/app", "token:nightly", "job:acme/app"];
    for (number, name) in names.into_iter().enumerate() {
        let own = network.authority.issue(&format!("odd{number}"), &[name]);
        let job = network.job(&test, Some(&own));
        job.run(["images"]).await.ended(3).says(&["no name of the certificate is served here"]);
        job.run(["namespace", "rm", "--issuer", "ci", "acme/app#1"]).await.ended(3);
    }
}

async fn the_servers_name_is_verified(test: Arc<Test>) {
    let network = Network::new(&test, "").await;
    let agent = network.authority.issue("agent", &["agent"]);
    let job = network.job(&test, Some(&agent));
    let port = network.address.port();
    job.at(&format!("tcp://localhost:{port}")).run(["images"]).await.ok();
    // wharfd listens on one address only; this one leads there all the same.
    let relay = Relay::start("127.0.0.2:0", network.address).await;
    job.at(&format!("tcp://{}", relay.address))
        .run(["images"])
        .await
        .ended(4)
        .says(&["its certificate is not for `127.0.0.2`"]);
    // Another authority's, and the system's.
    let other = Authority::new(&test.new_dir("other"));
    let untrusting = job.with_variable("WHARF_TLSCACERT", &other.file().display().to_string());
    untrusting.run(["images"]).await.ended(4).says(&["authority that is not trusted", "--tlscacert"]);
    let system = Wharf::new(&test, &network.wharfd, "acme/app#1").at(&format!("tcp://{}", network.address));
    system.run(["images"]).await.ended(4).says(&["authority that is not trusted"]);
    // Without TLS at the port that speaks it.
    let plain = ["--dangerous-plain-tcp", "images"];
    system.run(plain).await.ended(4).says(&["leave out --dangerous-plain-tcp"]);
    job.run(["images"]).await.ok();
}

/// Passes on connections.
struct Relay {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn start(address: &str, to: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut to = TcpStream::connect(to).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
            }
        });
        Self { address, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn plain_tcp_needs_the_operators_word(test: Arc<Test>) {
    let config = "[[serve]]\nuid = 1000\nnamespaces = \"*\"\n";
    let refused = test.wharfd_unstarted(Some(config), &["--listen", "tcp://127.0.0.1:0"]);
    let process = refused.spawn();
    let ended = wait_for("wharfd to give up", async || process.ended().await).await;
    assert_eq!(shell_status(ended), 2, "{:?}", process.lines());
    let said = process.lines().join("\n");
    assert!(said.contains("needs [tls]") && said.contains("--dangerous-plain-tcp"), "{said}");

    let issuer = Issuer::new(&test, "ci");
    let flags = ["--listen", "tcp://127.0.0.1:0", "--dangerous-plain-tcp"];
    let wharfd = test.wharfd_with(Some(&issuer.config("*")), &flags).await;
    let address = format!("tcp://{}", port_of(&wharfd).await);
    let log = wharfd.log().join("\n");
    assert!(log.contains("WARN") && log.contains("listening without TLS"), "{log}");
    let job = Wharf::new(&test, &wharfd, "acme/app#1").at(&address).with_token(&issuer.token("acme/app", 1));
    job.run(["images"]).await.ended(4).says(&["does not speak TLS"]);
    let plain = ["--dangerous-plain-tcp", "images"];
    job.run(plain).await.ok();
    let context = test.context("context", &[("Dockerfile", DOCKERFILE)]);
    job.build(&context, &["--dangerous-plain-tcp"]).await.ok();
    // Nobody in the network is root, wherever wharfd runs.
    let nobody = Wharf::new(&test, &wharfd, "acme/app#1").at(&address);
    nobody.run(plain).await.ended(3).says(&["nothing proves who calls"]);
    job.run(["--dangerous-plain-tcp", "namespace", "rm"]).await.ok();
}

/// How long a build takes.
async fn timed(job: &Wharf, context: &Path) -> Duration {
    let begun = Instant::now();
    job.build(context, &[]).await.ok();
    begun.elapsed()
}

/// Connections from one address that never finish their handshake; some have begun it.
async fn half_open(to: SocketAddr, from: &str, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for number in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        if number % 2 == 0 {
            // The head of a record of a handshake, whose rest never comes.
            let _ = stream.write_all(&[22, 3, 1, 2, 0]).await;
        }
        held.push(stream);
    }
    held
}

async fn half_open_connections_hold_up_nobody(test: Arc<Test>) {
    let network = Network::new(&test, "").await;
    let context = test.context("context", &[("Dockerfile", DOCKERFILE)]);
    let job = network.job(&test, Some(&network.authority.issue("agent", &["agent"])));
    let alone = timed(&job, &context).await;
    // Each of these would have ten seconds for its handshake: one after the other they would take hours.
    let mut held = half_open(network.address, "127.0.0.9", 2000).await;
    let beside = timed(&job, &context).await;
    assert!(beside < alone * 4 + Duration::from_secs(2), "{alone:?} alone, {beside:?} beside them");
    // From the same address, and from as many addresses as it takes to use up the places of all.
    held.extend(half_open(network.address, "127.0.0.1", 100).await);
    for host in 10..16 {
        held.extend(half_open(network.address, &format!("127.0.0.{host}"), 100).await);
    }
    let beside = timed(&job, &context).await;
    assert!(beside < alone * 4 + Duration::from_secs(2), "{alone:?} alone, {beside:?} beside them");
    // At most the places of one address are left of it.
    let open = || held.iter().take(2000).filter(|stream| is_open(stream)).count();
    wait_for("the others to be closed", async || (open() <= 64).then_some(())).await;
    let log = network.wharfd.log().join("\n");
    assert!(
        log.contains("has too many")
            && log.contains("owner=\"a source that has proven nothing\"")
            && log.contains(&format!("listener=\"tcp://{}\"", network.address))
            && log.contains("127.0.0.9"),
        "{log}"
    );
}

/// Whether the other end has not closed.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn a_renewed_certificate_is_taken_up(test: Arc<Test>) {
    let network = Network::new(&test, "").await;
    let job = network.job(&test, Some(&network.authority.issue("agent", &["agent"])));
    job.run(["images"]).await.ok();
    let said = async |what: &'static str| {
        wait_for(what, async || network.wharfd.log().iter().any(|line| line.contains(what)).then_some(()))
            .await;
    };
    // A key that is not the certificate's: the old pair stays.
    let other = network.authority.issue("other", &["localhost"]);
    let kept = fs::read(&network.server.key).unwrap();
    fs::copy(&other.key, &network.server.key).unwrap();
    said("the old ones stay in use").await;
    job.run(["images"]).await.ok();
    fs::write(&network.server.key, kept).unwrap();

    // Another authority for both ends.
    let renewed = Authority::new(&test.new_dir("renewed"));
    let server = renewed.issue("server", &["127.0.0.1"]);
    fs::copy(renewed.file(), network.authority.file()).unwrap();
    fs::copy(&server.key, &network.server.key).unwrap();
    fs::copy(&server.certificate, &network.server.certificate).unwrap();
    said("new connections use them").await;
    // The file of the authority that the job trusts is the renewed one's.
    job.run(["images"]).await.ended(4).says(&["refuses the client certificate"]);
    network.job(&test, Some(&renewed.issue("agent", &["agent"]))).run(["images"]).await.ok();
    let lines = network.wharfd.log();
    let complaints = lines.iter().filter(|line| line.contains("the old ones stay in use"));
    assert!(complaints.count() <= 3, "said once for each mistake: {lines:?}");
}
