//! Pins of namespaces, and the base images of jobs' builds.

use rusqlite::{OptionalExtension as _, params};

use super::{
    Access,
    unused::{now, touch},
};
use crate::{
    fault::Fault,
    names::{EngineName, Reference, reference::Digest},
    naming::{BuildKey, JobKey, NamespaceKey},
};

/// The image as which a reference was admitted in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Where the image came from.
    pub source: PinSource,
    /// The digest at the registry, of a manifest or an index, or the id of the image on the node.
    pub digest: Digest,
    /// The digest of the manifest that the engine has pulled, or the id again.
    pub held: Digest,
}

/// Where an admitted image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// A registry, which served its manifest to the namespace's job.
    Registry,
    /// The node: the operator put it there.
    Node,
}

impl Access {
    /// The pin of `reference` in `namespace` (an opaque key) on `engine`.
    pub async fn pin(
        &self,
        engine: &EngineName,
        namespace: &NamespaceKey,
        reference: &Reference,
    ) -> Result<Option<Pin>, Fault> {
        const WHICH: &str = "engine = ? AND namespace = ? AND reference = ?";
        let (engine, namespace, reference) = (engine.clone(), namespace.clone(), reference.to_string());
        let found: Option<(String, String, String)> = self
            .call(move |connection| {
                touch(connection, "pins", WHICH, params![engine, namespace, reference])?;
                connection
                    .prepare_cached(&format!("SELECT source, digest, held FROM pins WHERE {WHICH}"))?
                    .query_row(params![engine, namespace, reference], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })
                    .optional()
            })
            .await?;
        Ok(found.and_then(|(source, digest, held)| {
            let source = match source.as_str() {
                "registry" => PinSource::Registry,
                "node" => PinSource::Node,
                _ => return None,
            };
            Some(Pin { source, digest: Digest::parse(&digest)?, held: Digest::parse(&held)? })
        }))
    }

    /// Pins `reference` in `namespace` on `engine`.
    pub async fn set_pin(
        &self,
        engine: &EngineName,
        namespace: &NamespaceKey,
        reference: &Reference,
        pin: &Pin,
    ) -> Result<(), Fault> {
        let (engine, namespace, reference) = (engine.clone(), namespace.clone(), reference.to_string());
        let (digest, held) = (pin.digest.to_string(), pin.held.to_string());
        let source = match pin.source {
            PinSource::Registry => "registry",
            PinSource::Node => "node",
        };
        self.call(move |connection| {
            connection
                .execute(
                    "INSERT OR REPLACE INTO pins (engine, namespace, reference, source, digest, held, used)
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                    params![engine, namespace, reference, source, digest, held, now()],
                )
                .map(drop)
        })
        .await
    }

    /// Forgets the pins of `namespace` on `engine`.
    pub async fn forget_pins(&self, engine: &EngineName, namespace: &NamespaceKey) -> Result<(), Fault> {
        let (engine, namespace) = (engine.clone(), namespace.clone());
        self.call(move |connection| {
            let delete = "DELETE FROM pins WHERE engine = ? AND namespace = ?";
            connection.execute(delete, params![engine, namespace]).map(drop)
        })
        .await
    }

    /// The references that `build` of `job` used last time; both are keyed hashes.
    pub async fn bases(&self, job: &JobKey, build: &BuildKey) -> Result<Vec<Reference>, Fault> {
        let (job, build) = (job.clone(), build.clone());
        let rows: Vec<String> = self
            .call(move |connection| {
                touch(connection, "bases", "job = ? AND build = ?", params![job, build])?;
                connection
                    .prepare_cached(
                        "SELECT reference FROM bases WHERE job = ? AND build = ? ORDER BY reference",
                    )?
                    .query_map(params![job, build], |row| row.get(0))?
                    .collect()
            })
            .await?;
        Ok(rows.iter().filter_map(|reference| Reference::parse(reference).ok()).collect())
    }

    /// Remembers the references that `build` of `job` used.
    pub async fn set_bases(
        &self,
        job: &JobKey,
        build: &BuildKey,
        references: &[Reference],
    ) -> Result<(), Fault> {
        let mut references: Vec<String> = references.iter().map(ToString::to_string).collect();
        references.sort();
        references.dedup();
        let (job, build) = (job.clone(), build.clone());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let known: Vec<String> = transaction
                .prepare_cached("SELECT reference FROM bases WHERE job = ? AND build = ? ORDER BY reference")?
                .query_map(params![job, build], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            // Spare an unchanged rebuild, the usual case, the wait for the disk.
            if known == references {
                return Ok(());
            }
            transaction.execute("DELETE FROM bases WHERE job = ? AND build = ?", params![job, build])?;
            for reference in &references {
                transaction.execute(
                    "INSERT INTO bases VALUES (?, ?, ?, ?)",
                    params![job, build, reference, now()],
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
    async fn pins_and_bases_are_kept_apart() {
        let path = crate::store::tests::directory("pins");
        let store = Store::open(&path).unwrap().own();
        let app = Reference::parse("app:1").unwrap();
        let digest = |digit: &str| Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap();
        let pin = |source, digit| Pin { source, digest: digest(digit), held: digest("f") };
        for (engine, namespace, pin) in [
            ("main", "a", pin(PinSource::Registry, "1")),
            ("main", "b", pin(PinSource::Node, "2")),
            ("other", "a", pin(PinSource::Node, "3")),
        ] {
            store.set_pin(&engine.into(), &namespace.into(), &app, &pin).await.unwrap();
            assert_eq!(store.pin(&engine.into(), &namespace.into(), &app).await.unwrap(), Some(pin));
        }
        store.forget_pins(&"main".into(), &"a".into()).await.unwrap();
        assert_eq!(store.pin(&"main".into(), &"a".into(), &app).await.unwrap(), None);
        assert_eq!(
            store.pin(&"main".into(), &"b".into(), &app).await.unwrap(),
            Some(pin(PinSource::Node, "2"))
        );
        assert_eq!(
            store.pin(&"other".into(), &"a".into(), &app).await.unwrap(),
            Some(pin(PinSource::Node, "3"))
        );

        let base = Reference::parse("base:1").unwrap();
        store
            .set_bases(&"job".into(), &"build".into(), &[base.clone(), app.clone(), base.clone()])
            .await
            .unwrap();
        assert_eq!(store.bases(&"job".into(), &"build".into()).await.unwrap(), [app, base.clone()]);
        store.set_bases(&"job".into(), &"build".into(), std::slice::from_ref(&base)).await.unwrap();
        assert_eq!(store.bases(&"job".into(), &"build".into()).await.unwrap(), [base]);
        assert!(store.bases(&"job".into(), &"other".into()).await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }
}
