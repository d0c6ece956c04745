//! Runs the tests on both engines side by side: a process for each, and one report.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Write as _},
    panic::{self, AssertUnwindSafe},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use super::{Case, Test, engine::Engine};

/// Names the engine of a process that runs tests.
pub(crate) const CHILD: &str = "WHARF_TEST_CHILD";
/// Runs the tests of one engine alone: `26` or `29`.
const ONLY: &str = "WHARF_TEST_ENGINE";
/// Tests wait for builds most of the time.
const THREADS: usize = 4;
/// No test takes longer, however busy the machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(600);
/// But the long loop of `make soak`.
const SOAK_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// How many tests that fail in a run of all tests are run once more, alone; none if it is not set. `scripts/test` sets it
/// in CI: on a loaded machine a time can be too short, or a neighbour on the engine in the way. A fault of Wharf fails again.
const SECOND_CHANCES: &str = "WHARF_SECOND_CHANCES";

/// An engine that tests run on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Its name for `scripts/env`.
    pub(crate) name: &'static str,
    /// Its image store.
    pub(crate) store: &'static str,
}

const KINDS: [Kind; 2] = [Kind { name: "26", store: "classic" }, Kind { name: "29", store: "containerd" }];

impl Kind {
    /// The other kind of engine.
    pub(crate) fn other(self) -> Self {
        *KINDS.iter().find(|kind| kind.name != self.name).expect("two kinds of engines")
    }

    fn trial_name(self, case: &Case) -> String {
        format!("{} [{}-{}]", case.name, self.name, self.store)
    }
}

/// The output of `scripts/env paths`.
#[derive(Debug)]
pub(crate) struct Paths(BTreeMap<String, String>);

impl Paths {
    fn read() -> Result<Self, String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/env");
        let output = Command::new(script).arg("paths").stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| format!("cannot run {script}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{script} paths: {}", output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self(
            text.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ))
    }

    fn get(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).map(String::as_str).ok_or_else(|| {
            let engine = name.strip_prefix("WHARF_ENGINE_").or_else(|| name.strip_prefix("WHARF_NETNS_"));
            match engine {
                Some(engine) => {
                    format!("engine {engine} is not up: run `make engines`, or `make test` for everything")
                }
                None => format!("{name} is not there: run `scripts/env setup test`"),
            }
        })
    }
}

/// Starts a process for each engine, passes on their output, and reports the result.
pub(crate) fn all(cases: &[Case], arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let only = env::var(ONLY).ok();
    let kinds: Vec<Kind> =
        KINDS.into_iter().filter(|kind| only.as_deref().is_none_or(|only| only == kind.name)).collect();
    if kinds.is_empty() {
        eprintln!("{ONLY} must be 26 or 29, not `{}`", only.unwrap_or_default());
        return ExitCode::FAILURE;
    }
    let chances = env::var(SECOND_CHANCES).unwrap_or_else(|_| "0".to_owned());
    let Ok(chances) = chances.parse() else {
        eprintln!("{SECOND_CHANCES} must be a number, not `{chances}`");
        return ExitCode::FAILURE;
    };
    let selected = |kind: Kind| {
        cases.iter().filter(|case| is_selected(&kind.trial_name(case), arguments)).collect::<Vec<_>>()
    };
    if arguments.list {
        for kind in &kinds {
            for case in selected(*kind) {
                println!("{}: test", kind.trial_name(case));
            }
        }
        return ExitCode::SUCCESS;
    }
    let total = kinds.len() * cases.len();
    let kinds: Vec<(Kind, usize)> = kinds
        .into_iter()
        .map(|kind| (kind, selected(kind).len()))
        .filter(|(_, selected)| *selected > 0)
        .collect();
    let expected: usize = kinds.iter().map(|(_, selected)| selected).sum();
    println!("\nrunning {expected} tests");
    let own: Vec<OsString> = env::args_os().skip(1).collect();
    let reports = match start(&kinds, &own, arguments.quiet) {
        Ok(reports) => reports,
        Err(error) => {
            eprintln!("cannot run tests: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut passed: usize = reports.iter().map(|report| report.passed).sum();
    for report in &reports {
        print!("{}", report.failures);
    }
    if expected == total {
        passed += once_more(&kinds, &reports, expected - passed, chances);
    }
    let failed = expected - passed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        total - expected,
        begun.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the `failed` tests of `reports` alone, one after the other, if they are at most `chances`; the number of those that
/// pass now.
fn once_more(kinds: &[(Kind, usize)], reports: &[Report], failed: usize, chances: usize) -> usize {
    let tests: Vec<(Kind, &String)> = kinds
        .iter()
        .zip(reports)
        .flat_map(|((kind, _), report)| report.failed.iter().map(|test| (*kind, test)))
        .collect();
    // A process that broke off does not name all that failed.
    if tests.len() != failed || failed > chances {
        return 0;
    }
    let mut passed = 0;
    for (kind, test) in tests {
        println!("\n{test} failed beside the others, and runs once more, alone ({SECOND_CHANCES}={chances})");
        let alone = [OsString::from("--exact"), OsString::from(test)];
        match start(&[(kind, 1)], &alone, false) {
            Ok(reports) if reports.iter().any(|report| report.passed == 1) => {
                println!("FLAKY: {test} failed beside the others, as above, and passes alone");
                passed += 1;
            }
            Ok(reports) => reports.iter().for_each(|report| print!("{}", report.failures)),
            Err(error) => println!("cannot run {test}: {error}"),
        }
    }
    passed
}

/// libtest's rule.
fn is_selected(name: &str, arguments: &Arguments) -> bool {
    let matches = |filter: &str| if arguments.exact { name == filter } else { name.contains(filter) };
    arguments.filter.as_deref().is_none_or(matches) && !arguments.skip.iter().any(|skip| matches(skip))
}

/// The report of an engine's process.
#[derive(Debug, Default)]
struct Report {
    passed: usize,
    /// The names of the tests that failed.
    failed: Vec<String>,
    failures: String,
}

/// Starts a process for each of `kinds`, with `arguments`, and waits for the number of tests that it must run.
fn start(kinds: &[(Kind, usize)], arguments: &[OsString], quiet: bool) -> Result<Vec<Report>, String> {
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("entering an engine's network needs root: run as root".to_owned());
    }
    let paths = Paths::read()?;
    let mut children = Vec::new();
    for (kind, expected) in kinds {
        paths.get(&format!("WHARF_ENGINE_{}", kind.name))?;
        for tool in ["REGISTRY_BIN", "BUSYBOX", "HTPASSWD", "BUILDX", "DOCKER", "PROMCHECK"] {
            paths.get(&format!("WHARF_{tool}"))?;
        }
        let network = paths.get(&format!("WHARF_NETNS_{}", kind.name))?;
        let child = Command::new("nsenter")
            .arg(format!("--net={network}"))
            .arg("--")
            .arg(env::current_exe().map_err(|error| error.to_string())?)
            .args(arguments)
            .envs(&paths.0)
            .env(CHILD, kind.name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("nsenter: {error}"))?;
        children.push((*kind, *expected, child));
    }
    let readers: Vec<_> = children
        .into_iter()
        .map(|(kind, expected, mut child)| {
            thread::spawn(move || {
                let output = child.stdout.take().expect("it is piped");
                let mut report = Report::default();
                let mut of_failures = false;
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    of_failures |= line.trim_end() == "failures:";
                    if line.starts_with("test result: ") {
                        report.passed = passed(&line);
                    } else if of_failures {
                        report.failures.push_str(&line);
                        report.failures.push('\n');
                    } else if line.starts_with("test ") {
                        // libtest-mimic aligns the verdicts of one process; these come from two.
                        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                        if let Some(test) =
                            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
                        {
                            report.failed.push(test.to_owned());
                        }
                        if !quiet {
                            println!("{line}");
                            let _ = io::stdout().flush();
                        }
                    }
                }
                let status = child.wait();
                if report.passed < expected && report.failures.is_empty() {
                    report.failures = format!("\nthe tests of engine {} broke off: {status:?}\n", kind.name);
                }
                report
            })
        })
        .collect();
    Ok(readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect())
}

/// Reads `test result: ok. 5 passed; …`.
fn passed(line: &str) -> usize {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).find(|pair| pair[1] == "passed;").and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// Runs the tests of one engine in this process.
pub(crate) fn tests_of(engine: &str, cases: Vec<Case>, arguments: &Arguments) -> ExitCode {
    let kind = *KINDS.iter().find(|kind| kind.name == engine).expect("an engine that tests run on");
    remember_panics();
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let engine = Arc::new(Engine::of_environment(kind));
    let trials = cases
        .into_iter()
        .map(|case| {
            let (runtime, engine) = (Arc::clone(&runtime), Arc::clone(&engine));
            Trial::test(kind.trial_name(&case), move || {
                runtime.block_on(one(case, engine)).map_err(Into::into)
            })
        })
        .collect();
    let mut arguments = arguments.clone();
    arguments.test_threads.get_or_insert(THREADS);
    runtime.block_on(engine.keep_nameless());
    let conclusion = libtest_mimic::run(&arguments, trials);
    runtime.block_on(engine.forget_bare());
    conclusion.exit_code()
}

async fn one(case: Case, engine: Arc<Engine>) -> Result<(), String> {
    let test = Test::new(engine);
    let begun = Instant::now();
    let body = AssertUnwindSafe((case.run)(Arc::clone(&test))).catch_unwind();
    let patience = if env::var_os("WHARF_SOAK").is_some() { SOAK_TIMEOUT } else { TEST_TIMEOUT };
    let mut error = match tokio::time::timeout(patience, body).await {
        Ok(Ok(())) => None,
        Ok(Err(payload)) => Some(last_panic(payload.as_ref())),
        Err(_) => Some(format!("not done after {} s", patience.as_secs())),
    };
    let took = begun.elapsed();
    let cleaned = AssertUnwindSafe(test.clean_up()).catch_unwind().await;
    let left = match cleaned {
        Ok(left) => left,
        Err(payload) => vec![last_panic(payload.as_ref())],
    };
    if !left.is_empty() {
        let left = format!("not cleaned up: {}", left.join("\n"));
        error = Some(error.map_or(left.clone(), |error| format!("{error}\n{left}")));
    }
    if env::var_os("WHARF_TEST_TIMES").is_some() {
        eprintln!("{:8.2} s  {} {:?}", took.as_secs_f64(), case.name, begun.elapsed() - took);
    }
    error.map_or(Ok(()), |error| Err(format!("{error}\n{}", test.logs())))
}

/// The latest panic of each thread, with its place.
static PANICS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

fn this_thread() -> String {
    format!("{:?}", thread::current().id())
}

fn remember_panics() {
    panic::set_hook(Box::new(|info| {
        let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        panics.insert(this_thread(), info.to_string());
    }));
}

fn last_panic(payload: &(dyn std::any::Any + Send)) -> String {
    let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    panics.remove(&this_thread()).unwrap_or_else(|| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
    })
}
