//! Namespaces that come and go while wharfd is killed again and again: nothing of them stays.
//!
//! The short loop is part of every run of the tests. `make soak` runs a long one: `WHARF_SOAK` is the number of namespaces,
//! `WHARF_SOAK_SEED` repeats one run's choices.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    env,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use rusqlite::Connection;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    caches::{prefix, records},
    harness::{
        Engine, Issuer, Test, Wharf, Wharfd, cases,
        engine::tool,
        process::Output,
        traces::{self, LEFT_STEP, Traces},
        wait_for, wait_for_at_most, within,
    },
};

cases![nothing_stays_of_namespaces];

/// Namespaces in the short loop.
const SHORT: usize = 12;
/// How many namespaces are under way at once.
const AT_ONCE: usize = 3;
/// The callers' jobs: of root, of a user with an entry of its own, and of an issuer.
const JOBS: [(Caller, &str); 6] = [
    (Caller::Root, "plain/a"),
    (Caller::Root, "plain/b"),
    (Caller::User, "team/a"),
    (Caller::User, "team/b"),
    (Caller::Token, "acme/a"),
    (Caller::Token, "acme/b"),
];
const TEAM: u32 = 1001;
const AGENT: u32 = 1003;
/// How long everything may take to go: the janitor looks every ten seconds, and every thirty for late images.
const CALM: Duration = Duration::from_secs(240);

#[derive(Clone, Copy, Debug)]
enum Caller {
    Root,
    User,
    Token,
}

/// Numbers by chance, of a seed that a failure says.
#[derive(Debug)]
struct Chance {
    seed: u64,
    state: Cell<u64>,
}

impl Chance {
    fn new() -> Self {
        let said =
            env::var("WHARF_SOAK_SEED").ok().map(|seed| seed.parse().expect("WHARF_SOAK_SEED: a number"));
        let seed =
            said.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64);
        Self { seed, state: Cell::new(seed | 1) }
    }

    /// A number below `end`.
    fn below(&self, end: u64) -> u64 {
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        state % end
    }
}

impl Drop for Chance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the choices of this run: WHARF_SOAK_SEED={}", self.seed);
        }
    }
}

/// All that the namespaces share.
struct Soak {
    test: Arc<Test>,
    engine: Arc<Engine>,
    wharfd: Arc<Wharfd>,
    issuer: Issuer,
    agent: Wharf,
    /// The registry, as the engine reaches it.
    host: String,
    chance: Chance,
    variants: usize,
    /// How many namespaces have begun.
    begun: Cell<usize>,
    /// Counts the ends and the starts of wharfd: it runs while the number is even.
    turns: Cell<usize>,
    /// What wharfd's ends have interrupted.
    interrupted: RefCell<Vec<String>>,
    /// The cgroups that there were when wharfd was back: BuildKit leaves that of a step that is cut off as it begins, and
    /// nobody waits for its process when wharfd is killed.
    cut_off: RefCell<BTreeSet<String>>,
}

async fn nothing_stays_of_namespaces(test: Arc<Test>) {
    let number = env::var("WHARF_SOAK").map_or(SHORT, |number| number.parse().expect("WHARF_SOAK: a number"));
    let half = number / 2;
    let soak = Soak::begin(test, if number > SHORT { 2 } else { 1 }).await;
    let before = Traces::of(&soak.engine, &soak.wharfd).await;
    eprintln!("{}: {number} namespaces, WHARF_SOAK_SEED={}", soak.engine.kind().name, soak.chance.seed);

    soak.run(0..half).await;
    let middle = soak.calm(&before).await;
    eprintln!("after {half} namespaces: {middle}");
    soak.run(half..number).await;
    let after = soak.calm(&before).await;
    eprintln!("after {number} namespaces: {after}");
    // A job may have ended its first build in the second half: its context and its Dockerfile are new.
    after.are_no_more_than(&middle, kills(number - half) as u64, JOBS.len() as u64);
    eprintln!("wharfd's ends have interrupted: {}", soak.interrupted.borrow().join(", "));
    Box::pin(soak.end_jobs()).await;
}

/// How often wharfd is killed while so many namespaces come and go.
fn kills(namespaces: usize) -> usize {
    (namespaces / 4).max(1)
}

impl Soak {
    async fn begin(test: Arc<Test>, variants: usize) -> Self {
        let chance = Chance::new();
        let (name, engine) = test.throw_away_engine().await;
        let (registry, issuer) = (test.registry().await, Issuer::new(&test, "ci"));
        test.base(&registry).await;
        let host = test.registry_beside(&registry, &name).await.host().to_owned();
        let config = format!(
            "frontend = \"container\"\nfrontend_file = {:?}\n\
             [[serve]]\nuid = 0\nnamespaces = \"*\"\n[[serve]]\nuid = {TEAM}\nnamespaces = \"team/*\"\n{}",
            tool("WHARF_FRONTEND"),
            issuer.config("acme/*"),
        );
        let wharfd = test.wharfd_beside_with(&engine, &config).await;
        let agent = Wharf::new(&test, &wharfd, "plain/a#0");
        std::fs::set_permissions(agent.home(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let (begun, turns, interrupted, cut_off) =
            (Cell::new(0), Cell::new(0), RefCell::default(), RefCell::default());
        Self {
            test,
            engine,
            wharfd,
            issuer,
            agent,
            host,
            chance,
            variants,
            begun,
            turns,
            interrupted,
            cut_off,
        }
    }

    /// Has these namespaces made, used and ended, some at a time, and wharfd killed once for each four of them.
    async fn run(&self, numbers: std::ops::Range<usize>) {
        let mut kills: Vec<_> = (0..kills(numbers.len()))
            .map(|_| {
                (numbers.start + self.chance.below(numbers.len() as u64) as usize, self.chance.below(1500))
            })
            .collect();
        kills.sort_unstable();
        self.begun.set(numbers.start);
        let numbers = RefCell::new(numbers);
        let workers = join_all((0..AT_ONCE).map(async |_| {
            loop {
                let Some(number) = numbers.borrow_mut().next() else { break };
                self.begun.set(self.begun.get().max(number + 1));
                self.namespace(number).await;
            }
        }));
        let killer = async {
            for (number, delay) in kills {
                let has_begun = async || (self.begun.get() > number).then_some(());
                wait_for_at_most(CALM * 10, "a namespace to begin", has_begun).await;
                sleep(Duration::from_millis(delay)).await;
                self.turns.set(self.turns.get() + 1);
                self.wharfd.kill().await;
                sleep(Duration::from_millis(self.chance.below(300))).await;
                self.wharfd.start().await;
                self.cut_off.borrow_mut().extend(traces::cgroups(&self.engine));
                self.turns.set(self.turns.get() + 1);
            }
        };
        tokio::join!(workers, killer);
    }

    /// Runs a command until wharfd lives through it.
    async fn step(&self, job: &Wharf, args: &[&str]) -> Output {
        let mut was_cut_off = false;
        loop {
            let turn = self.turns.get();
            let output = job.run(args).await;
            if output.status == 0 {
                return output;
            }
            let is_cut_off = turn % 2 == 1 || self.turns.get() != turn;
            // BuildKit 0.33 may lose what a step writes that two builds share, if the first of them is cancelled.
            let is_lost =
                was_cut_off && self.engine.is_containerd() && output.stderr.contains("failed to commit");
            assert!(is_cut_off || is_lost, "wharfd was there all the time: {output}");
            was_cut_off = is_cut_off;
            self.interrupted.borrow_mut().push(format!("{} ({})", args[0], output.status));
            let is_up = async || self.turns.get().is_multiple_of(2).then_some(());
            wait_for("wharfd to be back", is_up).await;
        }
    }

    /// Makes a namespace, does everything in it that a pipeline does, and ends it or leaves it.
    async fn namespace(&self, number: usize) {
        let (caller, name) = JOBS[number % JOBS.len()];
        let variant = number / JOBS.len() % self.variants;
        let job = self.job(caller, name, number).with_variable("SECRET", name);
        let context = self.context(name, variant);
        let context = context.to_str().unwrap();
        let pushed = format!("{}/{name}:{variant}", self.host);
        let archive = job.home().join(format!("{number}.tar"));
        let archive = archive.to_str().unwrap();

        self.step(&job, &["build", "--secret", "id=s,env=SECRET", "-t", "app:1", context]).await;
        self.step(&job, &["tag", "app:1", &pushed]).await;
        if self.chance.below(3) == 0 {
            self.leave(&job).await;
        }
        self.step(&job, &["push", &pushed]).await;
        self.step(&job, &["pull", &pushed]).await;
        self.step(&job, &["save", "-o", archive, "app:1"]).await;
        assert!(std::fs::metadata(archive).unwrap().len() > 0);
        std::fs::remove_file(archive).unwrap();
        if self.chance.below(2) == 0 {
            self.step(&job, &["namespace", "rm"]).await;
        } else if self.chance.below(2) == 0 {
            self.leave(&job).await;
        }
    }

    /// A run of a job. The runs of all jobs share a home, which has a copy of the client.
    fn job(&self, caller: Caller, name: &str, run: usize) -> Wharf {
        let job = self.agent.in_namespace(&format!("{name}#{run}"));
        match caller {
            Caller::Root => job,
            Caller::User => job.as_uid(TEAM),
            Caller::Token => job.as_uid(AGENT).with_token(&self.issuer.token(name, run.try_into().unwrap())),
        }
    }

    /// Begins a build, whose client is killed.
    async fn leave(&self, job: &Wharf) {
        let dockerfile = format!("FROM {}/base:1\nRUN --mount=type=cache,target=/c {LEFT_STEP}\n", self.host);
        let context = self.written("left", &[("Dockerfile", &dockerfile)]);
        let build = job.start(["build", "--progress=plain", "-t", "left:1", context.to_str().unwrap()]);
        sleep(Duration::from_millis(self.chance.below(1500))).await;
        build.signal(Signal::KILL);
        build.wait(crate::harness::PATIENCE).await.unwrap();
    }

    fn context(&self, name: &str, variant: usize) -> PathBuf {
        let dockerfile = format!(
            "FROM {}/base:1\nCOPY variant /\n\
             RUN --mount=type=cache,target=/c --mount=type=secret,id=s,required=true \
             cat /run/secrets/s >> /c/log && cat /c/log > /log\n",
            self.host
        );
        let context = format!("{}-{variant}", name.replace('/', "-"));
        self.written(&context, &[("Dockerfile", &dockerfile), ("variant", &format!("{name} {variant}"))])
    }

    /// A context, whose files stay as they are: one that is written anew is another directory to BuildKit.
    fn written(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = self.test.dir().join(name);
        if path.exists() { path } else { self.test.context(name, files) }
    }

    fn age(&self, changes: &[&str]) {
        let store = Connection::open(self.wharfd.state_dir().join("wharf.sqlite")).unwrap();
        for change in changes {
            store.execute(change, []).unwrap();
        }
    }

    /// Waits until all that namespaces had is gone, as if two days had passed. Returns the traces that stay.
    async fn calm(&self, before: &Traces) -> Traces {
        let mut differences = Vec::new();
        let calm = within(CALM, async || {
            self.age(&[
                "UPDATE namespaces SET used = used - 2 * 24 * 3600",
                "UPDATE exports SET since = since - 2 * 3600",
            ]);
            let now = Traces::of(&self.engine, &self.wharfd).await;
            differences = now.differences(before, &self.cut_off.borrow());
            if differences.is_empty() {
                return Some(now);
            }
            sleep(Duration::from_secs(1)).await;
            None
        });
        match calm.await {
            Some(traces) => traces,
            None => {
                let said = traces::said_by(&self.engine, &differences);
                panic!("what stays after {CALM:?}: {differences:#?}\n{said}");
            }
        }
    }

    /// Ends all jobs: their cache mounts go, too.
    async fn end_jobs(&self) {
        for (caller, name) in JOBS {
            let job = self.job(caller, name, u32::MAX as usize);
            job.run(["namespace", "rm", "--job"]).await.ok();
        }
        let gone = async || {
            self.age(&["UPDATE jobs SET ended = ended - 3600 WHERE ended > 1"]);
            let mut left = Traces::of(&self.engine, &self.wharfd).await.rows("jobs");
            for (_, name) in JOBS {
                left += records(&self.engine, &prefix(&self.wharfd, name)).await as u64;
            }
            (left == 0).then_some(())
        };
        Box::pin(wait_for_at_most(CALM, "the cache mounts to go", gone)).await;
    }
}
