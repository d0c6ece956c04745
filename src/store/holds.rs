//! The namespaces that need each hold; a hold is removed with the last of them.

use std::collections::HashSet;

use rusqlite::params;

use super::{
    Access,
    unused::{now, touch},
};
use crate::fault::Fault;

impl Access {
    /// Records that `namespace` (an opaque key) needs `hold`, a name in `engine`; returns whether that is new. Call it
    /// with the lock of the hold, before looking for the name: a task that releases the same hold then sees that it
    /// is still needed.
    pub async fn hold(&self, engine: &str, hold: &str, namespace: &str) -> Result<bool, Fault> {
        let key = [engine.to_owned(), hold.to_owned(), namespace.to_owned()];
        self.call(move |connection| {
            let [engine, hold, namespace] = &key;
            let new = connection
                .prepare_cached("INSERT OR IGNORE INTO holds VALUES (?, ?, ?, ?)")?
                .execute(params![engine, hold, namespace, now()])?;
            let which = "engine = ? AND name = ? AND namespace = ?";
            touch(connection, "holds", which, [engine, hold, namespace])?;
            Ok(new > 0)
        })
        .await
    }

    /// The holds that `namespace` needs.
    pub async fn holds_of(&self, engine: &str, namespace: &str) -> Result<Vec<String>, Fault> {
        let key = [engine.to_owned(), namespace.to_owned()];
        self.call(move |connection| {
            connection
                .prepare("SELECT name FROM holds WHERE engine = ? AND namespace = ? ORDER BY name")?
                .query_map(key, |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Records that `namespace` no longer needs `hold`; returns whether other namespaces do.
    pub async fn let_go(&self, engine: &str, hold: &str, namespace: &str) -> Result<bool, Fault> {
        let row = [engine.to_owned(), hold.to_owned(), namespace.to_owned()];
        let key = [engine.to_owned(), hold.to_owned()];
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM holds WHERE engine = ? AND name = ? AND namespace = ?", row)?;
            let held = is_held(&transaction, key)?;
            transaction.commit()?;
            Ok(held)
        })
        .await
    }

    /// Whether any namespace needs `hold`.
    pub async fn is_held(&self, engine: &str, hold: &str) -> Result<bool, Fault> {
        let key = [engine.to_owned(), hold.to_owned()];
        self.call(move |connection| is_held(connection, key)).await
    }

    /// Forgets the holds of an engine that are not among `kept`; returns the number of forgotten rows.
    pub async fn forget_holds_but(&self, engine: &str, kept: HashSet<String>) -> Result<usize, Fault> {
        let engine = engine.to_owned();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let known: Vec<String> = transaction
                .prepare("SELECT DISTINCT name FROM holds WHERE engine = ?")?
                .query_map([&engine], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut forgotten = 0;
            for hold in known.iter().filter(|hold| !kept.contains(*hold)) {
                forgotten += transaction
                    .execute("DELETE FROM holds WHERE engine = ? AND name = ?", [&engine, hold])?;
            }
            transaction.commit()?;
            Ok(forgotten)
        })
        .await
    }

    /// Forgets a hold that was removed from the engine.
    pub async fn forget_hold(&self, engine: &str, hold: &str) -> Result<(), Fault> {
        let key = [engine.to_owned(), hold.to_owned()];
        self.call(move |connection| {
            connection.execute("DELETE FROM holds WHERE engine = ? AND name = ?", key).map(drop)
        })
        .await
    }
}

fn is_held(connection: &rusqlite::Connection, key: [String; 2]) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM holds WHERE engine = ? AND name = ?)")?
        .query_row(key, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_hold_goes_with_its_last_namespace() {
        let path = crate::store::tests::directory("holds");
        let store = Store::open(&path).unwrap().own();
        for (engine, hold, namespace) in
            [("main", "a", "one"), ("main", "a", "one"), ("main", "a", "two"), ("other", "a", "two")]
        {
            store.hold(engine, hold, namespace).await.unwrap();
        }
        store.hold("main", "b", "two").await.unwrap();
        assert_eq!(store.holds_of("main", "two").await.unwrap(), ["a", "b"]);
        assert!(store.let_go("main", "a", "two").await.unwrap());
        assert!(!store.let_go("main", "a", "one").await.unwrap());
        assert!(!store.is_held("main", "a").await.unwrap());
        assert!(store.is_held("other", "a").await.unwrap());
        assert!(store.hold("main", "c", "two").await.unwrap());
        assert!(!store.hold("main", "c", "two").await.unwrap(), "it is there already");
        assert_eq!(store.forget_holds_but("main", HashSet::from(["b".to_owned()])).await.unwrap(), 1);
        assert_eq!(store.holds_of("main", "two").await.unwrap(), ["b"]);
        assert!(store.is_held("other", "a").await.unwrap(), "it is another engine's");
        store.forget_hold("main", "b").await.unwrap();
        assert!(store.holds_of("main", "two").await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
