//! The ends of namespaces whose job an issuer has proven. A token may outlive its namespace, and a job that
//! is recreated counts its runs from one again: an earlier token is not valid for the new run.

use rusqlite::{OptionalExtension as _, params};

use super::{Access, unused::now};
use crate::fault::Fault;

impl Access {
    /// Remembers that `namespace` (a key) has ended now.
    pub async fn end_namespace(&self, namespace: String) -> Result<(), Fault> {
        self.call(move |connection| {
            let row = params![namespace, now()];
            connection.execute("INSERT OR REPLACE INTO ends VALUES (?, ?)", row).map(drop)
        })
        .await
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
