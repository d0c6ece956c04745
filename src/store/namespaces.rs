//! The namespaces that may own something in an engine, and when each was last used.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, params};

use super::{Access, ends, unused::now};
use crate::{
    fault::Fault,
    names::{CallerId, EngineName, Namespace},
    naming::NamespaceKey,
};

/// The precision of a namespace's last use, in seconds: most calls need not wait for the disk.
const EXACT_SECONDS: i64 = 60;
/// How long after its noted last use a namespace may have been used by a token that was new then: `used` may be that
/// much too early, and the issuer's clock ahead.
const LATE_SECONDS: i64 = 2 * EXACT_SECONDS;

/// A namespace that may own something in an engine. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its opaque name.
    pub opaque: NamespaceKey,
    /// The namespace; `None` if wharfd has only found images with its opaque name.
    pub namespace: Option<Namespace>,
    /// When it was used first, or found.
    pub begun: i64,
    /// When it was used last.
    pub used: i64,
}

/// Numbers about the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The namespaces of each engine that has some.
    pub namespaces: BTreeMap<String, u64>,
    /// The size of the store's file in bytes.
    pub bytes: u64,
}

impl Access {
    /// Notes that `caller` uses `namespace`, whose opaque name this is. It counts for the caller who has used it last, as
    /// far as that one has fewer than `max` in the engine. `false` if it is new and the caller has `max` others.
    pub async fn use_namespace(
        &self,
        engine: &EngineName,
        opaque: &NamespaceKey,
        namespace: &Namespace,
        caller: &CallerId,
        max: u32,
    ) -> Result<bool, Fault> {
        let (engine, opaque, caller) = (engine.clone(), opaque.clone(), caller.key());
        let namespace = namespace.clone();
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let known: Option<(String, i64)> = transaction
                .prepare_cached("SELECT caller, used FROM namespaces WHERE engine = ? AND opaque = ?")?
                .query_row(params![engine, opaque], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let now = now();
            if let Some((of, used)) = &known
                && *of == caller
                // A clock may have been set back.
                && (now - EXACT_SECONDS..=now).contains(used)
            {
                return Ok(true);
            }
            let count: u32 = transaction
                .prepare_cached("SELECT count(*) FROM namespaces WHERE engine = ? AND caller = ?")?
                .query_row(params![engine, caller], |row| row.get(0))?;
            let of = match known {
                Some((of, _)) if count >= max => of,
                None if count >= max => return Ok(false),
                Some(_) | None => caller,
            };
            let issuer = namespace.job().issuer().map(ToString::to_string).unwrap_or_default();
            let (job, run) = (namespace.job().name(), namespace.run());
            transaction.execute(
                "INSERT INTO namespaces VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
                 ON CONFLICT DO UPDATE SET caller = ?3, issuer = ?4, job = ?5, run = ?6, used = ?7",
                params![engine, opaque, of, issuer, job, run, now],
            )?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Notes that these namespaces are used now, to the minute.
    pub async fn touch_namespaces(
        &self,
        engine: &EngineName,
        opaque: Vec<NamespaceKey>,
    ) -> Result<(), Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            let (transaction, now) = (connection.transaction()?, now());
            for opaque in opaque {
                transaction
                    .prepare_cached(
                        "UPDATE namespaces SET used = ? WHERE engine = ? AND opaque = ? AND used < ?",
                    )?
                    .execute(params![now, engine, opaque, now - EXACT_SECONDS])?;
            }
            transaction.commit()
        })
        .await
    }

    /// Adds the namespaces of images that were found in the engine, and of what the store knows of it, unless they are
    /// known. They count as used now. Returns how many were added.
    pub async fn find_namespaces(
        &self,
        engine: &EngineName,
        opaque: Vec<NamespaceKey>,
    ) -> Result<usize, Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            let (transaction, now) = (connection.transaction()?, now());
            let mut added = transaction.execute(
                "INSERT OR IGNORE INTO namespaces
                 SELECT engine, namespace, '', '', '', '', ?2, ?2 FROM holds WHERE engine = ?1
                 UNION SELECT engine, namespace, '', '', '', '', ?2, ?2 FROM long_names WHERE engine = ?1",
                params![engine, now],
            )?;
            for opaque in opaque {
                added += transaction
                    .prepare_cached(
                        "INSERT OR IGNORE INTO namespaces VALUES (?1, ?2, '', '', '', '', ?3, ?3)",
                    )?
                    .execute(params![engine, opaque, now])?;
            }
            transaction.commit()?;
            Ok(added)
        })
        .await
    }

    /// Counts the namespaces of each engine, and the bytes of the store.
    pub async fn count(&self) -> Result<Counted, Fault> {
        self.call(|connection| {
            let namespaces = connection
                .prepare_cached("SELECT engine, count(*) FROM namespaces GROUP BY engine")?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?
                .collect::<rusqlite::Result<_>>()?;
            let size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
            let bytes: i64 = connection.prepare_cached(size)?.query_row([], |row| row.get(0))?;
            Ok(Counted { namespaces, bytes: bytes.unsigned_abs() })
        })
        .await
    }

    /// The namespaces that may own something in the engine, the one that was used last first.
    pub async fn namespaces(&self, engine: &EngineName) -> Result<Vec<Lease>, Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "SELECT opaque, issuer, job, run, begun, used FROM namespaces
                     WHERE engine = ? ORDER BY used DESC, opaque",
                )?
                .query_map([engine], lease)?
                .collect()
        })
        .await
    }

    /// The namespace, if it may own something.
    pub async fn lease(&self, engine: &EngineName, opaque: &NamespaceKey) -> Result<Option<Lease>, Fault> {
        let (engine, opaque) = (engine.clone(), opaque.clone());
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "SELECT opaque, issuer, job, run, begun, used FROM namespaces WHERE engine = ? AND opaque = ?",
                )?
                .query_row(params![engine, opaque], lease)
                .optional()
        })
        .await
    }

    /// The namespace, if nobody has used it for `seconds`.
    pub async fn unused_namespace(
        &self,
        engine: &EngineName,
        opaque: &NamespaceKey,
        seconds: i64,
    ) -> Result<Option<Lease>, Fault> {
        let (engine, opaque) = (engine.clone(), opaque.clone());
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "SELECT opaque, issuer, job, run, begun, used FROM namespaces
                     WHERE engine = ? AND opaque = ? AND used <= ?",
                )?
                .query_row(params![engine, opaque, now() - seconds], lease)
                .optional()
        })
        .await
    }

    /// The opaque names of namespaces that nobody has used for `seconds`. Those whose last use is yet to come, since a
    /// clock was set back, count as used now.
    pub async fn unused_namespaces(
        &self,
        engine: &EngineName,
        seconds: i64,
    ) -> Result<Vec<NamespaceKey>, Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            let now = now();
            connection
                .prepare_cached("UPDATE namespaces SET used = ?1 WHERE engine = ?2 AND used > ?1")?
                .execute(params![now, engine])?;
            connection
                .prepare_cached("SELECT opaque FROM namespaces WHERE engine = ? AND used <= ? ORDER BY used")?
                .query_map(params![engine, now - seconds], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Forgets a namespace that owns nothing any more: it has ended. The tokens that have proven it so far are not valid
    /// for a later run of the same name. One that was issued after its last use is: the run may go on.
    pub async fn forget_namespace(&self, engine: &EngineName, opaque: &NamespaceKey) -> Result<(), Fault> {
        let (engine, opaque) = (engine.clone(), opaque.clone());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let lease = transaction
                .prepare_cached(
                    "DELETE FROM namespaces WHERE engine = ? AND opaque = ? RETURNING opaque, issuer, job, run, begun, used",
                )?
                .query_row(params![engine, opaque], lease)
                .optional()?;
            if let Some(Lease { namespace: Some(namespace), used, .. }) = lease
                && namespace.is_of_tokens()
            {
                ends::end(&transaction, &namespace.key(), now().min(used.saturating_add(LATE_SECONDS)))?;
            }
            transaction.commit()
        })
        .await
    }
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Lease> {
    let [issuer, job, run] = [row.get::<_, String>(1)?, row.get(2)?, row.get(3)?];
    let namespace = Namespace::new(job, run).ok().and_then(|namespace| {
        if issuer.is_empty() { Some(namespace) } else { Some(namespace.issued_by(issuer.try_into().ok()?)) }
    });
    Ok(Lease { opaque: row.get(0)?, namespace, begun: row.get(4)?, used: row.get(5)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn of_issuer(job: &str) -> Namespace {
        Namespace::new(job, "1").unwrap().issued_by("ci".to_owned().try_into().unwrap())
    }

    #[tokio::test]
    async fn a_namespace_is_unused_until_it_is_used_again() {
        let path = crate::store::tests::directory("namespaces");
        let (store, caller) = (Store::open(&path).unwrap().own(), CallerId::Uid(1));
        let (claimed, issued) = (Namespace::new("a", "1").unwrap(), of_issuer("a"));
        for (opaque, namespace) in [("c", &claimed), ("i", &issued)] {
            assert!(
                store.use_namespace(&"main".into(), &opaque.into(), namespace, &caller, 2).await.unwrap()
            );
            assert!(
                store.use_namespace(&"main".into(), &opaque.into(), namespace, &caller, 2).await.unwrap()
            );
        }
        store.hold(&"main".into(), &"hold".into(), &"h".into()).await.unwrap();
        assert_eq!(store.find_namespaces(&"main".into(), vec!["c".into(), "x".into()]).await.unwrap(), 2);
        let age = |seconds: i64| {
            let update = format!("UPDATE namespaces SET used = used - {seconds}, begun = begun - {seconds}");
            store.call(move |connection| connection.execute(&update, []))
        };
        age(100).await.unwrap();
        let unused = store.unused_namespaces(&"main".into(), 100).await.unwrap();
        assert_eq!(unused.len(), 4, "{unused:?}");
        assert!(store.unused_namespaces(&"main".into(), 1000).await.unwrap().is_empty());
        assert!(store.unused_namespaces(&"other".into(), 0).await.unwrap().is_empty());
        assert!(store.use_namespace(&"main".into(), &"c".into(), &claimed, &caller, 2).await.unwrap());
        assert_eq!(store.unused_namespace(&"main".into(), &"c".into(), 100).await.unwrap(), None);
        let found = store.unused_namespace(&"main".into(), &"x".into(), 100).await.unwrap().unwrap();
        assert_eq!(found.namespace, None);
        let lease = store.unused_namespace(&"main".into(), &"i".into(), 100).await.unwrap().unwrap();
        assert_eq!(lease.namespace, Some(issued));
        store.touch_namespaces(&"main".into(), vec!["i".into(), "nobody's".into()]).await.unwrap();
        assert_eq!(
            store.unused_namespaces(&"main".into(), 100).await.unwrap(),
            ["h", "x"].map(NamespaceKey::from)
        );
        let used = store.namespaces(&"main".into()).await.unwrap();
        let of: Vec<_> =
            used.iter().map(|lease| (lease.opaque.as_str(), lease.used - lease.begun >= 100)).collect();
        assert_eq!(of, [("c", true), ("i", true), ("h", false), ("x", false)]);
        let counted = store.count().await.unwrap();
        assert_eq!(counted.namespaces, BTreeMap::from([("main".to_owned(), 4)]));
        assert!(counted.bytes > 4096, "{counted:?}");
        for opaque in ["c", "i", "h", "x"] {
            store.forget_namespace(&"main".into(), &opaque.into()).await.unwrap();
        }
        assert!(store.namespaces(&"main".into()).await.unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_namespace_ends_for_the_tokens_of_its_last_use() {
        let path = crate::store::tests::directory("ended-namespaces");
        let (store, caller) = (Store::open(&path).unwrap().own(), CallerId::Uid(1));
        let (claimed, issued) = (Namespace::new("a", "1").unwrap(), of_issuer("a"));
        let of_pod = Namespace::new("a", "1").unwrap().issued_by(crate::names::IssuerName::of_pods());
        let ended = |namespace: &Namespace| store.namespace_ended(namespace.key());
        let ends = async |namespace: &Namespace, idle: i64| {
            assert!(store.use_namespace(&"main".into(), &"x".into(), namespace, &caller, 9).await.unwrap());
            let age = format!("UPDATE namespaces SET used = used - {idle}");
            store.call(move |connection| connection.execute(&age, [])).await.unwrap();
            let used = store.lease(&"main".into(), &"x".into()).await.unwrap().unwrap().used;
            store.forget_namespace(&"main".into(), &"x".into()).await.unwrap();
            assert_eq!(store.lease(&"main".into(), &"x".into()).await.unwrap(), None);
            used
        };
        for namespace in [&claimed, &of_pod] {
            ends(namespace, 1000).await;
            assert_eq!(ended(namespace).await.unwrap(), None, "{namespace}");
        }
        let used = ends(&issued, 1000).await;
        assert_eq!(ended(&issued).await.unwrap(), Some(used + LATE_SECONDS));
        // A later end counts, and an earlier one does not take it back.
        let used = ends(&issued, 0).await;
        let at = ended(&issued).await.unwrap().unwrap();
        assert!((used..used + LATE_SECONDS).contains(&at), "{used} {at}");
        ends(&issued, 1000).await;
        assert_eq!(ended(&issued).await.unwrap(), Some(at));
        store.forget_namespace(&"main".into(), &"nobody's".into()).await.unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_caller_has_so_many_namespaces() {
        let path = crate::store::tests::directory("many-namespaces");
        let store = Store::open(&path).unwrap().own();
        let (one, other) = (CallerId::Uid(1), CallerId::Uid(2));
        let begin = |opaque: &'static str, caller: &CallerId| {
            let (store, caller) = (store.clone(), caller.clone());
            async move {
                let namespace = Namespace::new(opaque, "1").unwrap();
                store.use_namespace(&"main".into(), &opaque.into(), &namespace, &caller, 2).await.unwrap()
            }
        };
        assert!(begin("a", &one).await && begin("b", &one).await);
        assert!(!begin("c", &one).await);
        assert!(begin("c", &other).await, "another caller has namespaces of its own");
        assert!(begin("a", &one).await, "and those that are there can be used");
        store.forget_namespace(&"main".into(), &"b".into()).await.unwrap();
        assert!(begin("d", &one).await);
        // Callers that may act in the same namespaces: each counts for the one that has used it last, up to the limit.
        assert!(begin("a", &other).await && begin("e", &one).await);
        assert!(begin("d", &other).await && begin("e", &other).await);
        assert!(!begin("f", &one).await && !begin("f", &other).await);
        std::fs::remove_dir_all(path).unwrap();
    }
}
