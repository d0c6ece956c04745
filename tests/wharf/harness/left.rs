//! What a wharfd may leave in its engine and in its store: nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rusqlite::{Connection, types::FromSql};
use tokio::net::UnixStream;
use tonic::Code;
use wharf::{
    naming::{self, Room},
    wire::v1::{DeleteNamespaceRequest, namespace_service_client::NamespaceServiceClient},
};

use super::{
    PATIENCE, Wharfd,
    process::{Background, shell_status},
    relay, rpc, within,
};

/// Tables whose rows are about namespaces alone: nothing of them may stay.
pub(super) const OF_NAMESPACES: [&str; 6] =
    ["namespaces", "pins", "holds", "long_names", "exports", "volumes"];
/// How long an engine may be on its way back, after the test has cut wharfd off from it.
const BACK: Duration = Duration::from_secs(20);

impl Wharfd {
    /// Its store; `None` if it has none.
    fn store(&self) -> Option<Connection> {
        let file = self.state_dir().join("wharf.sqlite");
        file.is_file().then(|| Connection::open(file).unwrap())
    }

    /// The values that a question to the store brings; none while a wharfd that has just begun has made no tables.
    fn select<T: FromSql>(&self, sql: &str) -> Vec<T> {
        let store = self.store();
        let Some(Ok(mut select)) = store.as_ref().map(|store| store.prepare(sql)) else { return Vec::new() };
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn column(&self, sql: &str) -> BTreeSet<String> {
        self.select(sql).into_iter().collect()
    }

    /// The namespaces that the store knows, but those of an issuer's jobs.
    pub(super) fn claimed(&self) -> BTreeSet<String> {
        self.column("SELECT job || '#' || run FROM namespaces WHERE issuer = '' AND job <> ''")
    }

    /// The tables of the store that have rows of namespaces, with their number.
    fn rows(&self) -> BTreeMap<&'static str, u32> {
        let count =
            |table: &str| self.select::<u32>(&format!("SELECT count(*) FROM {table}")).into_iter().sum();
        // After a crash, an export's row stays for as long as the engine may still make an image.
        let tables = OF_NAMESPACES.into_iter().filter(|table| *table != "exports" || !self.was_cut_off());
        tables.map(|table| (table, count(table))).filter(|(_, rows)| *rows > 0).collect()
    }

    /// Whether a build's end may be unknown: wharfd was killed, or its engine has gone.
    fn was_cut_off(&self) -> bool {
        self.was_killed() || self.log().iter().any(|line| line.contains("the engine is down"))
    }

    /// Names in the engine and rows in the store that belong to no namespace that the store knows: no removal of a
    /// namespace would find them.
    async fn of_nobody(&self) -> Vec<String> {
        let names = self.own_names().await;
        let known = self.column("SELECT opaque FROM namespaces");
        let held = self.column("SELECT name FROM holds");
        let keys = self.keys();
        let is_known = |name: &String| match naming::room(name) {
            Some((_, Room::Namespace)) => {
                naming::namespace(keys.instance(), name).is_some_and(|opaque| known.contains(opaque.as_str()))
            }
            Some((_, Room::Hold | Room::Node)) => held.contains(name),
            Some((_, Room::Frontend)) => true,
            None => false,
        };
        let mut of_nobody: Vec<_> = names.into_iter().filter(|name| !is_known(name)).collect();
        for table in ["pins", "holds", "long_names"] {
            let of = self.column(&format!("SELECT namespace FROM {table}"));
            of_nobody.extend(of.difference(&known).map(|opaque| format!("{opaque} in the table {table}")));
        }
        of_nobody
    }

    /// Removes all that its namespaces have, and looks whether anything is left in the engine or in the store; returns
    /// everything that is wrong. A wharfd that the test has ended runs once more for that.
    pub(super) async fn leave(&self, process: &Background) -> Vec<String> {
        let mut wrong = Vec::new();
        let _relays = relay::restore(&self.engines());
        let is_clean = async || self.own_names().await.is_empty() && self.rows().is_empty();
        if let Some(status) = process.ended().await {
            if is_clean().await {
                return wrong;
            }
            // After its own end it leaves nothing for the next start.
            if shell_status(status) == 0 {
                wrong.extend(said_of_nobody(&self.of_nobody().await));
            }
            if let Err(error) = self.start_again().await {
                return vec![error];
            }
        }
        // Work whose client ended with the test is still being cancelled.
        let mut of_nobody = Vec::new();
        let settled = async || {
            of_nobody = self.of_nobody().await;
            of_nobody.is_empty().then_some(())
        };
        within(PATIENCE, settled).await;
        wrong.extend(said_of_nobody(&of_nobody));
        wrong.extend(self.remove_namespaces().await);
        if !self.rows().is_empty()
            && let Err(error) = self.outlive_namespaces().await
        {
            wrong.push(error);
        }
        let names = self.own_names().await;
        if !names.is_empty() {
            wrong.push(format!("names that are left in the engine: {names:?}"));
        }
        let rows = self.rows();
        if !rows.is_empty() {
            wrong.push(format!("rows that are left in the store: {rows:?}"));
        }
        wrong
    }

    /// Removes the namespaces that the test's jobs have used, with the cache mounts of their jobs; those that root may
    /// not remove stay. Returns the failures.
    async fn remove_namespaces(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let channel = rpc::connect(&self.socket()).await;
        for namespace in self.named() {
            let mut failed = None;
            let removed = async || {
                let namespace = Some(rpc::namespace(&namespace));
                let request = DeleteNamespaceRequest { namespace, job: true };
                failed = NamespaceServiceClient::new(channel.clone()).delete_namespace(request).await.err();
                let is_back = failed.as_ref().is_none_or(|status| status.code() != Code::Unavailable);
                is_back.then_some(())
            };
            within(BACK, removed).await;
            let refused = [Code::PermissionDenied, Code::Unauthenticated, Code::InvalidArgument];
            if let Some(status) = failed.filter(|status| !refused.contains(&status.code())) {
                wrong.push(format!("the namespace {namespace} cannot be removed: {status:?}"));
            }
        }
        wrong
    }

    /// Lets its janitor end the namespaces that are left, as if nobody had used them for a long time.
    async fn outlive_namespaces(&self) -> Result<(), String> {
        let status = self.terminate().await;
        if status != 0 {
            return Err(format!("wharfd ended with {status}"));
        }
        if let Some(store) = self.store() {
            store.execute("UPDATE namespaces SET used = 0", []).unwrap();
        }
        self.start_again().await?;
        within(PATIENCE, async || self.column("SELECT opaque FROM namespaces").is_empty().then_some(()))
            .await;
        Ok(())
    }

    /// Starts it once more, and waits until it answers.
    async fn start_again(&self) -> Result<(), String> {
        let process = self.spawn();
        let socket = self.socket();
        let answers = async || match process.ended().await {
            Some(status) => Some(Err(shell_status(status))),
            None => UnixStream::connect(&socket).await.ok().map(|_| Ok(())),
        };
        match within(PATIENCE, answers).await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => Err(format!("wharfd does not start again: it ended with {status}")),
            None => Err("wharfd does not start again".to_owned()),
        }
    }
}

fn said_of_nobody(of_nobody: &[String]) -> Option<String> {
    let said = || format!("these belong to no namespace that wharfd knows: {of_nobody:?}");
    (!of_nobody.is_empty()).then(said)
}
