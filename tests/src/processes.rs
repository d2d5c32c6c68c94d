//! The program itself, as real processes.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The program. Built by `cargo test --workspace`; looked for beside the test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEMARK_PROGRAM") {
        return path.into();
    }
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("tidemark");
    assert!(path.exists(), "{} is not built: run `cargo test --workspace`", path.display());
    path
}

/// A port that nobody has at the moment.
///
/// Static peers have to be known before anybody listens; between here and there somebody else may take the port, so callers
/// start again with another one then.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running command of the program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts the program and waits until a line that it logs contains `ready`.
    pub async fn start(arguments: &[&str], ready: &str) -> Self {
        let mut child = Command::new(program())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let wait = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                seen.push_str(&line);
                seen.push('\n');
                if line.contains(ready) {
                    return true;
                }
            }
            false
        };
        let is_ready = tokio::time::timeout(crate::PATIENCE, wait).await == Ok(true);
        assert!(is_ready, "{arguments:?} did not say {ready:?}:\n{seen}");
        // Whoever logs must not block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child }
    }

    /// Kills the process at once.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks the process to end and returns its exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().unwrap().to_string();
        let signalled = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        assert!(signalled.success());
        let status = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        status.expect("the process ends when asked to").unwrap().code()
    }
}

/// Runs a command of the program to its end.
pub async fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().await.unwrap()
}
