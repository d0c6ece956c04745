//! Processes of a test: starts, reads, signals and ends them.

use std::{
    ffi::OsStr,
    fmt, io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use super::{lock, wait_for_at_most};

/// A command that dies with this process, however this process ends.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).kill_on_drop(true);
    command
}

/// Copies a program to where it will be run. Another process does it: what this one has open, every child has for a
/// moment, and a program that is open for writing cannot be run ("Text file busy").
pub(crate) fn install(from: &Path, to: &Path) {
    let copied = std::process::Command::new("install").args(["-m", "755"]).args([from, to]).status();
    assert!(copied.unwrap().success(), "{}", to.display());
}

/// A process that runs beside the test, whose output is read line by line.
#[derive(Debug)]
pub(crate) struct Background {
    pid: Pid,
    child: tokio::sync::Mutex<Child>,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

impl Background {
    /// Starts `command`.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let out = read(child.stdout.take().unwrap(), Arc::clone(&lines));
        let err = read(child.stderr.take().unwrap(), Arc::clone(&lines));
        let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        let child = tokio::sync::Mutex::new(child);
        Self { pid, child, lines, readers: Mutex::new(vec![out, err]) }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its output so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// Its exit status, if it has ended; then its output is complete.
    pub(crate) async fn ended(&self) -> Option<ExitStatus> {
        let status = self.child.lock().await.try_wait().unwrap();
        if status.is_some() {
            self.drained().await;
        }
        status
    }

    /// Waits for the rest of the output of a process that has ended.
    async fn drained(&self) {
        let readers = std::mem::take(&mut *lock(&self.readers));
        for reader in readers {
            let _ = tokio::time::timeout(Duration::from_secs(5), reader).await;
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Waits for its end and the rest of its output.
    pub(crate) async fn wait(&self, patience: Duration) -> Result<ExitStatus, String> {
        let waited = tokio::time::timeout(patience, async { self.child.lock().await.wait().await.unwrap() });
        let status =
            waited.await.map_err(|_| format!("process {} did not end", self.pid.as_raw_nonzero()))?;
        self.drained().await;
        Ok(status)
    }

    /// Waits for `condition`, which cannot come any more once the process has ended.
    pub(crate) async fn while_running<T>(&self, what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
        self.while_running_at_most(super::PATIENCE, what, condition).await
    }

    /// Like [`Self::while_running`], for what may have to wait for other tests on the same engine.
    pub(crate) async fn while_running_at_most<T>(
        &self,
        patience: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        wait_for_at_most(patience, what, async || {
            if let Some(status) = self.ended().await {
                let lines = self.lines().join("\n");
                panic!("it ended with {} while the test waited for {what}:\n{lines}", shell_status(status));
            }
            condition().await
        })
        .await
    }

    /// Waits for a line of output that `wanted` accepts.
    pub(crate) async fn says<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        wait_for_at_most(super::PATIENCE, what, async || {
            let ended = self.ended().await.is_some();
            let found = lock(&self.lines).iter().find_map(|line| wanted(line));
            if found.is_none() && ended {
                let lines = self.lines().join("\n");
                panic!("it ended while the test waited for {what}:\n{lines}");
            }
            found
        })
        .await
    }
}

fn read(from: impl AsyncRead + Unpin + Send + 'static, to: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line).await, Ok(1..)) {
            lock(&to).push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
            line.clear();
        }
    })
}

/// The exit status and the output of a command.
#[derive(Debug)]
pub(crate) struct Output {
    command: String,
    /// The exit status as in a shell: 128 plus the signal's number if a signal ended the command.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Runs `command` to its end, with `input` on its standard input.
    pub(crate) async fn of(mut command: Command, input: &[u8], patience: Duration) -> Self {
        let text = format!("{:?}", command.as_std());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let feed = async move {
            match stdin.write_all(input).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => panic!("{error}"),
                _ => drop(stdin),
            }
        };
        let ended = async { tokio::join!(feed, child.wait_with_output()).1.unwrap() };
        let output = tokio::time::timeout(patience, ended).await;
        let output = output.unwrap_or_else(|_| panic!("{text}: did not end in {patience:?}"));
        Self {
            command: text,
            status: shell_status(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, if the command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.ended(0)
    }

    /// Itself, if the command ended with `status`.
    #[track_caller]
    pub(crate) fn ended(self, status: i32) -> Self {
        assert!(self.status == status, "{self}\nwanted exit status {status}");
        self
    }

    /// Itself, if its error output has all of `texts`.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "{self}\nwanted: {text}");
        }
        self
    }
}

/// The number that `$?` would be in a shell.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command}\nexit status {status}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}
