//! The program itself, as real processes.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpSocket;
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

/// A port that the system gives to nobody as long as this process of tests lives, but to who asks for it by number: addresses
/// have to be known before anybody listens, and who starts again does so at the same one.
///
/// It is held by a socket that is bound to it and never listens. Whoever listens with `SO_REUSEADDR`, as the program does, may
/// have it; connections and those who want any port get others. For UDP it is only free at the moment, which does where few
/// ask for any port of UDP.
pub fn free_port() -> u16 {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        if std::net::UdpSocket::bind(address).is_ok() {
            // Never closed, so that it is held until the process ends.
            std::mem::forget(socket);
            return address.port();
        }
    }
}

/// Starts programs that have to know one another's addresses: `arguments` makes their arguments from as many addresses as
/// it asks for.
pub async fn start_all<F>(addresses: usize, ready: &[&str], arguments: F) -> (Vec<String>, Vec<Process>)
where
    F: Fn(&[String]) -> Vec<Vec<String>>,
{
    'attempt: for _ in 0..10 {
        let addresses: Vec<String> = (0..addresses).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut processes = Vec::new();
        for (arguments, ready) in arguments(&addresses).iter().zip(ready) {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            match Process::start(&arguments, ready).await {
                Ok(process) => processes.push(process),
                Err(seen) if seen.contains("another program has it") => continue 'attempt,
                Err(seen) => panic!("{arguments:?} did not say {ready:?}:\n{seen}"),
            }
        }
        return (addresses, processes);
    }
    panic!("somebody else takes every port");
}

/// Waits until members that serve at these addresses say that they are ready.
pub async fn until_ready(addresses: &[String]) {
    let deadline = tokio::time::Instant::now() + crate::PATIENCE;
    for address in addresses {
        while crate::http::Http::new(address).get("/readyz").await.0 != 200 {
            assert!(tokio::time::Instant::now() < deadline, "{address} is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A running command of the program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it logged until it was ready.
    logged: String,
}

impl Process {
    /// Starts the program and waits until a line that it logs contains `ready`.
    ///
    /// # Errors
    /// What it logged, where it never said so.
    pub async fn start(arguments: &[&str], ready: &str) -> Result<Self, String> {
        Self::start_under(&[], arguments, ready).await
    }

    /// The same by way of another command, like `ip netns exec NAME`, which becomes the program.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_under(by_way_of: &[String], arguments: &[&str], ready: &str) -> Result<Self, String> {
        let mut command = match by_way_of {
            [] => Command::new(program()),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program());
                command
            }
        };
        let mut child = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut logged = String::new();
        let wait = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                logged.push_str(&line);
                logged.push('\n');
                if line.contains(ready) {
                    return true;
                }
            }
            false
        };
        if tokio::time::timeout(crate::PATIENCE, wait).await != Ok(true) {
            return Err(logged);
        }
        // Whoever logs must not block on a full pipe.
        let mut kept = kept_log(child.id());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(kept) = &mut kept {
                    let _ = writeln!(kept, "{line}");
                }
            }
        });
        Ok(Self { child, logged })
    }

    /// The address in the logged line that contains `what`.
    pub fn address(&self, what: &str) -> String {
        let line = self.logged.lines().find(|line| line.contains(what));
        let address = line.and_then(|line| line.split("address=").nth(1)?.split_whitespace().next());
        address.unwrap_or_else(|| panic!("no address of {what:?} in\n{}", self.logged)).to_owned()
    }

    /// The system's number of the process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Kills the process at once.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends the process a signal, like `STOP`.
    pub async fn signal(&self, name: &str) {
        let (signal, id) = (format!("-{name}"), self.id().to_string());
        assert!(Command::new("kill").args([signal, id]).status().await.unwrap().success());
    }

    /// Asks the process to end and returns its exit code.
    pub async fn terminate(self) -> Option<i32> {
        self.signal("TERM").await;
        self.ended(Duration::from_secs(20)).await
    }

    /// Waits until the process has ended by itself and returns its exit code.
    pub async fn ended(mut self, within: Duration) -> Option<i32> {
        let status = tokio::time::timeout(within, self.child.wait()).await;
        status.expect("the process ends when asked to").unwrap().code()
    }
}

/// Where to keep what a process logs once it is ready: in the folder that `TIDEMARK_TEST_LOGS` names, to see what went wrong.
fn kept_log(id: Option<u32>) -> Option<std::fs::File> {
    let folder = PathBuf::from(std::env::var_os("TIDEMARK_TEST_LOGS")?);
    std::fs::create_dir_all(&folder).unwrap();
    Some(std::fs::File::create(folder.join(format!("{}.log", id?))).unwrap())
}

/// Runs a command of the program to its end.
pub async fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().await.unwrap()
}

/// What a node logs when it serves.
pub const READY_NODE: &str = "the node serves";
/// What a coordinator logs when it serves.
pub const READY_COORDINATOR: &str = "coordinator is listening";

/// `tidemark node --single` with a folder of its own.
#[derive(Debug)]
pub struct Single {
    _folder: tempfile::TempDir,
    /// The process.
    pub process: Process,
}

impl Single {
    /// Starts it with these settings.
    pub async fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let fixed = ["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", data];
        let process = Process::start(&[&fixed, settings].concat(), READY_COORDINATOR).await.unwrap();
        Self { _folder: folder, process }
    }

    /// Where events go, as a URL.
    pub fn node(&self) -> String {
        format!("http://{}", self.process.address(READY_NODE))
    }

    /// Its coordinator.
    pub fn http(&self) -> crate::http::Http {
        crate::http::Http::new(&self.process.address(READY_COORDINATOR))
    }

    /// Views of a site in the last hour.
    pub async fn views(&self, site: &str) -> u64 {
        let rows = self.http().rows(serde_json::json!({ "site": site, "from": "-1h", "to": "now" })).await;
        rows.first().map_or(0, |row| row[0].as_u64().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn bind(reuse: bool, port: u16) -> std::io::Result<()> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(reuse).unwrap();
        socket.bind(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn a_port_is_held_for_who_listens_at_it_by_number_and_again_later() {
        let port = free_port();
        assert_eq!(bind(false, port).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        for _ in 0..2 {
            let program = TcpListener::bind(("127.0.0.1", port)).unwrap();
            std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            drop(program);
            assert_eq!(bind(false, port).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        }
    }
}
