//! What wharfd says about policies: `wharf info` and `wharf policy check`.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};

use crate::{
    audit::{events, is_documented},
    harness::{Test, Wharf, cases},
    policy::{about, dockerfile, policy},
};

cases![
    info_names_the_policy_of_the_namespace,
    check_says_what_a_build_would_be_told,
    only_the_operator_asks_about_others,
];

async fn info_names_the_policy_of_the_namespace(test: Arc<Test>) {
    let config = policy("acme", "acme/*", "") + "[[serve]]\nuid = 1000\nnamespaces = \"acme/*\"\n";
    let (wharfd, built_in) = tokio::join!(test.wharfd_as_it_ships(Some(&config)), test.wharfd());
    let job = Wharf::new(&test, &wharfd, "acme/app#1").as_uid(1000);
    assert!(job.run(["info"]).await.ok().stdout.contains(" Policy: acme\n"));
    let json = async |job: &Wharf| -> Value {
        serde_json::from_str(&job.run(["info", "--format=json"]).await.ok().stdout).unwrap()
    };
    assert_eq!(json(&job).await["Policy"], "acme");
    // A probe has no namespace of its own; nothing is told of another's.
    let other = job.in_namespace("other#1");
    assert!(!other.run(["info"]).await.ok().stdout.contains("Policy"));
    assert_eq!(json(&other).await["Policy"], json!(null));
    let root = Wharf::new(&test, &wharfd, "user/root#1");
    assert_eq!(json(&root).await["Policy"], "built-in", "the operator is not judged");
    assert_eq!(json(&root.in_container()).await["Policy"], "none");
    assert_eq!(json(&Wharf::new(&test, &built_in, "acme/app#1")).await["Policy"], "built-in");
}

/// What is asked for, as a question and as a build or a command that does it.
async fn check_says_what_a_build_would_be_told(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let host = registry.host();
    let keys = format!(
        "pull = [\"{host}/*\"]\npush = [\"{host}/team/*\"]\nnode_images = [\"tools:1\"]\nadd = [\"{host}\", \"*\"]\n\
         networks = [\"none\"]\nbuild_time = \"20m\""
    );
    let wharfd = test.wharfd_with(Some(&policy("acme", "acme/*", &keys)), &[]).await;
    let [job, other] = ["acme/app#1", "other#1"].map(|name| Wharf::new(&test, &wharfd, name));
    let before = registry.mark().await;
    let [team, denied] = ["team/app:1", "app:1"].map(|name| registry.name(name));
    let (fetched, loopback) = (format!("http://{host}/v2/"), "http://127.0.0.1:1/".to_owned());
    let asked = async |job: &Wharf, flag: &str, value: &str| {
        job.run(["policy", "check", "--format=json", flag, value]).await
    };
    let row = |output: &str| -> Value { serde_json::from_str(output.trim_end()).unwrap() };
    for (flag, value, key, pattern) in [
        ("--pull", base.as_str(), "pull", format!("{host}/*")),
        ("--push", &team, "push", format!("{host}/team/*")),
        ("--node-image", "tools:1", "node_images", "docker.io/library/tools:1".to_owned()),
        ("--add", &fetched, "add", host.to_owned()),
        ("--add", "https://files.example/x", "add", "*".to_owned()),
        ("--network", "none", "networks", "none".to_owned()),
    ] {
        let row = row(&asked(&job, flag, value).await.ok().stdout);
        let said = ["Policy", "Key", "Pattern"].map(|field| row[field].as_str().unwrap());
        assert_eq!(said, ["acme", key, &pattern], "{row}");
        assert_eq!((&row["Allowed"], row["Message"] == ""), (&json!(true), pattern != "*"), "{row}");
    }
    // Each refusal is the one of what does it.
    let add = |name: &str, url: &str| dockerfile(&test, name, &format!("FROM scratch\nADD {url} /file\n"));
    let plain = dockerfile(&test, "plain", "FROM scratch\nCOPY Dockerfile /\n").display().to_string();
    let build = |context: PathBuf| vec!["build".to_owned(), context.display().to_string()];
    let run = dockerfile(&test, "run", &format!("FROM {base}\nRUN echo\n"));
    let hosts = vec!["build".to_owned(), "--network=host".to_owned(), plain.clone()];
    let push = ["build", "-t", &denied, "--push", &plain].map(str::to_owned).to_vec();
    for (flag, value, does) in [
        ("--pull", "alpine", vec!["pull".to_owned(), "alpine".to_owned()]),
        ("--push", denied.as_str(), push),
        ("--network", "default", build(run)),
        ("--network", "host", hosts),
        ("--add", "http://169.254.169.254/x", build(add("metadata", "http://169.254.169.254/x"))),
        ("--add", &loopback, build(add("loopback", &loopback))),
        ("--add", "https://files.example/x.git", build(add("git", "https://files.example/x.git"))),
        ("--add", "https://files.example/x%2Egit", build(add("escaped", "https://files.example/x%2Egit"))),
        ("--add", "deploy@files.example:x", build(add("ssh", "deploy@files.example:x"))),
    ] {
        let refused = asked(&job, flag, value).await.ended(3);
        let row = row(&refused.stdout);
        assert_eq!((&row["Policy"], &row["Allowed"]), (&json!("acme"), &json!(false)));
        let message = row["Message"].as_str().unwrap();
        assert!(refused.stderr.contains(message), "{refused}");
        // BuildKit writes a repository in another way.
        let is_git = message.contains("Git");
        let said = if is_git { message.rsplit("` ").next().unwrap() } else { message };
        job.run(&does).await.ended(3).says(&[said]);
    }
    // As is that of names that nobody may use, with the status of bad usage for a push.
    let pulled = ["pull", "wharf.invalid/x"];
    for (flag, value, command) in [
        ("--push", "wharf.invalid/x", ["push", "wharf.invalid/x"]),
        ("--pull", "wharf.invalid/x", pulled),
        ("--node-image", "wharf.invalid/x", pulled),
    ] {
        let refused = job.run(["policy", "check", flag, value]).await;
        let refused = refused.ended(if flag == "--push" { 2 } else { 3 });
        let error = refused.stderr.lines().next().unwrap();
        let done = job.run(command).await;
        assert!(
            done.status != 0 && done.stderr.contains(error.trim_start_matches("error: ")),
            "{refused}{done}"
        );
    }
    let text = job.run(["policy", "check", "--pull", "alpine", "--push", &team]).await.ended(3);
    assert!(text.stdout.contains("pull   docker.io/library/alpine") && text.stdout.contains("yes"), "{text}");
    let refused = asked(&other, "--pull", &base).await.ended(3);
    refused.says(&["no policy is for the job `other`, so it may not pull"]);

    let listed = job.run(["policy", "check"]).await.ok().stdout;
    let lines: Vec<String> =
        listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in ["Namespace: acme/app#1", &format!("pull {host}/* acme"), "build_time 1200 s acme"] {
        assert!(lines.iter().any(|shown| shown == line), "{line}: {listed}");
    }
    let keys = other.run(["policy", "check", "--format=json"]).await.ok().stdout;
    let networks = keys.lines().map(row).find(|row| row["Key"] == "networks").unwrap();
    assert_eq!((&networks["Policy"], &networks["Allowed"]), (&json!("none"), &json!(["none"])));
    for wrong in [["--add", "files.example"], ["--network", "bridge"]] {
        job.run([&["policy", "check"][..], &wrong].concat()).await.ended(2);
    }
    // Only the steps above that had a base have asked the registry.
    let asked = registry.requests_since(&before).await;
    assert_eq!(about(&asked, "team/app"), Vec::<String>::new());
}

async fn only_the_operator_asks_about_others(test: Arc<Test>) {
    let config = policy("acme", "acme/*", "push = [\"reg.example/acme/*\"]")
        + "[[serve]]\nuid = 1000\nnamespaces = \"acme/*\"\n\
           [[serve]]\nuid = 1001\nnamespaces = \"other\"\n";
    let path = test.dir().join("audit.jsonl");
    let wharfd = test.wharfd_as_it_ships(Some(&format!("audit_log = {path:?}\n{config}"))).await;
    let operator = Wharf::new(&test, &wharfd, "acme/app#1");
    let ask = |caller: &str| {
        ["policy", "check", "--as", caller, "--push", "reg.example/acme/app"].map(str::to_owned)
    };
    let answer = operator.run(ask("uid 1000")).await.ok().stdout;
    operator.run(["policy", "check", "--push", "reg.example/x"]).await.ok();
    assert!(answer.contains("reg.example/acme/*") && answer.contains(" acme\n"), "{answer}");
    operator.run(ask("uid 1001")).await.ended(3).says(&["namespace `acme/app#1` is not that of `uid 1001`"]);
    for unknown in ["uid 7", "uid 1000 ", "token x", "job ci:acme/app", "job"] {
        operator.run(ask(unknown)).await.ended(2).says(&["is not served here"]);
    }
    for other in [operator.as_uid(1000), operator.in_namespace("user/root#1").in_container()] {
        for caller in ["uid 1000", "uid 1001", "uid 0 of the node", "uid 7"] {
            other.run(ask(caller)).await.ended(3).says(&["only the node's operator"]);
        }
    }
    assert_eq!(wharfd.terminate().await, 0);
    let events = events(&path);
    events.iter().for_each(is_documented);
    for (caller, result) in [("uid 0 of the node", "done"), ("uid 1000", "refused")] {
        let about = json!([caller, result, "uid 1000", {"job": "acme/app", "run": "1"}]);
        let told =
            |event: &Value| ["caller", "result", "asked_about", "namespace"].map(|key| event[key].clone());
        assert!(events.iter().any(|event| json!(told(event)) == about), "{about}: {events:#?}");
    }
}
