//! Namespaces that nobody ends, and the list of those that there are.

use std::{path::PathBuf, sync::Arc};

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;
use wharf::names::Namespace;

use crate::{
    audit::{events, is_documented},
    cancel::Endless,
    harness::{Issuer, Test, Wharf, Wharfd, cases, issuer::seconds, wait_for},
};

cases![
    a_namespace_that_nobody_uses_ends,
    a_namespace_ends_even_if_its_name_is_lost,
    a_token_does_not_reach_what_comes_after_an_unused_namespace,
    a_caller_lists_its_own_namespaces,
];

/// Users with an entry of their own, and without.
const TEAM: u32 = 1001;
const AGENT: u32 = 1003;

fn config(namespaces: &str) -> String {
    format!("[[serve]]\nuid = {TEAM}\nnamespaces = \"{namespaces}\"\n")
}

fn context(test: &Test) -> PathBuf {
    test.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])
}

/// Makes all namespaces look as if nobody had used them for two days.
fn age(wharfd: &Wharfd) {
    let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    store.execute("UPDATE namespaces SET used = used - 2 * 24 * 3600", []).unwrap();
}

/// How many of the namespace's names the engine has.
async fn names(test: &Test, wharfd: &Wharfd, namespace: &str) -> usize {
    let namespace = Namespace::parse(namespace).unwrap();
    test.engine.names_with_prefix(wharfd.keys().names(&namespace).prefix()).await.len()
}

async fn ended(test: &Test, wharfd: &Wharfd, namespace: &str) {
    let gone = async || (names(test, wharfd, namespace).await == 0).then_some(());
    wait_for(&format!("the end of {namespace}"), gone).await;
}

async fn a_namespace_that_nobody_uses_ends(test: Arc<Test>) {
    let path = test.dir().join("audit.jsonl");
    let config = format!("audit_log = {path:?}\n");
    let (endless, wharfd) = tokio::join!(Endless::new(&test), test.wharfd_with(Some(&config), &[]));
    let context = context(&test);
    let [left, busy] = ["left#1", "busy#1"].map(|name| Wharf::new(&test, &wharfd, name));
    for job in [&left, &busy] {
        job.build_id(&context, &["-t", "app:1", "-t", "app:2"]).await;
    }
    let build = endless.start(&busy);
    endless.runs(&build).await;
    age(&wharfd);
    ended(&test, &wharfd, "left#1").await;
    assert!(names(&test, &wharfd, "busy#1").await >= 2, "a build runs there");
    let recorded = async || events(&path).into_iter().find(|event| event["event"] == "namespace_ended");
    let recorded = wait_for("the event of the end", recorded).await;
    is_documented(&recorded);
    assert_eq!((&recorded["namespace"]["job"], &recorded["images"]), (&"left".into(), &1.into()));
    assert_eq!(left.images().await, []);
    assert!(left.run(["namespace", "ls", "-q"]).await.ok().stdout.lines().eq(["busy#1"]));
    // Its name can be used again.
    left.build_id(&context, &["-t", "app:1"]).await;

    build.signal(Signal::INT);
    endless.gone().await;
    build.wait(std::time::Duration::from_secs(60)).await.unwrap();
    age(&wharfd);
    for namespace in ["busy#1", "left#1"] {
        ended(&test, &wharfd, namespace).await;
    }
    let said =
        |line: &String| line.contains("a namespace that nobody uses has ended") && line.contains("busy#1");
    wait_for("a line of the log", async || wharfd.log().iter().any(said).then_some(())).await;
    // A namespace is forgotten once all that it had is gone.
    let none = async || left.run(["namespace", "ls", "-q"]).await.ok().stdout.is_empty().then_some(());
    wait_for("the list to be empty", none).await;
}

/// Without its store wharfd has only the hashes of the namespaces' names, in the engine.
async fn a_namespace_ends_even_if_its_name_is_lost(test: Arc<Test>) {
    let wharfd = test.wharfd_as_it_ships(Some(&config("*"))).await;
    let context = context(&test);
    let [lost, used] = ["lost#1", "used#1"].map(|name| Wharf::new(&test, &wharfd, name).as_uid(TEAM));
    let operator = Wharf::new(&test, &wharfd, "lost#1");
    for job in [&lost, &used] {
        job.build_id(&context, &["-t", "app:1"]).await;
    }
    assert_eq!(wharfd.terminate().await, 0);
    std::fs::remove_file(wharfd.state_dir().join("wharf.sqlite")).unwrap();
    wharfd.start().await;
    let listed = rows(&operator).await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.iter().all(|row| row["Job"].is_null() && row["Images"] == 1), "{listed:?}");
    used.run(["tag", "app:1", "app:2"]).await.ok();
    age(&wharfd);
    used.run(["tag", "app:1", "app:3"]).await.ok();
    ended(&test, &wharfd, "lost#1").await;
    assert!(names(&test, &wharfd, "used#1").await >= 3);
    // Its names in the engine go first, and its row of the store a moment later.
    let alone = async || {
        let listed = rows(&operator).await;
        (listed.len() == 1 && listed[0]["Job"] == "used").then_some(())
    };
    wait_for("the list to have the other one alone", alone).await;
    used.run(["namespace", "rm"]).await.ok();
}

/// A job that is recreated counts its runs from one again.
async fn a_token_does_not_reach_what_comes_after_an_unused_namespace(test: Arc<Test>) {
    const TWO_DAYS: u64 = 2 * 24 * 3600;
    let issuer = Issuer::new(&test, "ci");
    let wharfd = test.wharfd_as_it_ships(Some(&issuer.config("*"))).await;
    let (context, agent) = (context(&test), Wharf::new(&test, &wharfd, "app#1").as_uid(AGENT));
    let issued = |at: u64| agent.with_token(&issuer.token_with("app", 1, serde_json::json!({"iat": at})));
    let used = seconds() - TWO_DAYS;
    let (old, later) = (issued(used - 60), issued(used + 3600));
    old.build_id(&context, &["-t", "app:1"]).await;
    age(&wharfd);
    let namespace = Namespace::new("app", "1").unwrap().issued_by("ci".to_owned().try_into().unwrap());
    let names = wharfd.keys().names(&namespace);
    let gone = async || test.engine.names_with_prefix(names.prefix()).await.is_empty().then_some(());
    wait_for("the end of the namespace", gone).await;
    // Its row goes last.
    let none = async || {
        Wharf::new(&test, &wharfd, "x#1")
            .run(["namespace", "ls", "-q"])
            .await
            .ok()
            .stdout
            .is_empty()
            .then_some(())
    };
    wait_for("the list to be empty", none).await;
    let over = ["namespace `ci:app#1` has ended, and your token is older"];
    for arguments in [&["images"][..], &["tag", "app:1", "app:2"]] {
        old.run(arguments).await.ended(3).says(&over);
    }
    old.build(&context, &[]).await.ended(3).says(&over);
    // A run that goes on gets a token for that.
    let id = later.build_id(&context, &["-t", "app:1"]).await;
    old.run(["inspect", &id]).await.ended(3).says(&over);
    old.run(["namespace", "rm"]).await.ok();
    assert_eq!(later.images().await, [("app:1".to_owned(), id)]);
    later.run(["namespace", "rm"]).await.ok();
}

async fn a_caller_lists_its_own_namespaces(test: Arc<Test>) {
    let issuer = Issuer::new(&test, "ci");
    let wharfd = test.wharfd_as_it_ships(Some(&(issuer.config("acme/*") + &config("*")))).await;
    let context = context(&test);
    let [team, agent, operator] =
        ["team/app#1", "acme/app#7", "user/root#7"].map(|name| Wharf::new(&test, &wharfd, name));
    let (team, proven) = (team.as_uid(TEAM), agent.as_uid(AGENT).with_token(&issuer.token("acme/app", 7)));
    // A name that a user claims is another namespace than the same name with a proof.
    let claimed = team.in_namespace("acme/app#7");
    for job in [&team, &claimed, &proven] {
        job.build_id(&context, &["-t", "app:1"]).await;
    }
    let named = |rows: &[Value]| {
        let name = |row: &Value| {
            let issuer = row["Issuer"].as_str().map(|issuer| format!("{issuer}:")).unwrap_or_default();
            format!("{issuer}{}#{}", row["Job"].as_str().unwrap(), row["Run"].as_str().unwrap())
        };
        let mut names: Vec<_> = rows.iter().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(named(&rows(&team).await), ["acme/app#7", "team/app#1"]);
    assert_eq!(named(&rows(&proven).await), ["ci:acme/app#7"]);
    assert_eq!(named(&rows(&operator).await), ["acme/app#7", "ci:acme/app#7", "team/app#1"]);
    let table = team.run(["namespace", "ls"]).await.ok().stdout;
    assert!(table.starts_with("NAMESPACE ") && table.contains("team/app#1 "), "{table}");

    let inspect = async |job: &Wharf, named: &[&str]| {
        let inspected = job.run(["namespace", "inspect"].iter().chain(named)).await.ok().stdout;
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let one = &inspected[0];
        assert_eq!(one["Images"][0]["References"], serde_json::json!(["app:1"]), "{inspected}");
        assert_eq!(one["Size"], one["Images"][0]["Size"], "{inspected}");
        format!("{} {} {}", one["Issuer"], one["Job"], one["Run"])
    };
    let issued = r#""ci" "acme/app" "7""#;
    assert_eq!(inspect(&proven, &[]).await, issued);
    assert_eq!(inspect(&operator, &["--issuer", "ci", "acme/app#7"]).await, issued);
    assert_eq!(inspect(&operator, &["acme/app#7"]).await, r#"null "acme/app" "7""#);
    assert_eq!(inspect(&team, &[]).await, r#"null "team/app" "1""#);
    // Another's namespace and none are the same.
    for (job, other) in [(&team, ["--issuer", "ci", "acme/app#7"]), (&team, ["--issuer", "ci", "none#7"])] {
        let refused = job.run(["namespace", "inspect"].iter().chain(&other)).await.ended(6);
        refused.says(&["no such namespace"]);
    }

    team.run(["namespace", "rm"]).await.ok();
    team.run(["namespace", "inspect"]).await.ended(6).says(&["no such namespace: team/app#1"]);
    assert_eq!(named(&rows(&team).await), ["acme/app#7"]);
    operator.run(["namespace", "rm", "--issuer", "ci", "acme/app#7"]).await.ok();
    assert_eq!(named(&rows(&operator).await), ["acme/app#7"]);
    claimed.run(["namespace", "rm"]).await.ok();
}

async fn rows(job: &Wharf) -> Vec<Value> {
    let listed = job.run(["namespace", "ls", "--format=json"]).await.ok().stdout;
    listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
