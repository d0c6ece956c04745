//! Names in an engine under which builds export their images. The export of a build that was cut off may
//! finish later, so its name is recorded until the janitor has looked for it.

use std::time::Duration;

use rusqlite::{Connection, ToSql, params};

use super::{Access, unused::now};
use crate::{fault::Fault, names::EngineName, naming::ImageName};

/// The name under which a build exports or exported its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedExport {
    /// The name in the engine.
    pub name: String,
    /// How long ago the build began.
    pub age: Duration,
}

impl Access {
    /// Records that a build is about to export an image as `name`.
    pub async fn export_begin(&self, engine: &EngineName, name: &ImageName) -> Result<(), Fault> {
        let (engine, name, now) = (engine.clone(), name.clone(), now());
        self.call(move |connection| {
            connection
                .execute("INSERT OR REPLACE INTO exports VALUES (?, ?, ?)", params![engine, name, now])
                .map(drop)
        })
        .await
    }

    /// Removes a recorded name: nothing is exported under it any more.
    pub async fn export_end(&self, engine: &EngineName, name: &ImageName) -> Result<(), Fault> {
        let (engine, name) = (engine.clone(), name.clone());
        self.call(move |connection| end(connection, &engine, &name)).await
    }

    /// Removes a name that is not wharfd's any more, since the node's secret was lost.
    pub async fn forget_export(&self, engine: &EngineName, export: RecordedExport) -> Result<(), Fault> {
        let engine = engine.clone();
        self.call(move |connection| end(connection, &engine, &export.name)).await
    }

    /// The recorded names.
    pub async fn exports(&self, engine: &EngineName) -> Result<Vec<RecordedExport>, Fault> {
        let (engine, now) = (engine.clone(), now());
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT name, since FROM exports WHERE engine = ? ORDER BY name")?
                .query_map([engine], |row| {
                    let since: i64 = row.get(1)?;
                    let age = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
                    Ok(RecordedExport { name: row.get(0)?, age: Duration::from_secs(age) })
                })?
                .collect()
        })
        .await
    }

    /// Whether the name is recorded.
    pub async fn is_export(&self, engine: &EngineName, name: &ImageName) -> Result<bool, Fault> {
        let (engine, name) = (engine.clone(), name.clone());
        self.call(move |connection| {
            let select = "SELECT 1 FROM exports WHERE engine = ? AND name = ?";
            connection.prepare_cached(select)?.exists(params![engine, name])
        })
        .await
    }
}

fn end(connection: &Connection, engine: &EngineName, name: &dyn ToSql) -> rusqlite::Result<()> {
    let delete = "DELETE FROM exports WHERE engine = ? AND name = ?";
    connection.execute(delete, params![engine, name]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_name_is_there_until_it_is_struck_out() {
        let directory = crate::store::tests::directory("exports");
        let store = Store::open(&directory).unwrap().own();
        store.export_begin(&"main".into(), &"a".into()).await.unwrap();
        store.export_begin(&"main".into(), &"b".into()).await.unwrap();
        store.export_begin(&"other".into(), &"c".into()).await.unwrap();
        store.export_end(&"main".into(), &"a".into()).await.unwrap();
        let names: Vec<String> =
            store.exports(&"main".into()).await.unwrap().into_iter().map(|export| export.name).collect();
        assert_eq!(names, ["b"]);
        assert!(store.exports(&"main".into()).await.unwrap()[0].age < Duration::from_secs(60));
        assert!(
            store.is_export(&"main".into(), &"b".into()).await.unwrap()
                && !store.is_export(&"main".into(), &"c".into()).await.unwrap()
        );
        std::fs::remove_dir_all(directory).unwrap();
    }
}
