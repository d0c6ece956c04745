//! Where wharfd has pushed images to: an engine that keeps images in containerd does not tell a push
//! from a pull afterwards.

use rusqlite::params;

use super::Store;
use crate::{fault::Fault, names::reference::Digest};

impl Store {
    /// Remembers that it was a push of ours that made `repository` an origin of `image`, in the
    /// engine's own words.
    pub async fn learn_pushed(&self, engine: &str, image: &Digest, repository: &str) -> Result<(), Fault> {
        let (engine, image, repository) = (engine.to_owned(), image.to_string(), repository.to_owned());
        self.call(move |connection| {
            connection
                .execute("INSERT OR IGNORE INTO pushed VALUES (?, ?, ?)", params![engine, image, repository])
                .map(drop)
        })
        .await
    }

    /// The origins of `image` that are pushes of ours.
    pub async fn pushed(&self, engine: &str, image: &Digest) -> Result<Vec<String>, Fault> {
        let (engine, image) = (engine.to_owned(), image.to_string());
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT repository FROM pushed WHERE engine = ? AND image = ?")?
                .query_map([engine, image], |row| row.get(0))?
                .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pushes_are_remembered_by_engine_and_image() {
        let path = crate::store::tests::directory("pushed");
        let store = Store::open(&path).unwrap();
        let image = Digest::from_sha256([1; 32]);
        store.learn_pushed("main", &image, "reg/app").await.unwrap();
        store.learn_pushed("main", &image, "reg/app").await.unwrap();
        assert_eq!(store.pushed("main", &image).await.unwrap(), ["reg/app"]);
        assert!(store.pushed("other", &image).await.unwrap().is_empty());
        assert!(store.pushed("main", &Digest::from_sha256([2; 32])).await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
