//! The file itself: the lock on its directory, its schema, and the handling of a broken file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::Connection;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

pub(super) const NAME: &str = "wharf.sqlite";
pub(super) const LOCK_NAME: &str = "lock";

const SCHEMA_VERSION: u32 = 15;

/// One entry for each version; a released entry never changes.
pub(super) const SCHEMA: [&str; SCHEMA_VERSION as usize] = [
    "
    -- A blob's diff id: the digest of what it holds, uncompressed. True for ever.
    CREATE TABLE layer_facts (blob TEXT PRIMARY KEY, diff_id TEXT NOT NULL) WITHOUT ROWID;
    -- The diff ids that an image claims for its layers. True for ever, unlike what is claimed.
    CREATE TABLE layer_claims (
        image TEXT NOT NULL, platform TEXT NOT NULL, position INTEGER NOT NULL,
        blob TEXT NOT NULL, diff_id TEXT NOT NULL,
        PRIMARY KEY (image, platform, position)) WITHOUT ROWID;
    -- Public names in an engine that wharfd is using: the image that it puts there, and the one that
    -- was there before, and the digest references that ours had (one a line).
    CREATE TABLE journal (
        engine TEXT NOT NULL, name TEXT NOT NULL, ours TEXT, before TEXT, digests TEXT NOT NULL,
        PRIMARY KEY (engine, name)) WITHOUT ROWID;
    -- Repositories that an engine calls an image's origin because wharfd has pushed it there.
    CREATE TABLE pushed (
        engine TEXT NOT NULL, image TEXT NOT NULL, repository TEXT NOT NULL,
        PRIMARY KEY (engine, image, repository)) WITHOUT ROWID;
    -- What a namespace's references were admitted as.
    CREATE TABLE pins (
        namespace TEXT NOT NULL, reference TEXT NOT NULL, source TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (namespace, reference)) WITHOUT ROWID;
    -- The references that a build used last time.
    CREATE TABLE bases (
        job TEXT NOT NULL, build TEXT NOT NULL, reference TEXT NOT NULL,
        PRIMARY KEY (job, build, reference)) WITHOUT ROWID;
    -- References that do not fit into a private name.
    CREATE TABLE long_names (hash TEXT PRIMARY KEY, reference TEXT NOT NULL) WITHOUT ROWID;
    -- Hold names, and when each was last of use (seconds since 1970).
    CREATE TABLE holds (
        engine TEXT NOT NULL, name TEXT NOT NULL, last_used INTEGER NOT NULL,
        PRIMARY KEY (engine, name)) WITHOUT ROWID;
",
    "
    -- Hold names, and the namespaces that each is of use to. Of those so far nobody knows: an
    -- engine's recovery takes them away, and a pin without its hold is admitted anew.
    DROP TABLE holds;
    CREATE TABLE holds (
        engine TEXT NOT NULL, name TEXT NOT NULL, namespace TEXT NOT NULL,
        PRIMARY KEY (engine, name, namespace)) WITHOUT ROWID;
    CREATE INDEX holds_of ON holds (engine, namespace);
",
    "
    -- Names under which builds make their images, and since when (seconds since 1970).
    CREATE TABLE exports (
        engine TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL,
        PRIMARY KEY (engine, name)) WITHOUT ROWID;
",
    "
    -- Engines pull and push by names at the relay, and never by public ones.
    DROP TABLE journal;
    DROP TABLE pushed;
",
    "
    -- When each was last of use (seconds since 1970). All rows of one image's claims have the same: they are
    -- forgotten together.
    ALTER TABLE layer_facts ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE layer_claims ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE bases ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    UPDATE layer_facts SET used = strftime('%s', 'now');
    UPDATE layer_claims SET used = strftime('%s', 'now');
    UPDATE bases SET used = strftime('%s', 'now');
    CREATE INDEX layer_facts_used ON layer_facts (used);
    CREATE INDEX layer_claims_used ON layer_claims (used);
    CREATE INDEX bases_used ON bases (used);
    -- References that do not fit into a private name, and the namespace that has each (an opaque name).
    -- Of those so far nobody knows whose they are.
    ALTER TABLE long_names RENAME TO old_long_names;
    CREATE TABLE long_names (
        engine TEXT NOT NULL, namespace TEXT NOT NULL, hash TEXT NOT NULL, reference TEXT NOT NULL,
        PRIMARY KEY (hash, engine, namespace)) WITHOUT ROWID;
    CREATE INDEX long_names_of ON long_names (engine, namespace);
    INSERT INTO long_names SELECT '', '', hash, reference FROM old_long_names;
    DROP TABLE old_long_names;
",
    "
    -- How a blob is packed and how many bytes it has, too. Of those so far nobody knows: they are found out
    -- anew.
    DELETE FROM layer_facts;
    DELETE FROM layer_claims;
    ALTER TABLE layer_facts ADD COLUMN packing TEXT NOT NULL DEFAULT '';
    ALTER TABLE layer_facts ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE layer_claims ADD COLUMN packing TEXT NOT NULL DEFAULT '';
    ALTER TABLE layer_claims ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
",
    "
    -- Inputs of builds (keyed hashes) that were in an engine of this version when it crashed: how often they
    -- alone may have caused that, and the weight of it; when each was last of use (seconds since 1970).
    CREATE TABLE suspects (
        engine TEXT NOT NULL, version TEXT NOT NULL, input TEXT NOT NULL, crashes INTEGER NOT NULL,
        weight INTEGER NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (engine, version, input)) WITHOUT ROWID;
    CREATE INDEX suspects_used ON suspects (used);
",
    "
    -- What the engine holds: the manifest's digest, or the id of an image of the node's. Of those so far it is not
    -- known: an image without such a hold is admitted anew by its digest.
    ALTER TABLE pins ADD COLUMN held TEXT NOT NULL DEFAULT '';
    UPDATE pins SET held = digest;
",
    "
    -- When each was last of use (seconds since 1970): a job may never end its namespaces.
    ALTER TABLE pins ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE holds ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE long_names ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    UPDATE pins SET used = strftime('%s', 'now');
    UPDATE holds SET used = strftime('%s', 'now');
    UPDATE long_names SET used = strftime('%s', 'now');
    CREATE INDEX pins_used ON pins (used);
    CREATE INDEX holds_used ON holds (used);
    CREATE INDEX long_names_used ON long_names (used);
",
    "
    -- The claims of an image are those of its manifest, which is for one platform. Of those so far, which may be
    -- by the digest of an index, none is kept: they are read anew.
    DROP TABLE layer_claims;
    CREATE TABLE layer_claims (
        image TEXT NOT NULL, position INTEGER NOT NULL, blob TEXT NOT NULL, diff_id TEXT NOT NULL,
        packing TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (image, position)) WITHOUT ROWID;
    CREATE INDEX layer_claims_used ON layer_claims (used);
",
    "
    -- When namespaces whose job an issuer has proven have ended (seconds since 1970).
    CREATE TABLE ends (namespace TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX ends_used ON ends (used);
",
    "
    -- The namespaces that may own something in an engine, by their opaque names: who has used each last, its parts
    -- (empty if it was found by its images alone), when it was used first and last (seconds since 1970).
    CREATE TABLE namespaces (
        engine TEXT NOT NULL, opaque TEXT NOT NULL, caller TEXT NOT NULL,
        issuer TEXT NOT NULL, job TEXT NOT NULL, run TEXT NOT NULL,
        begun INTEGER NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (engine, opaque)) WITHOUT ROWID;
    CREATE INDEX namespaces_of ON namespaces (engine, caller);
    CREATE INDEX namespaces_used ON namespaces (engine, used);
",
    "
    -- A namespace may use several engines, and ends on one of them alone. A pin so far is one of each engine that the
    -- namespace uses: it counts only where the engine holds its image.
    ALTER TABLE pins RENAME TO old_pins;
    CREATE TABLE pins (
        engine TEXT NOT NULL, namespace TEXT NOT NULL, reference TEXT NOT NULL, source TEXT NOT NULL,
        digest TEXT NOT NULL, held TEXT NOT NULL, used INTEGER NOT NULL,
        PRIMARY KEY (engine, namespace, reference)) WITHOUT ROWID;
    INSERT INTO pins SELECT namespaces.engine, namespace, reference, source, digest, held, old_pins.used
        FROM old_pins JOIN namespaces ON namespaces.opaque = old_pins.namespace;
    DROP TABLE old_pins;
    CREATE INDEX pins_used ON pins (used);
",
    "
    -- The jobs that may have cache mounts in an engine, by the names of these: who has built each last, its issuer and
    -- name (empty if it was found by its mounts alone), when it was used last (seconds since 1970), and whether it has
    -- been ended, and its mounts are to go.
    CREATE TABLE jobs (
        engine TEXT NOT NULL, mounts TEXT NOT NULL, caller TEXT NOT NULL, issuer TEXT NOT NULL, name TEXT NOT NULL,
        used INTEGER NOT NULL, ended INTEGER NOT NULL,
        PRIMARY KEY (engine, mounts)) WITHOUT ROWID;
    CREATE INDEX jobs_of ON jobs (engine, caller, used);
    CREATE INDEX jobs_used ON jobs (engine, used);
",
    "
    -- The volumes of pods, and the directory that each is.
    CREATE TABLE volumes (
        volume TEXT PRIMARY KEY, target TEXT NOT NULL, pod_namespace TEXT NOT NULL, pod_uid TEXT NOT NULL)
        WITHOUT ROWID;
",
];

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("another wharfd uses the state directory `{}`", path.display())]
    Locked { path: PathBuf },
    #[error("cannot use the state directory `{}`", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot open `{}`", path.display())]
    File { path: PathBuf, source: rusqlite::Error },
}

/// Makes the directory if it is missing, and locks it for as long as the returned file is open.
pub(super) fn lock(directory: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Directory { path: directory.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join(LOCK_NAME))
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(StoreError::Locked { path: directory.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Opens the file. A file that is broken, or was written by a newer wharfd, is moved aside.
pub(super) fn open(directory: &Path) -> Result<Connection, StoreError> {
    let path = directory.join(NAME);
    let failed = |source| StoreError::File { path: path.clone(), source };
    let directory_failed = |source| StoreError::Directory { path: directory.to_owned(), source };
    keep_private(&path).map_err(directory_failed)?;
    match attempt(&path).map_err(failed)? {
        Ok(connection) => return Ok(connection),
        Err(why) => {
            let aside = move_aside(&path).map_err(directory_failed)?;
            keep_private(&path).map_err(directory_failed)?;
            tracing::warn!(
                file = %path.display(), aside = %aside.display(), why,
                "the store is not readable: moved it aside and started a new one; the next builds are slower"
            );
        }
    }
    match attempt(&path).map_err(failed)? {
        Ok(connection) => Ok(connection),
        // wharfd made this file a moment ago, so the disk is at fault.
        Err(_) => Err(failed(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
            None,
        ))),
    }
}

/// Makes the file if it is missing, readable for this user alone: it reveals what jobs build, and somebody
/// else may have made the directory readable for everyone. SQLite gives its other files the same mode.
fn keep_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

/// Opens a connection. The inner error says why the file is unusable, the outer one why it cannot be opened.
fn attempt(path: &Path) -> rusqlite::Result<Result<Connection, &'static str>> {
    let checked = Connection::open(path).and_then(|mut connection| {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // The names in use in engines must survive a power failure.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            return Ok(Err("it is corrupt"));
        }
        migrate(&mut connection).map(|known| known.then_some(connection).ok_or("a newer wharfd made it"))
    });
    match checked {
        Err(rusqlite::Error::SqliteFailure(error, _))
            if matches!(
                error.code,
                rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt
            ) =>
        {
            Ok(Err("it is corrupt"))
        }
        other => other,
    }
}

/// Brings the schema up to date; false if it is newer than this wharfd.
fn migrate(connection: &mut Connection) -> rusqlite::Result<bool> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Ok(false);
    }
    let transaction = connection.transaction()?;
    for (_, step) in (0..).zip(SCHEMA).skip_while(|(done, _)| *done < version) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(true)
}

fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let suffix = format!(".aside-{}", since.as_millis());
    // The write-ahead log belongs to this file: SQLite must not apply it to the next one.
    for part in ["-wal", "-shm"] {
        let log = with_suffix(path, part);
        match fs::rename(&log, with_suffix(&log, &suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let aside = with_suffix(path, &suffix);
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
