//! What namespaces may leave: in an engine, in wharfd's store and in its directories.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use rusqlite::Connection;
use serde_json::Value;

use super::{Engine, Wharfd, left::OF_NAMESPACES};

/// The step of a build whose client goes away. It ends by itself: Engine 26.1 may leave one behind that is cut off as it begins.
pub(crate) const LEFT_STEP: &str = "exec sleep 15";
/// Remembers for 90 days which tokens are of no use any more.
const TOMBSTONES: &str = "ends";
/// The rows of the bases that a Dockerfile needed last time.
const BASES: &str = "bases";
/// Pages by which equal rows may differ in the shape of their trees.
const PAGES: u64 = 8;

/// The traces at one moment.
#[derive(Debug)]
pub(crate) struct Traces {
    /// By kind: images with their names, containers, networks, volumes, cgroups, files.
    things: BTreeMap<&'static str, BTreeSet<String>>,
    /// BuildKit's records, by type and description.
    cache: BTreeMap<String, u64>,
    rows: BTreeMap<String, u64>,
    /// Pages of the store's file that are of use.
    pages: u64,
}

impl Traces {
    pub(crate) async fn of(engine: &Engine, wharfd: &Wharfd) -> Self {
        let list = async |path: &str, of: &str| {
            let answer = engine.get(path).send().await.ok().json();
            let answer = if of.is_empty() { answer } else { answer[of].clone() };
            answer.as_array().cloned().unwrap_or_default()
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut things = BTreeMap::new();
        let images = list("/images/json?all=1", "").await;
        let image = |image: &Value| format!("{} {} {}", image["Id"], image["RepoTags"], image["RepoDigests"]);
        things.insert("images", images.iter().map(image).collect());
        let containers = list("/containers/json?all=1", "").await;
        things.insert("containers", containers.iter().map(|one| text(&one["Id"])).collect());
        let networks = list("/networks", "").await;
        things.insert("networks", networks.iter().map(|one| text(&one["Name"])).collect());
        let volumes = list("/volumes", "Volumes").await;
        things.insert("volumes", volumes.iter().map(|one| text(&one["Name"])).collect());
        things.insert("cgroups", cgroups(engine));
        let data = format!("/proc/{}/root/var/lib/docker", engine.pid());
        things.insert("the engine's temporary files", files(Path::new(&data).join("tmp").as_path()));
        things.insert("wharfd's files", files(wharfd.socket().parent().unwrap()));

        let mut cache = BTreeMap::new();
        for record in list("/system/df?type=build-cache", "BuildCache").await {
            let what = format!("{}: {}", text(&record["Type"]), text(&record["Description"]));
            *cache.entry(what).or_default() += 1;
        }

        let store = Connection::open(wharfd.state_dir().join("wharf.sqlite")).unwrap();
        let number = |sql: &str| store.query_row(sql, [], |row| row.get::<_, u32>(0).map(u64::from)).unwrap();
        let mut tables = store.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
        let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let rows = tables.map(|table| {
            let table = table.unwrap();
            let rows = number(&format!("SELECT count(*) FROM \"{table}\""));
            (table, rows)
        });
        let rows = rows.collect();
        let pages = number("PRAGMA page_count") - number("PRAGMA freelist_count");
        Self { things, cache, rows, pages }
    }

    /// How many rows a table of the store has.
    pub(crate) fn rows(&self, table: &str) -> u64 {
        self.rows.get(table).copied().unwrap_or_else(|| panic!("there is no table {table}"))
    }

    /// Everything that namespaces have left since `before`, or that is missing, but these cgroups if nothing runs in them.
    pub(crate) fn differences(&self, before: &Self, cut_off: &BTreeSet<String>) -> Vec<String> {
        let mut all = Vec::new();
        let is_excused = |one: &String| {
            let processes = fs::read_to_string(Path::new(one).join("cgroup.procs"));
            cut_off.contains(one) && processes.is_ok_and(|processes| processes.is_empty())
        };
        for (kind, now) in &self.things {
            let then = &before.things[kind];
            let now: BTreeSet<_> = now.iter().filter(|one| !is_excused(one)).cloned().collect();
            all.extend(now.difference(then).map(|one| format!("{kind}: {one} is left")));
            all.extend(then.difference(&now).map(|one| format!("{kind}: {one} is gone")));
        }
        let rows = OF_NAMESPACES.map(|table| (table, self.rows(table)));
        all.extend(
            rows.into_iter()
                .filter(|(_, rows)| *rows > 0)
                .map(|(table, rows)| format!("{table}: {rows} rows")),
        );
        all
    }

    /// Fails if there is more than there was when all jobs had been built already. wharfd was killed `kills` times since: each
    /// may have cut off all builds of that moment, of which BuildKit keeps a few records for good. 0.13 keeps some
    /// copies of directories, 0.33 all that a cancelled step has written (`ExecOp.Exec`; 0.34 does not). So many `jobs` may
    /// have ended no build before: the directories of each are new to BuildKit, and its bases to wharfd.
    pub(crate) fn are_no_more_than(&self, middle: &Self, kills: u64, jobs: u64) {
        let directories = 2 * jobs;
        let mut more = Vec::new();
        let mut further = Vec::new();
        for (what, number) in self.cache.iter().filter(|(what, _)| !what.ends_with(LEFT_STEP)) {
            let then = middle.cache.get(what).copied().unwrap_or_default();
            if *number > then {
                further.push((number - then, what));
            }
        }
        eprintln!("further build cache: {further:?}");
        if further.iter().map(|(number, _)| number).sum::<u64>() > 2 * kills + directories {
            more.push(format!("build cache: {further:?} after {kills} kills"));
        }
        for (table, rows) in self.rows.iter().filter(|(table, _)| *table != TOMBSTONES) {
            let then = middle.rows(table) + if *table == BASES { jobs } else { 0 };
            if *rows > then {
                more.push(format!("rows of {table}: {rows} and not {then}"));
            }
        }
        if self.pages > middle.pages + PAGES {
            more.push(format!("pages of the store: {} and not {}", self.pages, middle.pages));
        }
        assert!(more.is_empty(), "{more:#?}");
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache: u64 = self.cache.values().sum();
        write!(f, "{cache} records of build cache, {} pages of the store, rows {:?}", self.pages, self.rows)
    }
}

/// The cgroups of an engine's containers and steps, in every hierarchy.
pub(crate) fn cgroups(engine: &Engine) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // The first process was started in the caller's own cgroup; its name is in the engine's configuration.
    let config = fs::read_to_string(engine.socket().with_file_name("daemon.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let parent = config["cgroup-parent"].as_str().unwrap().trim_start_matches('/').to_owned();
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([top.to_owned()]) {
        below(&hierarchy.join(&parent), &mut |path| {
            // The parent of all steps' cgroups stays.
            if path.is_dir() && !path.ends_with("buildkit") {
                found.insert(path.display().to_string());
            }
        });
    }
    found
}

/// The engine's log of what is left, and the processes there.
pub(crate) fn said_by(engine: &Engine, left: &[String]) -> String {
    let log = fs::read_to_string(engine.socket().with_file_name("log")).unwrap_or_default();
    let mut said = Vec::new();
    for path in
        left.iter().filter_map(|left| left.strip_prefix("cgroups: ")?.strip_suffix(" is left")).map(Path::new)
    {
        let name = path.file_name().unwrap().to_str().unwrap();
        let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            said.push(format!("{name}: {process}: {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
        said.extend(log.lines().filter(|line| line.contains(name)).map(str::to_owned));
    }
    said.sort();
    said.dedup();
    said.join("\n")
}

/// The files and directories below a directory, but a store's own beside it.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    below(directory, &mut |path| {
        let path = path.display().to_string();
        if !path.ends_with("-wal") && !path.ends_with("-shm") {
            found.insert(path);
        }
    });
    found
}

fn below(directory: &Path, seen: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        seen(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&path, seen);
        }
    }
}
