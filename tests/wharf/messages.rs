//! The messages that users and operators see, collected in `messages.txt`, so that a changed message is read beside the
//! others. `WHARF_DOCS=write` regenerates the file. The messages without a scene are in `messages_not_shown.txt`:
//! `tests/layout/messages.rs` finds them.

use std::{env, fmt::Write as _, fs, sync::Arc};

use crate::harness::{
    Issuer, PATIENCE, Test, Wharf, Wharfd, cases,
    process::{Output, command},
    registry::{Broken, BrokenRegistry},
};

cases![the_page_is_up_to_date];

/// A command whose messages are recorded, with the Dockerfile of its context.
struct Scene {
    /// Empty if the build has no Dockerfile, or the command is not a build.
    dockerfile: &'static str,
    /// `CONTEXT`, `REGISTRY`, `PRIVATE`, `DOWN` and `FAILING` stand for paths and addresses of the test. Variables may
    /// stand before it: `NAME=VALUE`.
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
    run("DOCKER_DEFAULT_PLATFORM=pdp11 build ."),
    run("DOCKER_DEFAULT_PLATFORM=linux/amd64,linux/arm64 build ."),
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
    run("build . -t 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    run("build . --login reg=USER"),
    run("build . --login reg.example=NOT_SET:NOT_SET"),
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
    run("--namespace a\u{7}b#1 images"),
    run("--namespace a\\u{61}b#1 images"),
    run("push a:b:c"),
    run("push app:a/b"),
    run("--token-file /nowhere/token images"),
    run("--namespace a#1 namespace rm b#1"),
    run("namespace inspect none#1"),
    run("man /nowhere/man"),
    run("build -q --progress plain ."),
    run("build --progress fancy ."),
    run("build /dev/null"),
    run("build -f - -"),
    run("build . --output type=image,push=true"),
    run("build . --secret id=s,src=/nowhere/s"),
    run("build . --secret id=s,src=/"),
    run("save -o /nowhere/app.tar app:1"),
    run("login --username me --password-stdin REGISTRY"),
    // Images of the namespace.
    run("inspect app:1"),
    run("inspect cafe"),
    run("save app:1"),
    run("tag app:1 app:2"),
    run("rmi app:1"),
    run("push REGISTRY/app:1"),
    run("namespace rm #1"),
    // Registries.
    run("pull REGISTRY/none:1"),
    run("pull PRIVATE/none:1"),
    run("DOCKER_DEFAULT_PLATFORM=linux/s390x pull REGISTRY/base:1"),
    run("DOCKER_AUTH_CONFIG=nonsense pull REGISTRY/none:1"),
    run("WHARF_LOGIN=USER:PASSWORD pull REGISTRY/none:1"),
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
    build(FINE, "build -q --network other CONTEXT"),
    build(FINE, "build -q --add-host db=host-gateway CONTEXT"),
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

/// Under [`POLICY`], in the namespace `acme/app#1`.
const DENIED: &[Scene] = &[
    run("pull REGISTRY/denied:1"),
    run("--namespace other#1 pull REGISTRY/base:1"),
    build("FROM REGISTRY/denied:1\n", "build -q CONTEXT"),
    build("FROM scratch\nADD https://files.example/x /\n", "build -q CONTEXT"),
    build(FINE, "build -q --push -t REGISTRY/app:1 CONTEXT"),
    build("FROM REGISTRY/base:1\nRUN true\n", "build -q CONTEXT"),
];

const POLICY: &str =
    "[[policy]]\nname = \"acme\"\njobs = [\"acme/*\"]\npull = [\"REGISTRY/base\"]\nnetworks = [\"none\"]\n";

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
    ("", "--listen unix://relative"),
    ("", "--listen unix:///"),
    ("", "--listen unix:///run/w --listen unix:///run/w"),
    ("", "--state-dir relative"),
    ("", "--client-dir relative"),
    ("", "--frontend-file relative"),
    ("", "--metrics-listen nonsense"),
    ("[metrics]\nnonsense = 1\n", "--config FILE"),
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
    ("[[serve]]\nnamespaces = \"*\"\n", "--config FILE"),
    ("[[serve]]\ntoken = \"ci\"\nsha256 = \"x\"\nnamespaces = \"*\"\n", "--config FILE"),
    ("[[serve]]\nissuer = \"none\"\nnamespaces = \"*\"\n", "--config FILE"),
    ("[[serve]]\nissuer = \"pods\"\nnamespaces = \"*\"\n", "--config FILE"),
    ("[[serve]]\nuid = 0\nnamespaces = \"\"\n", "--config FILE"),
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
    ("", "--listen unix://FILE --state-dir DIR --engine unix://DIR/none"),
    // None of these gets as far as the rules of this machine.
    ("", "firewall --help"),
    ("", "firewall --allow somewhere"),
    ("", "firewall --allow 10.0.0.1/8"),
    ("", "firewall --allow 10.0.0.5:https"),
    ("", "firewall --bridge 198.18.0.0/22"),
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
    let names = [
        ("REGISTRY", registry.host().to_owned()),
        ("PRIVATE", private.host().to_owned()),
        ("DOWN", down.host().to_owned()),
        ("FAILING", failing.host().to_owned()),
    ];
    let mut page = scenes(&test, &Wharf::new(&test, &wharfd, "job#1"), SCENES, &names).await;
    let denying = test.wharfd_with(Some(&filled(POLICY, &names)), &[]).await;
    page.push_str(&scenes(&test, &Wharf::new(&test, &denying, "acme/app#1"), DENIED, &names).await);
    let stranger = Wharf::new(&test, &denying, "acme/app#1").as_uid(1000);
    page.push_str(&scenes(&test, &stranger, &[run("images")], &names).await);
    let issuer = Issuer::new(&test, "ci");
    let proving = test.wharfd_with(Some(&issuer.config("*")), &[]).await;
    let over = Wharf::new(&test, &proving, "app#1").as_uid(1000).with_token(&issuer.token("app", 1));
    over.run(["namespace", "rm"]).await.ok();
    page.push_str(&scenes(&test, &over, &[run("images")], &names).await);
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

fn filled(text: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The messages of the scenes of a job.
async fn scenes(test: &Test, job: &Wharf, scenes: &[Scene], names: &[(&str, String)]) -> String {
    let mut page = String::new();
    for scene in scenes {
        let mut names = names.to_vec();
        let dockerfile = filled(scene.dockerfile, &names);
        let files = [("Dockerfile", dockerfile.as_str())];
        let context = test.context(&test.unique("scene"), if dockerfile.is_empty() { &[] } else { &files });
        names.push(("CONTEXT", context.display().to_string()));
        let command = filled(scene.command, &names);
        let (variables, words) = parts(&command);
        let mut start = job.command(words);
        start.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
        let ended = Output::of(start, b"", PATIENCE).await;
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
        let (variables, words) = parts(scene.command);
        let shown = [&variables[..], &["wharf"], &words[..]].concat().join(" ");
        writeln!(page, "$ {}\n{}\n[{}]\n", wharf::names::printable(&shown), said.join("\n"), ended.status)
            .unwrap();
    }
    page
}

/// The variables before a command, and its words.
fn parts(command: &str) -> (Vec<&str>, Vec<&str>) {
    let is_variable = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase()) && word.contains('=');
    let words: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
    let (variables, words) = words.split_at(words.iter().copied().take_while(is_variable).count());
    (variables.to_vec(), words.to_vec())
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
