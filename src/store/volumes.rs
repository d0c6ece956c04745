//! The volumes of pods. The kubelet identifies a pod only once: a restarted wharfd reads it here.

use super::Access;
use crate::{fault::Fault, names::Pod};

/// A pod's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The kubelet's name for it.
    pub id: String,
    /// Its directory.
    pub target: String,
    /// The pod.
    pub pod: Pod,
}

impl Access {
    /// Remembers a volume.
    pub async fn add_volume(&self, volume: Volume) -> Result<(), Fault> {
        self.call(move |connection| {
            let Volume { id, target, pod } = &volume;
            let row = [id.as_str(), target, pod.namespace(), pod.uid()];
            connection.execute("INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?)", row).map(drop)
        })
        .await
    }

    /// Forgets a volume.
    pub async fn forget_volume(&self, id: &str) -> Result<(), Fault> {
        let id = id.to_owned();
        self.call(move |connection| {
            connection.execute("DELETE FROM volumes WHERE volume = ?", [id]).map(drop)
        })
        .await
    }

    /// All volumes.
    pub async fn volumes(&self) -> Result<Vec<Volume>, Fault> {
        self.call(|connection| {
            let mut select =
                connection.prepare("SELECT volume, target, pod_namespace, pod_uid FROM volumes")?;
            let rows = select.query_map([], |row| {
                let (namespace, uid): (String, String) = (row.get(2)?, row.get(3)?);
                let (id, target) = (row.get(0)?, row.get(1)?);
                // Only such names are ever written.
                Ok(Pod::new(&namespace, &uid).ok().map(|pod| Volume { id, target, pod }))
            })?;
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_volume_is_known_until_it_is_forgotten() {
        let path = crate::store::tests::directory("volumes");
        let store = Store::open(&path).unwrap().own();
        let pod = Pod::new("team-a", "1").unwrap();
        let volume = |id: &str| Volume { id: id.to_owned(), target: format!("/t/{id}"), pod: pod.clone() };
        for id in ["one", "one", "two"] {
            store.add_volume(volume(id)).await.unwrap();
        }
        store.forget_volume("one").await.unwrap();
        store.forget_volume("none").await.unwrap();
        assert_eq!(store.volumes().await.unwrap(), [volume("two")]);
        std::fs::remove_dir_all(path).unwrap();
    }
}
