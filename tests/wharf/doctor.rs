//! `wharf doctor`: each thing that can be wrong is told, with what to do about it.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::harness::{Issuer, Test, Wharf, cases, issuer::seconds, process::install};

cases![
    nothing_is_wrong,
    an_address_without_wharfd,
    a_wharfd_that_does_not_answer,
    a_caller_who_is_refused,
    an_engine_that_is_down,
    a_docker_config_that_is_broken,
];

/// A user that has no entry of its own.
const AGENT: u32 = 1003;
/// A password, a token's signature and the like.
const SECRET: &str = "hunter2";

/// The checks, each `[subject, state, text, hint]`.
struct Checks(Vec<[String; 4]>);

impl Checks {
    /// Runs the doctor, which ends with 1 if a check fails.
    async fn of(job: &Wharf, args: &[&str]) -> Self {
        let output = job.run([args, &["doctor", "--format=json"]].concat()).await;
        let rows = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let checks = Self(
            rows.map(|row| {
                ["Check", "State", "Text", "Hint"].map(|key| row[key].as_str().unwrap_or_default().to_owned())
            })
            .collect(),
        );
        let failed = checks.0.iter().filter(|[_, state, ..]| state == "failed").count();
        assert_eq!(output.status, i32::from(failed > 0), "{output}");
        assert_eq!(output.stderr.contains(" failed: "), failed > 0, "{output}");
        for [subject, state, text, hint] in &checks.0 {
            assert!(["ok", "warning", "failed", "skipped"].contains(&state.as_str()), "{output}");
            assert!(!text.is_empty(), "{output}");
            // Of each thing that is wrong it says what to do.
            assert_eq!(
                !hint.is_empty(),
                ["warning", "failed"].contains(&state.as_str()),
                "{subject}: {output}"
            );
        }
        for shown in [&output.stdout, &output.stderr] {
            assert!(!shown.contains(SECRET), "{output}");
        }
        checks
    }

    /// Checks that a subject has this state, and a text or hint with these words.
    #[track_caller]
    fn say(&self, subject: &str, state: &str, words: &str) -> &Self {
        let told = self.0.iter().any(|[known, is, text, hint]| {
            known == subject && is == state && (text.contains(words) || hint.contains(words))
        });
        assert!(told, "{subject} is not {state} with `{words}`: {:#?}", self.0);
        self
    }

    #[track_caller]
    fn skip(&self, subjects: &[&str]) {
        for subject in subjects {
            self.say(subject, "skipped", "");
        }
    }
}

const OF_THE_NODE: [&str; 6] = ["identity", "namespace", "policy", "engine", "disk", "clock"];

fn configure(job: &Wharf, text: &str) {
    let directory = job.home().join("docker");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.json"), text).unwrap();
}

async fn nothing_is_wrong(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "acme/app#1");
    configure(&job, "{}");
    let checks = Checks::of(&job, &[]).await;
    checks
        .say("address", "ok", "of WHARF_ADDR")
        .say("socket", "ok", "may connect")
        .say("connection", "ok", env!("CARGO_PKG_VERSION"))
        .say("identity", "ok", "uid 0")
        .say("namespace", "ok", "acme/app#1")
        .say("policy", "ok", "built-in")
        .say("engine", "ok", "image store")
        .say("clock", "ok", "that of this machine")
        .say("docker config", "ok", "no logins");
    assert!(checks.0.iter().all(|[_, state, ..]| state == "ok" || state == "warning"), "{:#?}", checks.0);
    let table = job.run(["doctor"]).await.ok().stdout;
    assert_eq!(table.lines().filter(|line| !line.contains(" hint: ")).count(), checks.0.len(), "{table}");
    assert!(table.starts_with("ok       address "), "{table}");
    let with_addr = ["--addr", &wharfd.address()];
    Checks::of(&job.at("unix:///nowhere"), &with_addr).await.say("address", "ok", "of --addr");
}

async fn an_address_without_wharfd(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let places = test.new_dir("places");
    let at = |name: &str| job.at(&format!("unix://{}", places.join(name).display()));
    fs::create_dir(places.join("directory")).unwrap();
    fs::write(places.join("file"), "").unwrap();
    for (name, words) in [
        ("none", "there is nothing at"),
        ("gone/run/wharf.sock", "/gone`"),
        ("file/wharf.sock", "/file`"),
        ("directory", "is a directory, not a socket"),
        ("file", "is a file, not a socket"),
    ] {
        let checks = Checks::of(&at(name), &[]).await;
        checks.say("address", "ok", name).say("socket", "failed", words).skip(&OF_THE_NODE);
        checks.skip(&["connection"]);
    }
    // A socket that nobody serves any more.
    drop(UnixListener::bind(places.join("stale")).unwrap());
    let checks = Checks::of(&at("stale"), &[]).await;
    checks.say("socket", "ok", "").say("connection", "failed", "nothing is listening").skip(&OF_THE_NODE);

    let agent = job.as_uid(AGENT);
    fs::set_permissions(wharfd.socket(), Permissions::from_mode(0o660)).unwrap();
    let words = format!("mode 0660, owner 0, group 0: uid {AGENT}, gid {AGENT} may not connect");
    Checks::of(&agent, &[]).await.say("socket", "failed", &words).skip(&["connection"]);
    let closed = test.new_dir("closed");
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let address = format!("unix://{}", closed.join("wharf.sock").display());
    Checks::of(&agent.at(&address), &[]).await.say("socket", "failed", "cannot be looked at by uid 1003");

    for address in ["http://127.0.0.1:1", "tcp://127.0.0.1", "unix://relative"] {
        Checks::of(&job.at(address), &[]).await.say("address", "failed", "").skip(&["connection"]);
    }
    let checks = Checks::of(&job.at("tcp://127.0.0.1:1"), &["--dangerous-plain-tcp"]).await;
    checks.say("address", "warning", "without TLS").say("connection", "failed", "nothing is listening there");
    let checks = Checks::of(&job.at("tcp://127.0.0.1:1"), &[]).await;
    checks.say("address", "ok", "TLS without a client certificate").say("connection", "failed", "nothing is");
    let no_key = ["--tlscert", "/nowhere/cert.pem"];
    Checks::of(&job.at("tcp://127.0.0.1:1"), &no_key).await.say("address", "failed", "belong together");
    let no_authority = ["--tlscacert", "/nowhere/ca.pem"];
    Checks::of(&job.at("tcp://127.0.0.1:1"), &no_authority).await.say("address", "failed", "/nowhere/ca.pem");
}

async fn a_wharfd_that_does_not_answer(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    // A listener that accepts nobody.
    let socket = test.new_dir("silent").join("wharf.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let checks = Checks::of(&job.at(&format!("unix://{}", socket.display())), &[]).await;
    checks.say("socket", "ok", "").say("connection", "failed", "not answer").skip(&OF_THE_NODE);
}

async fn a_caller_who_is_refused(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let config = format!(
        "{}[[serve]]\nuid = 1004\nnamespaces = \"acme/*\"\n[[policy]]\nname = \"shop\"\njobs = [\"acme/shop\"]\n",
        issuer.config("acme/*")
    );
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let agent = Wharf::new(&test, &wharfd, "acme/app#1").as_uid(AGENT);
    let checks = Checks::of(&agent, &[]).await;
    checks
        .say("connection", "ok", "answers")
        .say("identity", "failed", &format!("uid {AGENT} is not served here"))
        .say("clock", "ok", "")
        .skip(&["namespace", "policy", "engine", "disk"]);

    let served = Wharf::new(&test, &wharfd, "other#1").as_uid(1004);
    let checks = Checks::of(&served, &[]).await;
    checks
        .say("identity", "ok", "you are uid 1004, and may act in acme/*")
        .say("namespace", "failed", "other#1")
        .say("engine", "ok", "")
        .skip(&["policy"]);
    Checks::of(&served, &["--namespace", "#1"]).await.say("namespace", "failed", "job is empty");
    let checks = Checks::of(&served.in_namespace("acme/app#1"), &[]).await;
    checks.say("namespace", "ok", "acme/app#1").say(
        "policy",
        "failed",
        "no `[[policy]]` entry is for the job",
    );
    Checks::of(&served.in_namespace("acme/shop#1"), &[]).await.say("policy", "ok", "`shop`");

    let now = seconds();
    let with = |changes: Value| agent.with_token(&issuer.token_with("acme/shop", 7, changes));
    let checks = Checks::of(&with(json!({})), &[]).await;
    checks
        .say("token", "ok", "of WHARF_TOKEN; it expires in ")
        .say("identity", "ok", "job ci:acme/shop")
        .say("namespace", "ok", "ci:acme/shop#7");
    let checks = Checks::of(&with(json!({"exp": now - 3600})), &[]).await;
    checks
        .say("token", "failed", "has expired 36")
        .say("identity", "failed", "has expired")
        .say("clock", "ok", "");
    let checks = Checks::of(&with(json!({"iat": now + 600})), &[]).await;
    checks.say("token", "warning", "from now").say("identity", "failed", "");
    let checks = Checks::of(&with(json!({"aud": "other"})), &[]).await;
    checks.say("token", "ok", "").say("identity", "failed", "not for this service");
    let checks = Checks::of(&agent.with_token(&format!("a-static-token-{SECRET}-0123456789")), &[]).await;
    checks.say("token", "ok", "does not tell").say("identity", "failed", "not known here");
    let checks = Checks::of(&agent, &["--token-file", "/nowhere/token"]).await;
    checks.say("token", "failed", "/nowhere/token").skip(&["connection"]);
    let checks = Checks::of(&agent.with_token(&format!("two {SECRET}")), &[]).await;
    checks.say("token", "failed", "not one token").skip(&OF_THE_NODE);
}

async fn an_engine_that_is_down(test: Arc<Test>) {
    let second = test.dir().join("second.sock");
    let config = format!(
        "default_engine = \"first\"\n[engines.first]\nsocket = \"unix://{}\"\n\
         [engines.second]\nsocket = \"unix://{}\"\n[[serve]]\nuid = 1000\nnamespaces = \"*\"\nengine = \"second\"\n",
        test.engine.socket().display(),
        second.display()
    );
    let wharfd = test.wharfd_as_it_ships(Some(&config)).await;
    let theirs = Wharf::new(&test, &wharfd, "theirs#1").as_uid(1000);
    let checks = Checks::of(&theirs, &[]).await;
    checks.say("engine", "failed", "`second`, is down").say("policy", "ok", "").skip(&["disk"]);
    let ours = Wharf::new(&test, &wharfd, "user/root#1");
    let checks = Checks::of(&ours, &[]).await;
    checks.say("engine", "ok", "`first`").say("engine", "warning", "another engine, `second`, is down");
}

async fn a_docker_config_that_is_broken(test: Arc<Test>) {
    let wharfd = test.wharfd().await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let of = async |text: &str| {
        configure(&job, text);
        Checks::of(&job, &[]).await
    };
    Checks::of(&job, &[]).await.say("docker config", "warning", "DOCKER_CONFIG is set, but there is no");
    Checks::of(&job.with_variable("DOCKER_CONFIG", ""), &[]).await.say(
        "docker config",
        "ok",
        "there is none at",
    );
    of(&format!("{{\"auths\": {{\"r.example\": \"{SECRET}\"}}}}")).await.say(
        "docker config",
        "failed",
        "config.json:1",
    );
    of(&format!("{{\"auths\": {{\"r.example\": {{\"auth\": \"{SECRET}!\"}}, \"o.example\": {{}}}}}}"))
        .await
        .say("docker config", "ok", "logins for o.example, r.example")
        .say("docker config", "failed", "`auth` of `r.example` is not base64");
    let helpers = "{\"credHelpers\": {\"r.example\": \"absent-one\", \"h.example\": \"here\"}, \"credsStore\": \"absent-all\"}";
    let programs = test.new_dir("programs");
    install(Path::new("/bin/true"), &programs.join("docker-credential-here"));
    configure(&job, helpers);
    let path = format!("{}:/usr/bin:/bin", programs.display());
    Checks::of(&job.with_variable("PATH", &path), &[])
        .await
        .say(
            "helper",
            "failed",
            "`docker-credential-absent-one` is not on PATH; docker's config names it for r.example",
        )
        .say(
            "helper",
            "failed",
            "`docker-credential-absent-all` is not on PATH; docker's config names it for every registry",
        )
        .say("helper", "ok", "docker-credential-here`, for h.example");
    of("{\"credsStore\": \"../evil\"}").await.say("helper", "failed", "../evil");
    configure(&job, "{}");
    let login = job.with_variable("WHARF_LOGIN", "r.example=R_USER:R_PASSWORD").with_variable("R_USER", "me");
    Checks::of(&login, &[]).await.say("login", "failed", "R_PASSWORD is not set");
    let login = login.with_variable("R_PASSWORD", SECRET);
    Checks::of(&login, &[]).await.say("login", "ok", "WHARF_LOGIN has logins for r.example");
    // A home of another user.
    let agent = job.as_uid(AGENT).with_variable("DOCKER_CONFIG", "");
    fs::create_dir(job.home().join(".docker")).unwrap();
    fs::set_permissions(job.home().join(".docker"), Permissions::from_mode(0o700)).unwrap();
    Checks::of(&agent, &[]).await.say("docker config", "warning", "cannot be read");
}
