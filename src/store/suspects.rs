//! Suspects: inputs of builds that were in an engine when it crashed.

use rusqlite::{OptionalExtension as _, params};

use super::{
    Access,
    unused::{now, touch},
};
use crate::{fault::Fault, names::EngineName, naming::InputKey};

/// The memory of an input that was in an engine when it crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// How many crashes it alone may have caused.
    pub crashes: u32,
    /// The weight of these.
    pub weight: u32,
}

/// The part of an input in one crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The input.
    pub input: InputKey,
    /// 0 if another input may have caused the crash as well.
    pub weight: u32,
}

impl Access {
    /// The memory of `input` on the engine in this version.
    pub async fn suspect(
        &self,
        engine: &EngineName,
        version: &str,
        input: &InputKey,
    ) -> Result<Option<Suspect>, Fault> {
        let (engine, version, input) = (engine.clone(), version.to_owned(), input.clone());
        self.call(move |connection| {
            touch(
                connection,
                "suspects",
                "engine = ? AND version = ? AND input = ?",
                params![engine, version, input],
            )?;
            connection
                .prepare_cached(
                    "SELECT crashes, weight FROM suspects WHERE engine = ? AND version = ? AND input = ?",
                )?
                .query_row(params![engine, version, input], |row| {
                    Ok(Suspect { crashes: row.get(0)?, weight: row.get(1)? })
                })
                .optional()
        })
        .await
    }

    /// Remembers a crash of the engine in this version.
    pub async fn blame(&self, engine: &EngineName, version: &str, blames: Vec<Blame>) -> Result<(), Fault> {
        let (engine, version, now) = (engine.clone(), version.to_owned(), now());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            for Blame { input, weight } in blames {
                transaction.execute(
                    "INSERT INTO suspects VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET
                     crashes = crashes + ?4, weight = weight + ?5, used = ?6",
                    params![engine, version, input, u32::from(weight > 0), weight, now],
                )?;
            }
            transaction.commit()
        })
        .await
    }

    /// Forgets `input`: a build with it has ended well.
    pub async fn acquit(&self, engine: &EngineName, version: &str, input: &InputKey) -> Result<(), Fault> {
        let (engine, version, input) = (engine.clone(), version.to_owned(), input.clone());
        self.call(move |connection| {
            let delete = "DELETE FROM suspects WHERE engine = ? AND version = ? AND input = ?";
            connection.execute(delete, params![engine, version, input]).map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn crashes_add_up_for_one_engine_in_one_version() {
        let path = crate::store::tests::directory("suspects");
        let store = Store::open(&path).unwrap().own();
        let blame = |input: &str, weight| Blame { input: input.into(), weight };
        store.blame(&"main".into(), "26.1", vec![blame("a", 1), blame("b", 0)]).await.unwrap();
        store.blame(&"main".into(), "26.1", vec![blame("a", 2)]).await.unwrap();
        let found = async |engine: &str, version, input: &str| {
            store.suspect(&engine.into(), version, &input.into()).await.unwrap()
        };
        assert_eq!(found("main", "26.1", "a").await, Some(Suspect { crashes: 2, weight: 3 }));
        assert_eq!(found("main", "26.1", "b").await, Some(Suspect { crashes: 0, weight: 0 }));
        assert_eq!(found("main", "26.2", "a").await, None);
        assert_eq!(found("other", "26.1", "a").await, None);
        store.acquit(&"main".into(), "26.1", &"a".into()).await.unwrap();
        assert_eq!(found("main", "26.1", "a").await, None);
        std::fs::remove_dir_all(path).unwrap();
    }
}
