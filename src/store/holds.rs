//! The namespaces that need each hold; a hold is removed with the last of them.

use std::collections::HashSet;

use rusqlite::params;

use super::{
    Access,
    unused::{now, touch},
};
use crate::{
    fault::Fault,
    names::EngineName,
    naming::{ImageName, NamespaceKey},
};

impl Access {
    /// Records that `namespace` (an opaque key) needs `hold`, a name in `engine`; returns whether that is new. Call it
    /// with the lock of the hold, before looking for the name: a task that releases the same hold then sees that it
    /// is still needed.
    pub async fn hold(
        &self,
        engine: &EngineName,
        hold: &ImageName,
        namespace: &NamespaceKey,
    ) -> Result<bool, Fault> {
        let (engine, hold, namespace) = (engine.clone(), hold.clone(), namespace.clone());
        self.call(move |connection| {
            let new = connection
                .prepare_cached("INSERT OR IGNORE INTO holds VALUES (?, ?, ?, ?)")?
                .execute(params![engine, hold, namespace, now()])?;
            let which = "engine = ? AND name = ? AND namespace = ?";
            touch(connection, "holds", which, params![engine, hold, namespace])?;
            Ok(new > 0)
        })
        .await
    }

    /// The holds that `namespace` needs.
    pub async fn holds_of(
        &self,
        engine: &EngineName,
        namespace: &NamespaceKey,
    ) -> Result<Vec<String>, Fault> {
        let (engine, namespace) = (engine.clone(), namespace.clone());
        self.call(move |connection| {
            connection
                .prepare("SELECT name FROM holds WHERE engine = ? AND namespace = ? ORDER BY name")?
                .query_map(params![engine, namespace], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Records that `namespace` no longer needs `hold`; returns whether other namespaces do.
    pub async fn let_go(
        &self,
        engine: &EngineName,
        hold: &ImageName,
        namespace: &NamespaceKey,
    ) -> Result<bool, Fault> {
        let (engine, hold, namespace) = (engine.clone(), hold.to_owned(), namespace.clone());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "DELETE FROM holds WHERE engine = ? AND name = ? AND namespace = ?",
                params![engine, hold, namespace],
            )?;
            let held = is_held(&transaction, &engine, &hold)?;
            transaction.commit()?;
            Ok(held)
        })
        .await
    }

    /// Whether any namespace needs `hold`.
    pub async fn is_held(&self, engine: &EngineName, hold: &ImageName) -> Result<bool, Fault> {
        let (engine, hold) = (engine.clone(), hold.clone());
        self.call(move |connection| is_held(connection, &engine, &hold)).await
    }

    /// Forgets the holds of an engine that are not among `kept`; returns the number of forgotten rows.
    pub async fn forget_holds_but(&self, engine: &EngineName, kept: HashSet<String>) -> Result<usize, Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let known: Vec<String> = transaction
                .prepare("SELECT DISTINCT name FROM holds WHERE engine = ?")?
                .query_map([&engine], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut forgotten = 0;
            for hold in known.iter().filter(|hold| !kept.contains(*hold)) {
                forgotten += transaction
                    .execute("DELETE FROM holds WHERE engine = ? AND name = ?", params![engine, hold])?;
            }
            transaction.commit()?;
            Ok(forgotten)
        })
        .await
    }

    /// Forgets a hold that was removed from the engine.
    pub async fn forget_hold(&self, engine: &EngineName, hold: &ImageName) -> Result<(), Fault> {
        let (engine, hold) = (engine.clone(), hold.clone());
        self.call(move |connection| {
            connection
                .execute("DELETE FROM holds WHERE engine = ? AND name = ?", params![engine, hold])
                .map(drop)
        })
        .await
    }
}

fn is_held(
    connection: &rusqlite::Connection,
    engine: &EngineName,
    hold: &ImageName,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM holds WHERE engine = ? AND name = ?)")?
        .query_row(params![engine, hold], |row| row.get(0))
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
            store.hold(&engine.into(), &hold.into(), &namespace.into()).await.unwrap();
        }
        store.hold(&"main".into(), &"b".into(), &"two".into()).await.unwrap();
        assert_eq!(store.holds_of(&"main".into(), &"two".into()).await.unwrap(), ["a", "b"]);
        assert!(store.let_go(&"main".into(), &"a".into(), &"two".into()).await.unwrap());
        assert!(!store.let_go(&"main".into(), &"a".into(), &"one".into()).await.unwrap());
        assert!(!store.is_held(&"main".into(), &"a".into()).await.unwrap());
        assert!(store.is_held(&"other".into(), &"a".into()).await.unwrap());
        assert!(store.hold(&"main".into(), &"c".into(), &"two".into()).await.unwrap());
        assert!(
            !store.hold(&"main".into(), &"c".into(), &"two".into()).await.unwrap(),
            "it is there already"
        );
        assert_eq!(store.forget_holds_but(&"main".into(), HashSet::from(["b".to_owned()])).await.unwrap(), 1);
        assert_eq!(store.holds_of(&"main".into(), &"two".into()).await.unwrap(), ["b"]);
        assert!(store.is_held(&"other".into(), &"a".into()).await.unwrap(), "it is another engine's");
        store.forget_hold(&"main".into(), &"b".into()).await.unwrap();
        assert!(store.holds_of(&"main".into(), &"two".into()).await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
