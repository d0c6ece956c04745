//! The ends of namespaces whose job an issuer has proven. A token may outlive its namespace, and a job that
//! is recreated counts its runs from one again: an earlier token is not valid for the new run.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Access, unused::now};
use crate::fault::Fault;

impl Access {
    /// Remembers that `namespace` (a key) has ended now.
    pub async fn end_namespace(&self, namespace: String) -> Result<(), Fault> {
        self.call(move |connection| end(connection, &namespace, now())).await
    }

    /// When `namespace` has ended last, in seconds since 1970.
    pub async fn namespace_ended(&self, namespace: String) -> Result<Option<i64>, Fault> {
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT used FROM ends WHERE namespace = ?")?
                .query_row([namespace], |row| row.get(0))
                .optional()
        })
        .await
    }
}

/// Remembers that `namespace` has ended `at`, in seconds since 1970, unless it has ended since.
pub(super) fn end(connection: &Connection, namespace: &str, at: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO ends VALUES (?1, ?2) ON CONFLICT DO UPDATE SET used = max(used, ?2)")?
        .execute(params![namespace, at])
        .map(drop)
}
