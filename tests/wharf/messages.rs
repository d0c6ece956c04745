//! The messages that users and operators see, collected in `messages.txt`, so that a changed message is read beside the
//! others. `WHARF_DOCS=write` regenerates the file.

use std::{env, fmt::Write as _, fs, sync::Arc};

use crate::harness::{
    PATIENCE, Test, Wharf, Wharfd, cases,
    process::{Output, command},
    registry::{Broken, BrokenRegistry},
};

cases![the_page_is_up_to_date];

/// A command whose messages are recorded, with the Dockerfile of its context.
struct Scene {
    /// Empty if the build has no Dockerfile, or the command is not a build.
    dockerfile: &'static str,
    /// `CONTEXT`, `REGISTRY`, `PRIVATE`, `DOWN` and `FAILING` stand for paths and addresses of the test.
    command: &'static str,
}

const fn run(command: &'static str) -> Scene {
    Scene { dockerfile: "", command }
}

const fn build(dockerfile: &'static str, command: &'static str) -> Scene {
    Scene { dockerfile, command }
}

const FINE: &str = "FROM scratch\nCOPY Dockerfile /\n";

const SCENES: &[Scene] = &[
    // The command line.
    run("frobnicate"),
    run("build"),
    run("build . --no-cache=yes"),
    run("build . --platform pdp11"),
    run("build . --platform linux/amd64,linux/arm64"),
    run("build . --shm-size big"),
    run("build . --ulimit nofiles=1"),
    run("build . --add-host db"),
    run("build . --build-arg =1"),
    run("build . --secret src=x"),
    run("build . --secret id=s,env=NOT_SET"),
    run("build . --cache-from x"),
    run("build . --builder other"),
    run("build . --output type=local"),
    run("build . --output out,x"),
    run("build . --output out --iidfile id"),
    run("build . --output type=registry"),
    run("build . --output - --output type=oci"),
    run("build . --ssh default"),
    run("build . -t Foo/Bar"),
    run("build . -t app@sha256:aa"),
    run("build . --login reg=USER"),
    run("build https://example.com/x.git"),
    run("build no/such/directory"),
    run("build -f nope ."),
    run("--addr tcp://127.0.0.1:1 images"),
    run("--addr tcp://127.0.0.1 images"),
    run("--addr http://127.0.0.1:1 images"),
    run("--addr tcp://127.0.0.1:1 --tlscert /nowhere/cert.pem images"),
    run("--addr tcp://127.0.0.1:1 --tlscacert /dev/null images"),
    run("--dangerous-plain-tcp images"),
    run("--addr unix:///nowhere/wharf.sock images"),
    run("--namespace #1 images"),
    run("push a:b:c"),
    // Images of the namespace.
    run("inspect app:1"),
    run("tag app:1 app:2"),
    run("rmi app:1"),
    run("push REGISTRY/app:1"),
    run("namespace rm #1"),
    // Registries.
    run("pull REGISTRY/none:1"),
    run("pull PRIVATE/none:1"),
    run("pull DOWN/app:1"),
    run("pull wharf.invalid/x"),
    run("pull FAILING/app:1"),
    build(FINE, "build -q --push -t PRIVATE/app:1 CONTEXT"),
    build(FINE, "build -q --push -t DOWN/app:1 CONTEXT"),
    build(FINE, "build -q --push -t app CONTEXT"),
    build(FINE, "build -q -t wharf.invalid/x CONTEXT"),
    // Dockerfiles.
    build("", "build -q CONTEXT"),
    build("FROM scratch\nCOPPY a b\n", "build -q CONTEXT"),
    build("FROM scratch\nCOPY missing /\n", "build -q CONTEXT"),
    build("FROM scratch AS one\nCOPY Dockerfile /\n", "build -q --target two CONTEXT"),
    build("FROM REGISTRY/none:1\n", "build -q CONTEXT"),
    build("FROM scratch\nCOPY --from=PRIVATE/none:1 /a /a\n", "build -q CONTEXT"),
    build(FINE, "build -q --platform linux/s390x CONTEXT"),
    build("FROM scratch\nADD http://169.254.169.254/latest /\n", "build -q CONTEXT"),
    build("FROM scratch\nADD http://127.0.0.1:1/x /\n", "build -q CONTEXT"),
    build("FROM scratch\nADD http://nobody.invalid/x /\n", "build -q CONTEXT"),
    build("FROM scratch\nADD https://github.com/moby/buildkit.git /\n", "build -q CONTEXT"),
    build("ARG A\n", "build -q CONTEXT"),
    // Steps.
    build("FROM REGISTRY/base:1\nRUN echo because >&2; exit 42\n", "build -q CONTEXT"),
    build("FROM REGISTRY/base:1\nRUN --network=host true\n", "build -q CONTEXT"),
    build("FROM REGISTRY/base:1\nRUN --security=insecure true\n", "build -q CONTEXT"),
    build("FROM REGISTRY/base:1\nRUN --mount=type=secret,id=s,required=true true\n", "build -q CONTEXT"),
    build(FINE, "build -q --network host CONTEXT"),
    // Seldom.
    build("FROM wharf.invalid/x\n", "build -q CONTEXT"),
    build("FROM REGISTRY/base:1\nRUN --mount=type=ssh,required=true true\n", "build -q CONTEXT"),
    run("tag app:1 app@sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    run("login --username me REGISTRY"),
    // The doctor's result is what it says.
    run("--addr unix:///nowhere/wharf.sock doctor"),
    run("--addr unix:///dev/null doctor"),
    run("--addr tcp://127.0.0.1:1 --dangerous-plain-tcp doctor"),
];

/// Starts of wharfd that end at once: the configuration, and flags with `FILE`, the configuration's file, and `DIR`, an
/// empty directory. `STATE` and `SOCKET` belong to a wharfd that runs.
const STARTS: &[(&str, &str)] = &[
    ("", "--help"),
    ("", "--frobnicate"),
    ("", "--listen tcp://0.0.0.0:1"),
    ("", "--listen tcp://localhost:1"),
    ("", "--listen http://0.0.0.0:1"),
    ("[tls]\ncertificate = \"c.pem\"\nkey = \"/k.pem\"\n", "--config FILE"),
    (
        "[tls]\ncertificate = \"/nowhere/c.pem\"\nkey = \"/nowhere/k.pem\"\n",
        "--listen tcp://127.0.0.1:0 --config FILE",
    ),
    ("[tls]\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\n", "--dangerous-plain-tcp --config FILE"),
    ("[[serve]]\ncertificate = \"agent\"\nnamespaces = \"*\"\n", "--config FILE"),
    ("", "--listen-mode 999"),
    ("", "--listen-group no-such-group"),
    ("", "--engine tcp://127.0.0.1:2375"),
    ("", "--grace-period soon"),
    ("", "--namespace-ttl 30s"),
    ("", "--log-level loud"),
    ("", "--audit-log audit.jsonl"),
    ("", "--config DIR/none.toml"),
    ("nonsense = 1\n", "--config FILE"),
    ("[[serve]]\nuid = \"me\"\nnamespaces = \"*\"\n", "--config FILE"),
    ("[[serve]]\nuid = 0\n", "--config FILE"),
    ("[[serve]]\nuid = 0\nnamespaces = \"a*b\"\n", "--config FILE"),
    ("[[serve]]\nuid = 0\nnamespaces = \"*\"\nengine = \"none\"\n", "--config FILE"),
    ("[engines.\"a/b\"]\nsocket = \"unix:///x\"\n", "--config FILE"),
    ("", "--listen unix://DIR/w --state-dir STATE"),
    ("", "--listen unix://DIR/w --state-dir FILE"),
    ("", "--listen unix://DIR/w --state-dir DIR --audit-log DIR/none/audit.jsonl"),
    (
        "[[serve]]\nuid = 0\nnamespaces = \"*\"\n",
        "--listen unix://DIR/w --state-dir DIR --config FILE --frontend-file DIR/none",
    ),
    ("", "--listen unix://DIR/w --state-dir DIR --engine unix://DIR/none --client-dir FILE"),
    ("", "--listen unix://SOCKET --state-dir DIR --engine unix://DIR/none"),
];

/// The messages of wharfd when it does not start.
async fn starts(test: &Test, wharfd: &Wharfd) -> String {
    let mut page = String::new();
    for (config, flags) in STARTS {
        let dir = test.new_dir("start");
        let file = test.dir().join("start.toml");
        fs::write(&file, config).unwrap();
        let names = [
            ("DIR", dir.display().to_string()),
            ("FILE", file.display().to_string()),
            ("STATE", wharfd.state_dir().display().to_string()),
            ("SOCKET", wharfd.socket().display().to_string()),
        ];
        let filled = names.iter().fold((*flags).to_owned(), |text, (name, value)| text.replace(name, value));
        let mut start = command(env!("CARGO_BIN_EXE_wharfd"));
        start.env_clear().args(filled.split(' '));
        let ended = Output::of(start, b"", PATIENCE).await;
        let said = names.iter().fold(format!("{}{}", ended.stdout, ended.stderr), |said, (name, value)| {
            said.replace(value, name)
        });
        // Of the log, only the error.
        let said = said.trim().lines().filter_map(|line| match line.split_once("Z ") {
            Some((_, line)) => line.trim_start().strip_prefix("ERROR ").map(|line| format!("ERROR {line}")),
            None => Some(line.trim_end().to_owned()),
        });
        for line in config.lines() {
            writeln!(page, "    {line}").unwrap();
        }
        let said: Vec<_> = said.collect();
        writeln!(page, "$ wharfd {flags}\n{}\n[{}]\n", said.join("\n"), ended.status).unwrap();
    }
    page
}

async fn the_page_is_up_to_date(test: Arc<Test>) {
    let (registry, private, down, wharfd) = tokio::join!(
        test.registry(),
        test.private_registry("user", "password"),
        test.registry(),
        test.wharfd_with_frontend_on(&test.engine)
    );
    let base = test.base(&registry).await;
    assert_eq!(base, registry.name("base:1"));
    down.end().await;
    let failing = BrokenRegistry::start(Broken::Unavailable).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let mut page = String::new();
    for (number, scene) in SCENES.iter().enumerate() {
        let mut names = vec![
            ("REGISTRY", registry.host().to_owned()),
            ("PRIVATE", private.host().to_owned()),
            ("DOWN", down.host().to_owned()),
            ("FAILING", failing.host().to_owned()),
        ];
        let filled = |text: &str, names: &[(&str, String)]| {
            names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
        };
        let dockerfile = filled(scene.dockerfile, &names);
        let files = [("Dockerfile", dockerfile.as_str())];
        let context =
            test.context(&format!("scene{number}"), if dockerfile.is_empty() { &[] } else { &files });
        names.push(("CONTEXT", context.display().to_string()));
        let command = filled(scene.command, &names);
        let ended = job.run(command.split(' ').filter(|word| !word.is_empty())).await;
        for line in scene.dockerfile.lines() {
            writeln!(page, "    {line}").unwrap();
        }
        let mut said = ended.stderr;
        if command.ends_with(" doctor") {
            names.push(("HOME", job.home().display().to_string()));
            said.insert_str(0, &ended.stdout);
        }
        for (name, value) in &names {
            said = said.replace(value, name);
        }
        let said: Vec<String> = said.trim().lines().map(without_chance).collect();
        writeln!(page, "$ wharf {}\n{}\n[{}]\n", scene.command, said.join("\n"), ended.status).unwrap();
    }
    page.push_str(&starts(&test, &wharfd).await);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wharf/messages.txt");
    if env::var_os("WHARF_DOCS").is_some_and(|what| what == "write") {
        fs::write(path, &page).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    let differs = page.lines().zip(written.lines()).find(|(now, then)| now != then);
    assert!(
        page == written,
        "messages.txt is out of date, {differs:?}: run `WHARF_DOCS=write WHARF_TEST_ENGINE=26 cargo test --test wharf -- \
         the_page`"
    );
}

/// The line without BuildKit's ids, and without the time before a step's output.
fn without_chance(line: &str) -> String {
    if let Some((before, rest)) = line.split_once(" of ref ") {
        let (_, after) = rest.split_once(": ").unwrap_or_default();
        return format!("{before} of ref ID: {after}");
    }
    match line.split_once(' ') {
        Some((time, text)) if time.parse::<f64>().is_ok() => format!("TIME {text}"),
        _ => line.to_owned(),
    }
}
