//! The plain log contains all output of every step, unchanged.

use std::sync::Arc;

use crate::harness::{Test, Wharf, cases, process::Output, wait_for};

cases![output_of_steps, a_log_that_breaks_off];

/// The output of a build's steps, by lines.
fn written(built: &Output) -> Vec<&str> {
    let line = |line| {
        let (number, rest) = str::strip_prefix(line, "#")?.split_once(' ')?;
        let (time, text) = rest.split_once(' ')?;
        number.parse::<u32>().ok()?;
        time.parse::<f64>().ok().map(|_| text)
    };
    built.stderr.lines().filter_map(line).collect()
}

async fn output_of_steps(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let report = format!("{{\"report\":\"{}\"}}", "0123456789".repeat(3000));
    let words = "می\u{200c}رود 👩\u{200d}💻 é";
    // Standard output and standard error come separately; the marker comes after everything before it.
    let script = "cat /report; echo\ncat /words; echo\n\
                  printf 'FATAL: disk full\\rcleaning\\n'\nprintf '10%%\\r50%%\\r100%% done\\n'\n\
                  printf '\\tindented  \\033[31mred\\033[0m\\r\\n'\n\
                  printf 'half a '\necho other >&2\nsleep 1\nprintf 'line\\n'\nprintf 'no newline'\n";
    let dockerfile = format!("FROM {base}\nCOPY report words script /\nRUN sh /script\n");
    let context = test.context(
        "context",
        &[("Dockerfile", &dockerfile), ("report", &report), ("words", words), ("script", script)],
    );
    let built = job.build(&context, &[]).await.ok();
    let lines: Vec<&str> = written(&built).into_iter().filter(|line| *line != "other").collect();
    assert_eq!(
        lines,
        [
            report.as_str(),
            words,
            "FATAL: disk full",
            "cleaning",
            "100% done",
            "\tindented  red",
            "half a line",
            "no newline"
        ]
    );
    assert!(written(&built).contains(&"other"), "{built}");
}

/// Each warning contains the whole Dockerfile, and all warnings come in one message.
async fn a_log_that_breaks_off(test: Arc<Test>) {
    let (registry, wharfd) = tokio::join!(test.registry(), test.wharfd());
    let base = test.base(&registry).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let stage = |number: usize| {
        let comment = format!("# generated {number} {}\n", "x".repeat(60));
        format!("FROM {base} as stage{number}\n{}RUN echo said by {number}\n", comment.repeat(50))
    };
    let dockerfile: String = (0..100).map(stage).collect();
    let context = test.context("context", &[("Dockerfile", &dockerfile)]);
    let flags = ["--no-cache", "--target=stage1"];
    let built = job.build(&context, &flags).await.ok().says(&["warnings about it are left out"]);
    assert_eq!(written(&built), ["said by 1"]);

    // A user who asks for the warnings is told what they cost.
    let all = [&flags[..], &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=none"]].concat();
    let missing = "the rest of the build's log is missing";
    if !test.engine.is_containerd() {
        // The frontend of the oldest engine has no such checks.
        let built = job.build(&context, &all).await.ok();
        assert!(!built.stderr.contains("are left out") && !built.stderr.contains(missing), "{built}");
        assert_eq!(written(&built), ["said by 1"]);
        return;
    }
    // BuildKit sends all warnings of a moment in one message. On a slow machine none of these may be too large, and then
    // the log is whole.
    for _ in 0..5 {
        let built = job.build(&context, &all).await.ok();
        assert!(!built.stderr.contains("are left out"), "{built}");
        if built.stderr.contains(missing) {
            let said = async || wharfd.log().iter().any(|line| line.contains("broke off")).then_some(());
            wait_for("the cause in the log", said).await;
            return;
        }
        assert_eq!(written(&built), ["said by 1"]);
    }
    panic!("BuildKit has broken off no log");
}
