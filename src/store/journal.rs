//! The journal of public names in an engine: what each pointed to before wharfd used it.

use rusqlite::params;

use super::Store;
use crate::fault::Fault;

/// A public name that wharfd uses for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicName {
    /// The name in the engine: `reg.example/app:1`, `reg.example/app@sha256:…`.
    pub name: String,
    /// The id of the image that the operator had under it; none: nothing.
    pub before: Option<String>,
}

impl Store {
    /// Writes down that wharfd is about to use a public name. An entry that is there already, left
    /// by a crash, says what the operator had: it stays.
    pub async fn journal_begin(&self, engine: &str, public: &PublicName) -> Result<(), Fault> {
        let (engine, public) = (engine.to_owned(), public.clone());
        self.call(move |connection| {
            connection
                .execute(
                    "INSERT OR IGNORE INTO journal VALUES (?, ?, ?)",
                    params![engine, public.name, public.before],
                )
                .map(drop)
        })
        .await
    }

    /// Strikes a name out: the engine is as it was.
    pub async fn journal_end(&self, engine: &str, name: &str) -> Result<(), Fault> {
        let (engine, name) = (engine.to_owned(), name.to_owned());
        self.call(move |connection| {
            connection.execute("DELETE FROM journal WHERE engine = ? AND name = ?", [engine, name]).map(drop)
        })
        .await
    }

    /// The names in use; at start, those that a crash has left.
    pub async fn journal(&self, engine: &str) -> Result<Vec<PublicName>, Fault> {
        let engine = engine.to_owned();
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT name, before FROM journal WHERE engine = ? ORDER BY name")?
                .query_map([engine], |row| Ok(PublicName { name: row.get(0)?, before: row.get(1)? }))?
                .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_entry_of_a_name_stays() {
        let path = crate::store::tests::directory("journal");
        let store = Store::open(&path).unwrap();
        let before = |before: &str| PublicName { name: "reg/app:1".into(), before: Some(before.into()) };
        store.journal_begin("main", &before("operators")).await.unwrap();
        store.journal_begin("main", &before("ours, left by a crash")).await.unwrap();
        assert_eq!(store.journal("main").await.unwrap(), [before("operators")]);
        assert!(store.journal("other").await.unwrap().is_empty());
        store.journal_end("main", "reg/app:1").await.unwrap();
        assert!(store.journal("main").await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
