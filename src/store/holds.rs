//! When each hold was last of use: the least recently used go first when the disk is short.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::params;

use super::Store;
use crate::fault::Fault;

/// A hold that is used every second need not be written down every second.
const RESOLUTION_SECONDS: i64 = 60;

impl Store {
    /// Notes that a hold is of use now.
    pub async fn touch_hold(&self, engine: &str, name: &str) -> Result<(), Fault> {
        let (engine, name) = (engine.to_owned(), name.to_owned());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        self.call(move |connection| {
            connection
                .execute(
                    "INSERT INTO holds VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET last_used = ?3 \
                     WHERE last_used < ?3 - ?4",
                    params![engine, name, now, RESOLUTION_SECONDS],
                )
                .map(drop)
        })
        .await
    }

    /// Forgets a hold that was removed.
    pub async fn forget_hold(&self, engine: &str, name: &str) -> Result<(), Fault> {
        let (engine, name) = (engine.to_owned(), name.to_owned());
        self.call(move |connection| {
            connection.execute("DELETE FROM holds WHERE engine = ? AND name = ?", [engine, name]).map(drop)
        })
        .await
    }

    /// The holds of an engine, the least recently used first.
    pub async fn holds(&self, engine: &str) -> Result<Vec<String>, Fault> {
        let engine = engine.to_owned();
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT name FROM holds WHERE engine = ? ORDER BY last_used, name")?
                .query_map([engine], |row| row.get(0))?
                .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn holds_are_listed_until_forgotten() {
        let path = crate::store::tests::directory("holds");
        let store = Store::open(&path).unwrap();
        store.touch_hold("main", "a").await.unwrap();
        store.touch_hold("main", "a").await.unwrap();
        store.touch_hold("main", "b").await.unwrap();
        store.touch_hold("other", "c").await.unwrap();
        store.forget_hold("main", "a").await.unwrap();
        assert_eq!(store.holds("main").await.unwrap(), ["b"]);
        std::fs::remove_dir_all(path).unwrap();
    }
}
