//! Removal of unused rows. Jobs choose the keys of every table but `exports` and `volumes`, whose rows end
//! with their builds and pods, and `namespaces` and `jobs`, whose rows end with the things that they own and
//! which are limited for each caller: unused rows are removed, and their number is limited. Everything that
//! is lost in this way is found out again: an image whose pin or hold is forgotten is admitted again, and a
//! long name shows its hash. A token as old as a forgotten end would be valid again, if it has not expired.
//! Rows about an engine are removed when the configuration no longer names that engine.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Params, params_from_iter};

use super::Access;
use crate::fault::Fault;

/// Tables whose rows have a `used`, in seconds since 1970.
const BY_USE: [&str; 8] =
    ["layer_facts", "layer_claims", "bases", "suspects", "pins", "holds", "long_names", "ends"];
/// Tables whose rows are about an `engine`.
const BY_ENGINE: [&str; 7] = ["holds", "exports", "long_names", "suspects", "namespaces", "pins", "jobs"];
/// Rows that nobody has used for this long are forgotten.
const UNUSED_SECONDS_MAX: i64 = 90 * 24 * 3600;
/// The most rows of one table, some 100 MB; beyond it the least recently used rows are forgotten.
const ROWS_MAX: i64 = 500_000;
/// The precision of `used`: most rebuilds find it recent enough and need not wait for the disk.
const EXACT_SECONDS: i64 = 7 * 24 * 3600;

/// The numbers of forgotten rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Rows that were unused for long.
    pub unused: usize,
    /// Rows about engines that the configuration does not name.
    pub of_engines: usize,
}

impl Access {
    /// Forgets rows that were unused for long, or that exceed the limit.
    pub async fn forget_unused(&self) -> Result<Forgotten, Fault> {
        let now = now();
        self.call(move |connection| {
            let unused = forget_unused(connection, now, ROWS_MAX)?;
            Ok(Forgotten { unused, ..Forgotten::default() })
        })
        .await
    }

    /// Forgets all rows about engines other than `engines`.
    pub async fn forget_engines_but(&self, mut engines: Vec<String>) -> Result<Forgotten, Fault> {
        // Long names from an old schema have no engine. No new ones arise, so they are kept.
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
        // Remove all rows that are as old as the first row beyond the limit, or older: an image's
        // claims have the same age and must be removed together.
        forgotten += connection.execute(
            &format!(
                "DELETE FROM {table} WHERE used <= (SELECT used FROM {table} ORDER BY used DESC LIMIT 1 OFFSET ?)"
            ),
            [rows_max],
        )?;
    }
    Ok(forgotten)
}

/// Marks rows of `table` as used; `which` is the SQL condition that selects them, with its parameters.
pub(super) fn touch(
    connection: &Connection,
    table: &str,
    which: &str,
    key: impl Params,
) -> rusqlite::Result<()> {
    let now = now();
    let update = format!("UPDATE {table} SET used = {now} WHERE {which} AND used < {}", now - EXACT_SECONDS);
    connection.execute(&update, key).map(drop)
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
        store::{LayerClaim, LayerFact, Packing, Pin, PinSource, Store},
    };

    const DAY: i64 = 24 * 3600;

    fn digest(digit: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
    }

    fn layer() -> LayerFact {
        LayerFact { diff_id: digest("b"), packing: Packing::Gzip, size: 7 }
    }

    /// Ages all rows by `days`.
    async fn age(store: &Access, days: i64) {
        for table in BY_USE {
            let update = format!("UPDATE {table} SET used = used - {}", days * DAY);
            store.call(move |connection| connection.execute(&update, [])).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_of_use_stays_and_the_rest_is_forgotten() {
        let path = crate::store::tests::directory("unused");
        let store = Store::open(&path).unwrap().own();
        let base = [Reference::parse("base:1").unwrap()];
        let claims = vec![LayerClaim { blob: digest("a"), layer: layer() }; 3];
        for used in ["1", "2"] {
            store.learn_layer(&digest(used), &layer()).await.unwrap();
            store.learn_claims(&digest(used), claims.clone()).await.unwrap();
            store.set_bases(&used.into(), &"build".into(), &base).await.unwrap();
        }
        age(&store, 89).await;
        assert_eq!(store.forget_unused().await.unwrap().unused, 0);
        store.layer_fact(&digest("1")).await.unwrap();
        store.layer_claims(&digest("1")).await.unwrap();
        store.bases(&"1".into(), &"build".into()).await.unwrap();
        age(&store, 2).await;
        assert_eq!(store.forget_unused().await.unwrap().unused, 5);
        assert_eq!(store.layer_fact(&digest("1")).await.unwrap(), Some(layer()));
        assert_eq!(store.layer_claims(&digest("1")).await.unwrap(), claims);
        assert_eq!(store.bases(&"1".into(), &"build".into()).await.unwrap(), base);
        assert_eq!(store.layer_fact(&digest("2")).await.unwrap(), None);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn there_are_never_more_than_so_many() {
        let path = crate::store::tests::directory("too-many");
        let store = Store::open(&path).unwrap().own();
        let claims = vec![LayerClaim { blob: digest("a"), layer: layer() }; 3];
        for image in ["1", "2", "3"] {
            age(&store, 1).await;
            store.learn_claims(&digest(image), claims.clone()).await.unwrap();
        }
        // Half of the second image's claims exceed the limit. All are removed: a rest would be trusted.
        let forgotten = store.call(|connection| forget_unused(connection, now(), 5)).await.unwrap();
        assert_eq!(forgotten, 6);
        for (image, left) in [("1", 0), ("2", 0), ("3", 3)] {
            assert_eq!(store.layer_claims(&digest(image)).await.unwrap().len(), left);
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn every_other_table_has_a_limit() {
        let path = crate::store::tests::directory("limits");
        let store = Store::open(&path).unwrap().own();
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('exports', 'namespaces', 'jobs', 'volumes')";
        let tables: Vec<String> = store
            .call(move |connection| {
                connection.prepare(tables)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
            })
            .await
            .unwrap();
        assert_eq!(tables.len(), BY_USE.len(), "{tables:?}");
        assert!(tables.iter().all(|table| BY_USE.contains(&table.as_str())), "{tables:?}");
        let digest = digest("a");
        let pin = Pin { source: PinSource::Registry, digest: digest.clone(), held: digest };
        for used in ["1", "2"] {
            store.hold(&"main".into(), &used.into(), &"a".into()).await.unwrap();
            store
                .set_pin(&"main".into(), &used.into(), &Reference::parse("base:1").unwrap(), &pin)
                .await
                .unwrap();
            store.remember_long_name(&"main".into(), &"a".into(), &used.into(), "app:1").await.unwrap();
        }
        age(&store, 89).await;
        store.hold(&"main".into(), &"1".into(), &"a".into()).await.unwrap();
        store.pin(&"main".into(), &"1".into(), &Reference::parse("base:1").unwrap()).await.unwrap();
        store.long_name(&"1".into()).await.unwrap();
        age(&store, 2).await;
        assert_eq!(store.forget_unused().await.unwrap().unused, 3);
        assert!(
            store.is_held(&"main".into(), &"1".into()).await.unwrap()
                && !store.is_held(&"main".into(), &"2".into()).await.unwrap()
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn an_engine_that_is_not_configured_is_forgotten() {
        let path = crate::store::tests::directory("engines");
        let store = Store::open(&path).unwrap().own();
        let (reference, digest) = (Reference::parse("base:1").unwrap(), digest("a"));
        let pin = Pin { source: PinSource::Registry, digest: digest.clone(), held: digest };
        for engine in ["kept", "gone"] {
            store.hold(&engine.into(), &"hold".into(), &"a".into()).await.unwrap();
            store.export_begin(&engine.into(), &"export".into()).await.unwrap();
            store.remember_long_name(&engine.into(), &"a".into(), &engine.into(), "app:1").await.unwrap();
            store.set_pin(&engine.into(), &"a".into(), &reference, &pin).await.unwrap();
        }
        let forgotten = store.forget_engines_but(vec!["kept".to_owned()]).await.unwrap();
        assert_eq!(forgotten.of_engines, 4);
        assert_eq!(store.pin(&"kept".into(), &"a".into(), &reference).await.unwrap(), Some(pin));
        assert!(
            store.is_held(&"kept".into(), &"hold".into()).await.unwrap()
                && !store.is_held(&"gone".into(), &"hold".into()).await.unwrap()
        );
        assert_eq!(store.exports(&"kept".into()).await.unwrap().len(), 1);
        assert!(store.long_name(&"kept".into()).await.unwrap().is_some());
        assert_eq!(store.long_name(&"gone".into()).await.unwrap(), None);
        std::fs::remove_dir_all(path).unwrap();
    }
}
