//! Facts about layers: true for ever, since both ends of each are digests.

use rusqlite::{OptionalExtension as _, params};

use super::{
    Store,
    unused::{now, touch},
};
use crate::{fault::Fault, names::reference::Digest};

/// What an image's config says of one of its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerClaim {
    /// The digest of the blob that the registry serves.
    pub blob: Digest,
    /// The digest that its content is claimed to have, uncompressed.
    pub diff_id: Digest,
}

impl Store {
    /// The diff id of `blob`, if it was ever computed.
    pub async fn layer_fact(&self, blob: &Digest) -> Result<Option<Digest>, Fault> {
        let blob = blob.to_string();
        let found: Option<String> = self
            .call(move |connection| {
                touch(connection, "layer_facts", "blob = ?", [&blob])?;
                connection
                    .prepare_cached("SELECT diff_id FROM layer_facts WHERE blob = ?")?
                    .query_row([&blob], |row| row.get(0))
                    .optional()
            })
            .await?;
        Ok(found.as_deref().and_then(Digest::parse))
    }

    /// Remembers what `blob` was found to hold.
    pub async fn learn_layer(&self, blob: &Digest, diff_id: &Digest) -> Result<(), Fault> {
        let (blob, diff_id) = (blob.to_string(), diff_id.to_string());
        self.call(move |connection| {
            connection
                .execute("INSERT OR REPLACE INTO layer_facts VALUES (?, ?, ?)", params![blob, diff_id, now()])
                .map(drop)
        })
        .await
    }

    /// The claims of the image with this digest for `platform`; empty when they were never read.
    pub async fn layer_claims(&self, image: &Digest, platform: &str) -> Result<Vec<LayerClaim>, Fault> {
        let (image, platform) = (image.to_string(), platform.to_owned());
        let rows: Vec<(String, String)> = self
            .call(move |connection| {
                touch(connection, "layer_claims", "image = ? AND platform = ?", [&image, &platform])?;
                connection
                    .prepare_cached(
                        "SELECT blob, diff_id FROM layer_claims WHERE image = ? AND platform = ? \
                         ORDER BY position",
                    )?
                    .query_map([image, platform], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .await?;
        let claims: Option<Vec<LayerClaim>> = rows
            .iter()
            .map(|(blob, diff_id)| {
                Some(LayerClaim { blob: Digest::parse(blob)?, diff_id: Digest::parse(diff_id)? })
            })
            .collect();
        Ok(claims.unwrap_or_default())
    }

    /// Remembers the claims of an image.
    pub async fn learn_claims(
        &self,
        image: &Digest,
        platform: &str,
        claims: Vec<LayerClaim>,
    ) -> Result<(), Fault> {
        let (image, platform) = (image.to_string(), platform.to_owned());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction
                .execute("DELETE FROM layer_claims WHERE image = ? AND platform = ?", [&image, &platform])?;
            let now = now();
            for (position, claim) in (0_i64..).zip(&claims) {
                transaction.execute(
                    "INSERT INTO layer_claims VALUES (?, ?, ?, ?, ?, ?)",
                    params![image, platform, position, claim.blob.as_str(), claim.diff_id.as_str(), now],
                )?;
            }
            transaction.commit()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn facts_and_claims_are_kept() {
        let path = crate::store::tests::directory("layers");
        let store = Store::open(&path).unwrap();
        let digest = |digit: &str| Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap();
        assert_eq!(store.layer_fact(&digest("a")).await.unwrap(), None);
        store.learn_layer(&digest("a"), &digest("b")).await.unwrap();
        assert_eq!(store.layer_fact(&digest("a")).await.unwrap(), Some(digest("b")));
        let claims = vec![
            LayerClaim { blob: digest("a"), diff_id: digest("b") },
            LayerClaim { blob: digest("a"), diff_id: digest("c") },
        ];
        store.learn_claims(&digest("d"), "linux/amd64", claims.clone()).await.unwrap();
        assert_eq!(store.layer_claims(&digest("d"), "linux/amd64").await.unwrap(), claims);
        assert!(store.layer_claims(&digest("d"), "linux/arm64").await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
