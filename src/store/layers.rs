//! Facts about layers. They never become stale, since each maps one digest to another.

use rusqlite::{OptionalExtension as _, params};

use super::{
    Access,
    unused::{now, touch},
};
use crate::{fault::Fault, names::reference::Digest};

/// The compression of a layer's blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// None: a plain tar.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// The facts about a blob as a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFact {
    /// The digest of its content, uncompressed.
    pub diff_id: Digest,
    /// Its compression.
    pub packing: Packing,
    /// The size of the blob itself, in bytes.
    pub size: u64,
}

/// The claim of an image's manifest and config about one of its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerClaim {
    /// The digest of the blob that the registry serves.
    pub blob: Digest,
    /// The facts that the image claims about it.
    pub layer: LayerFact,
}

impl Packing {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Plain, Self::Gzip, Self::Zstd].into_iter().find(|packing| packing.as_str() == text)
    }
}

/// The form in the file: diff id, packing, size.
type Row = (String, String, i64);

impl LayerFact {
    fn of_row((diff_id, packing, size): Row) -> Option<Self> {
        Some(Self {
            diff_id: Digest::parse(&diff_id)?,
            packing: Packing::parse(&packing)?,
            size: u64::try_from(size).ok()?,
        })
    }

    fn to_row(&self) -> Row {
        // No blob is that large: a claim of such a size is always false.
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        (self.diff_id.to_string(), self.packing.as_str().to_owned(), size)
    }
}

impl Access {
    /// The facts about `blob`, if it was ever hashed.
    pub async fn layer_fact(&self, blob: &Digest) -> Result<Option<LayerFact>, Fault> {
        let blob = blob.to_string();
        let found: Option<Row> = self
            .call(move |connection| {
                touch(connection, "layer_facts", "blob = ?", [&blob])?;
                connection
                    .prepare_cached("SELECT diff_id, packing, size FROM layer_facts WHERE blob = ?")?
                    .query_row([&blob], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                    .optional()
            })
            .await?;
        Ok(found.and_then(LayerFact::of_row))
    }

    /// Remembers the facts about `blob`.
    pub async fn learn_layer(&self, blob: &Digest, layer: &LayerFact) -> Result<(), Fault> {
        let (blob, (diff_id, packing, size)) = (blob.to_string(), layer.to_row());
        self.call(move |connection| {
            connection
                .execute(
                    "INSERT OR REPLACE INTO layer_facts (blob, diff_id, packing, size, used) VALUES (?, ?, ?, ?, ?)",
                    params![blob, diff_id, packing, size, now()],
                )
                .map(drop)
        })
        .await
    }

    /// The claims of the image with this manifest; empty if they were never read.
    pub async fn layer_claims(&self, image: &Digest) -> Result<Vec<LayerClaim>, Fault> {
        let image = image.to_string();
        let rows: Vec<(String, Row)> = self
            .call(move |connection| {
                touch(connection, "layer_claims", "image = ?", [&image])?;
                connection
                    .prepare_cached(
                        "SELECT blob, diff_id, packing, size FROM layer_claims WHERE image = ? ORDER BY position",
                    )?
                    .query_map([image], |row| {
                        Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)))
                    })?
                    .collect()
            })
            .await?;
        let claims: Option<Vec<LayerClaim>> = rows
            .into_iter()
            .map(|(blob, row)| {
                Some(LayerClaim { blob: Digest::parse(&blob)?, layer: LayerFact::of_row(row)? })
            })
            .collect();
        Ok(claims.unwrap_or_default())
    }

    /// Remembers the claims of an image.
    pub async fn learn_claims(&self, image: &Digest, claims: Vec<LayerClaim>) -> Result<(), Fault> {
        let image = image.to_string();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM layer_claims WHERE image = ?", [&image])?;
            let now = now();
            for (position, claim) in (0_i64..).zip(&claims) {
                let (diff_id, packing, size) = claim.layer.to_row();
                transaction.execute(
                    "INSERT INTO layer_claims (image, position, blob, diff_id, packing, size, used) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                    params![image, position, claim.blob.as_str(), diff_id, packing, size, now],
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
    use crate::store::Store;

    #[tokio::test]
    async fn facts_and_claims_are_kept() {
        let path = crate::store::tests::directory("layers");
        let store = Store::open(&path).unwrap().own();
        let digest = |digit: &str| Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap();
        let layer = |digit: &str, packing| LayerFact { diff_id: digest(digit), packing, size: 7 };
        assert_eq!(store.layer_fact(&digest("a")).await.unwrap(), None);
        for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            store.learn_layer(&digest("a"), &layer("b", packing)).await.unwrap();
            assert_eq!(store.layer_fact(&digest("a")).await.unwrap(), Some(layer("b", packing)));
        }
        let claims = vec![
            LayerClaim { blob: digest("a"), layer: layer("b", Packing::Gzip) },
            LayerClaim { blob: digest("a"), layer: layer("c", Packing::Plain) },
        ];
        store.learn_claims(&digest("d"), claims.clone()).await.unwrap();
        assert_eq!(store.layer_claims(&digest("d")).await.unwrap(), claims);
        assert!(store.layer_claims(&digest("e")).await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
