//! The journal of public names in an engine: what each pointed to before wharfd used it.

use rusqlite::params;

use super::Store;
use crate::fault::Fault;

/// A public name that wharfd uses for a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicName {
    /// The name in the engine: `reg.example/app:1`, `reg.example/app@sha256:…`.
    pub name: String,
    /// The id of the image that wharfd puts there; none: whatever a digest stands for.
    pub ours: Option<String>,
    /// The id of the image that the operator had under it; none: nothing.
    pub before: Option<String>,
    /// The digest references that the image that wharfd puts there had in the name's repository.
    pub digests: Vec<String>,
}

impl Store {
    /// Writes down that wharfd is about to use a public name.
    pub async fn journal_begin(&self, engine: &str, public: &PublicName) -> Result<(), Fault> {
        let (engine, public) = (engine.to_owned(), public.clone());
        self.call(move |connection| {
            connection
                .execute(
                    "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?)",
                    params![engine, public.name, public.ours, public.before, public.digests.join("\n")],
                )
                .map(drop)
        })
        .await
    }

    /// What is written down of a name.
    pub async fn journal_entry(&self, engine: &str, name: &str) -> Result<Option<PublicName>, Fault> {
        Ok(self.journal(engine).await?.into_iter().find(|entry| entry.name == name))
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
                .prepare_cached(
                    "SELECT name, ours, before, digests FROM journal WHERE engine = ? ORDER BY name",
                )?
                .query_map([engine], |row| {
                    let digests: String = row.get(3)?;
                    Ok(PublicName {
                        name: row.get(0)?,
                        ours: row.get(1)?,
                        before: row.get(2)?,
                        digests: digests.lines().map(str::to_owned).collect(),
                    })
                })?
                .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_listed_until_struck_out() {
        let path = crate::store::tests::directory("journal");
        let store = Store::open(&path).unwrap();
        let entry = PublicName {
            name: "reg/app:1".into(),
            ours: Some("a".into()),
            before: Some("b".into()),
            digests: vec!["reg/app@sha256:1".into(), "reg/app@sha256:2".into()],
        };
        store.journal_begin("main", &entry).await.unwrap();
        assert_eq!(store.journal("main").await.unwrap(), std::slice::from_ref(&entry));
        assert_eq!(store.journal_entry("main", "reg/app:1").await.unwrap(), Some(entry));
        assert!(store.journal("other").await.unwrap().is_empty());
        store.journal_end("main", "reg/app:1").await.unwrap();
        assert!(store.journal("main").await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
