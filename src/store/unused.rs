//! What the store forgets by itself. Facts about layers and the bases of builds only save time, and jobs choose
//! their keys: they are kept while they are of use, and never more than so many. What is about an engine goes
//! when the configuration does not name that engine any more.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params_from_iter};

use super::Store;
use crate::fault::Fault;

/// Tables whose rows have a `used`, in seconds since 1970.
const BY_USE: [&str; 3] = ["layer_facts", "layer_claims", "bases"];
/// Tables whose rows are about an `engine`.
const BY_ENGINE: [&str; 3] = ["holds", "exports", "long_names"];
/// What nobody has used for so long is forgotten.
const UNUSED_SECONDS_MAX: i64 = 90 * 24 * 3600;
/// Beyond so many rows of a table the longest unused ones are forgotten: some 100 MB.
const ROWS_MAX: i64 = 500_000;
/// How exact `used` is: a rebuild, the usual case, does not wait for the disk.
const EXACT_SECONDS: i64 = 7 * 24 * 3600;

/// What was forgotten, in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Facts and bases that were of no use for long.
    pub unused: usize,
    /// Rows about engines that the configuration does not name.
    pub of_engines: usize,
}

impl Store {
    /// Forgets facts and bases that are of no use any more.
    pub async fn forget_unused(&self) -> Result<Forgotten, Fault> {
        let now = now();
        self.call(move |connection| {
            let unused = forget_unused(connection, now, ROWS_MAX)?;
            Ok(Forgotten { unused, ..Forgotten::default() })
        })
        .await
    }

    /// Forgets what is about engines other than `engines`.
    pub async fn forget_engines_but(&self, mut engines: Vec<String>) -> Result<Forgotten, Fault> {
        // Of some long names nobody knows whose they are; no more come.
        engines.push(String::new());
        self.call(move |connection| {
            let places = vec!["?"; engines.len()].join(", ");
            let mut of_engines = 0;
            for table in BY_ENGINE {
                let delete = format!("DELETE FROM {table} WHERE engine NOT IN ({places})");
                of_engines += connection.execute(&delete, params_from_iter(&engines))?;
            }
            Ok(Forgotten { of_engines, ..Forgotten::default() })
        })
        .await
    }
}

fn forget_unused(connection: &Connection, now: i64, rows_max: i64) -> rusqlite::Result<usize> {
    let mut forgotten = 0;
    for table in BY_USE {
        forgotten +=
            connection.execute(&format!("DELETE FROM {table} WHERE used < ?"), [now - UNUSED_SECONDS_MAX])?;
        // The newest of those that are too many, and all that are not newer: an image's claims go together.
        forgotten += connection.execute(
            &format!(
                "DELETE FROM {table} WHERE used <= (SELECT used FROM {table} ORDER BY used DESC LIMIT 1 OFFSET ?)"
            ),
            [rows_max],
        )?;
    }
    Ok(forgotten)
}

/// Notes that rows of `table` are of use; `which` is the condition that finds them, with its parameters.
pub(super) fn touch<const N: usize>(
    connection: &Connection,
    table: &str,
    which: &str,
    key: [&String; N],
) -> rusqlite::Result<()> {
    let now = now();
    let update = format!("UPDATE {table} SET used = {now} WHERE {which} AND used < {}", now - EXACT_SECONDS);
    connection.execute(&update, params_from_iter(key)).map(drop)
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{Reference, reference::Digest},
        store::{LayerClaim, LayerFact, Packing},
    };

    const DAY: i64 = 24 * 3600;

    fn digest(digit: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
    }

    fn layer() -> LayerFact {
        LayerFact { diff_id: digest("b"), packing: Packing::Gzip, size: 7 }
    }

    /// As if nothing had been used for so many days.
    async fn age(store: &Store, days: i64) {
        for table in BY_USE {
            let update = format!("UPDATE {table} SET used = used - {}", days * DAY);
            store.call(move |connection| connection.execute(&update, [])).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_of_use_stays_and_the_rest_is_forgotten() {
        let path = crate::store::tests::directory("unused");
        let store = Store::open(&path).unwrap();
        let base = [Reference::parse("base:1").unwrap()];
        let claims = vec![LayerClaim { blob: digest("a"), layer: layer() }; 3];
        for used in ["1", "2"] {
            store.learn_layer(&digest(used), &layer()).await.unwrap();
            store.learn_claims(&digest(used), "linux/amd64", claims.clone()).await.unwrap();
            store.set_bases(used, "build", &base).await.unwrap();
        }
        age(&store, 89).await;
        assert_eq!(store.forget_unused().await.unwrap().unused, 0);
        store.layer_fact(&digest("1")).await.unwrap();
        store.layer_claims(&digest("1"), "linux/amd64").await.unwrap();
        store.bases("1", "build").await.unwrap();
        age(&store, 2).await;
        assert_eq!(store.forget_unused().await.unwrap().unused, 5);
        assert_eq!(store.layer_fact(&digest("1")).await.unwrap(), Some(layer()));
        assert_eq!(store.layer_claims(&digest("1"), "linux/amd64").await.unwrap(), claims);
        assert_eq!(store.bases("1", "build").await.unwrap(), base);
        assert_eq!(store.layer_fact(&digest("2")).await.unwrap(), None);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn there_are_never_more_than_so_many() {
        let path = crate::store::tests::directory("too-many");
        let store = Store::open(&path).unwrap();
        let claims = vec![LayerClaim { blob: digest("a"), layer: layer() }; 3];
        for image in ["1", "2", "3"] {
            age(&store, 1).await;
            store.learn_claims(&digest(image), "linux/amd64", claims.clone()).await.unwrap();
        }
        // The second image's are half too many: they go as a whole, for half of them would be believed.
        let forgotten = store.call(|connection| forget_unused(connection, now(), 5)).await.unwrap();
        assert_eq!(forgotten, 6);
        for (image, left) in [("1", 0), ("2", 0), ("3", 3)] {
            assert_eq!(store.layer_claims(&digest(image), "linux/amd64").await.unwrap().len(), left);
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn an_engine_that_is_not_configured_is_forgotten() {
        let path = crate::store::tests::directory("engines");
        let store = Store::open(&path).unwrap();
        for engine in ["kept", "gone"] {
            store.hold(engine, "hold", "a").await.unwrap();
            store.export_begin(engine, "export").await.unwrap();
            store.remember_long_name(engine, "a", engine, "app:1").await.unwrap();
        }
        let forgotten = store.forget_engines_but(vec!["kept".to_owned()]).await.unwrap();
        assert_eq!(forgotten.of_engines, 3);
        assert!(
            store.is_held("kept", "hold").await.unwrap() && !store.is_held("gone", "hold").await.unwrap()
        );
        assert_eq!(store.exports("kept").await.unwrap().len(), 1);
        assert!(store.long_name("kept").await.unwrap().is_some());
        assert_eq!(store.long_name("gone").await.unwrap(), None);
        std::fs::remove_dir_all(path).unwrap();
    }
}
