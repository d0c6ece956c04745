//! References that are too long for a private name, which then contains their hash. A reference is kept for
//! its namespace, and removed with the private name or the namespace.

use std::collections::HashSet;

use rusqlite::{OptionalExtension as _, params};

use super::{
    Access,
    unused::{now, touch},
};
use crate::{
    fault::Fault,
    names::EngineName,
    naming::{LongName, NamespaceKey},
};

impl Access {
    /// The reference behind the hash in a private name.
    pub async fn long_name(&self, hash: &LongName) -> Result<Option<String>, Fault> {
        let hash = hash.clone();
        self.call(move |connection| {
            touch(connection, "long_names", "hash = ?", [&hash])?;
            connection
                .prepare_cached("SELECT reference FROM long_names WHERE hash = ? LIMIT 1")?
                .query_row([hash], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Remembers the reference behind the hash in one of the private names of `namespace` (an opaque key).
    pub async fn remember_long_name(
        &self,
        engine: &EngineName,
        namespace: &NamespaceKey,
        hash: &LongName,
        reference: &str,
    ) -> Result<(), Fault> {
        let (engine, namespace) = (engine.clone(), namespace.clone());
        let (hash, reference) = (hash.clone(), reference.to_owned());
        self.call(move |connection| {
            let row = params![engine, namespace, hash, reference, now()];
            connection.execute("INSERT OR REPLACE INTO long_names VALUES (?, ?, ?, ?, ?)", row).map(drop)
        })
        .await
    }

    /// Forgets the reference behind the hash in a private name of `namespace` that the engine no longer has.
    pub async fn forget_long_name(
        &self,
        engine: &EngineName,
        namespace: &NamespaceKey,
        hash: &LongName,
    ) -> Result<(), Fault> {
        let (engine, namespace, hash) = (engine.clone(), namespace.clone(), hash.clone());
        self.call(move |connection| {
            let delete = "DELETE FROM long_names WHERE engine = ? AND namespace = ? AND hash = ?";
            connection.execute(delete, params![engine, namespace, hash]).map(drop)
        })
        .await
    }

    /// Forgets the references of a namespace that has ended.
    pub async fn forget_long_names(
        &self,
        engine: &EngineName,
        namespace: &NamespaceKey,
    ) -> Result<(), Fault> {
        let (engine, namespace) = (engine.clone(), namespace.clone());
        self.call(move |connection| {
            let delete = "DELETE FROM long_names WHERE engine = ? AND namespace = ?";
            connection.execute(delete, params![engine, namespace]).map(drop)
        })
        .await
    }

    /// Forgets the references of an engine that are not among `kept`, pairs of a namespace and a hash.
    /// Returns the number of forgotten ones.
    pub async fn forget_long_names_but(
        &self,
        engine: &EngineName,
        kept: HashSet<(NamespaceKey, LongName)>,
    ) -> Result<usize, Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let known: Vec<(NamespaceKey, LongName)> = transaction
                .prepare("SELECT namespace, hash FROM long_names WHERE engine = ?")?
                .query_map([&engine], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let mut forgotten = 0;
            for (namespace, hash) in known.iter().filter(|known| !kept.contains(known)) {
                forgotten += transaction.execute(
                    "DELETE FROM long_names WHERE engine = ? AND namespace = ? AND hash = ?",
                    params![engine, namespace, hash],
                )?;
            }
            transaction.commit()?;
            Ok(forgotten)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_reference_goes_with_its_namespace_or_its_name() {
        let path = crate::store::tests::directory("long-names");
        let store = Store::open(&path).unwrap().own();
        for (engine, namespace, hash) in
            [("main", "a", "1"), ("main", "b", "1"), ("main", "b", "2"), ("other", "b", "3")]
        {
            store
                .remember_long_name(&engine.into(), &namespace.into(), &hash.into(), &format!("app:{hash}"))
                .await
                .unwrap();
        }
        store.forget_long_names(&"main".into(), &"a".into()).await.unwrap();
        assert_eq!(
            store.long_name(&"1".into()).await.unwrap().as_deref(),
            Some("app:1"),
            "another namespace has it"
        );
        let kept = HashSet::from([("b".into(), "2".into())]);
        assert_eq!(store.forget_long_names_but(&"main".into(), kept).await.unwrap(), 1);
        assert_eq!(store.long_name(&"1".into()).await.unwrap(), None);
        assert!(store.long_name(&"2".into()).await.unwrap().is_some());
        assert!(store.long_name(&"3".into()).await.unwrap().is_some(), "it is another engine's");
        std::fs::remove_dir_all(path).unwrap();
    }
}
