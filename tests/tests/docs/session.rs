//! Running the commands of a document, as a reader does who types them one after the other.
//!
//! Owns: the folder and the ports of a session, what stands in for what a reader has (the built program, an access log), and ending
//! what was left running.
//! Does not own: which blocks there are. What commands find around them is in `session.sh`.
//!
//! What is changed of a block before it runs:
//! * ports are ones that nobody has;
//! * a command that a reader leaves running is left running, and the next ones wait until it serves. It ends where a later block starts
//!   another one;
//! * `watch` is ended by Ctrl-C once it has shown something;
//! * loads are smaller ([`SMALLER`]);
//! * `cargo` is a script that knows the program as built already, and fails for what else is asked of it.

use crate::markdown::{Block, Directive};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_tests::processes::{free_port, program};
use tokio::process::Command;
use tokio::time::Instant;

const PRELUDE: &str = include_str!("session.sh");
const CARGO: &str = "#!/bin/sh
case $* in
  'build --release') ;;
  'run --release -- '*) shift 3; exec target/release/tidemark \"$@\" ;;
  *) echo \"nobody knows here what cargo $* does\" >&2; exit 1 ;;
esac
";
/// The ports that documents use.
const PORTS: [u16; 6] = [7100, 7101, 7102, 7103, 8100, 8200];
/// What a test does less of than a reader.
const SMALLER: [(&str, &str); 1] = [("--rate 20000 --for 30s", "--rate 500 --for 3s")];
/// Commands that a reader leaves running, and what they say when they serve.
const SERVERS: [(&str, &str); 5] = [
    (" demo", "--at http"),
    (" node --single", "coordinator is listening"),
    (" node", "the node serves"),
    (" coordinator", "coordinator is listening"),
    (" edge", "the edge is listening"),
];
const PROGRAM: &str = "target/release/tidemark";
const RUN: &str = "cargo run --release --";

/// A folder in which the blocks of one document are run.
#[derive(Debug)]
pub(crate) struct Session {
    folder: TempDir,
    logs: PathBuf,
    ports: Vec<(u16, u16)>,
}

impl Session {
    pub(crate) fn begin(repository: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["target/release", "bin", "logs"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        symlink(program(), at(PROGRAM)).unwrap();
        fs::write(at("bin/cargo"), CARGO).unwrap();
        fs::set_permissions(at("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(repository.join("tests/data/sample-combined.log"), at("access.log")).unwrap();
        let (logs, ports) = (at("logs"), PORTS.map(|port| (port, free_port())).to_vec());
        Self { folder, logs, ports }
    }

    /// Runs a block to its end, but for what it leaves running.
    ///
    /// # Errors
    /// What failed, with what it said.
    pub(crate) async fn run(&mut self, block: &Block) -> Result<(), String> {
        let before = match &block.directive {
            Some(Directive::Before(commands)) => commands.as_str(),
            Some(Directive::NotRun(_)) | None => "",
        };
        let commands = format!("{before}\n{}", block.commands());
        let lines: Vec<String> = commands.lines().map(|line| self.line(line)).collect();
        let serves = lines.iter().any(|line| line.starts_with("serve "));
        if serves {
            self.stop().await?;
        }
        let script = format!("{PRELUDE}\n{}\n", lines.join("\n"));
        let child = self.bash(&script).spawn().unwrap();
        let ended = tokio::time::timeout(2 * tidemark_tests::PATIENCE, child.wait_with_output()).await;
        let output = ended.map_err(|_| format!("it does not end:\n{commands}"))?.unwrap();
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).join("");
                Err(format!("this failed:\n{}\nIt said:\n{said}", lines.join("\n").trim()))
            }
        }
    }

    /// Ends what is still running.
    ///
    /// # Errors
    /// Where something does not end when it is asked to, or not well.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        self.stop().await
    }

    fn bash(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        let at = |documented: u16| format!("127.0.0.1:{}", self.port(documented));
        command
            .args(["-c", script])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("LOGS", &self.logs)
            .env("PATIENCE", tidemark_tests::PATIENCE.as_secs().to_string())
            // The defaults, at other ports.
            .env("TIDEMARK_LISTEN", at(7100))
            .env("TIDEMARK_HTTP", at(8100))
            .env("TIDEMARK_TO", format!("http://{}", at(7100)))
            .env("TIDEMARK_AT", format!("http://{}", at(8100)))
            // Nobody waits for what does not matter here.
            .env("TIDEMARK_SETTLE", "0s")
            .env("TIDEMARK_DRAIN_TIMEOUT", "2s")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its number is that of bash.
            .process_group(0)
            .kill_on_drop(true);
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "TIDEMARK_TOKEN"]
        {
            command.env_remove(proxy);
        }
        command
    }

    fn port(&self, documented: u16) -> u16 {
        let found = self.ports.iter().find(|(port, _)| *port == documented);
        found.expect("it is one of the documents' ports").1
    }

    /// A line of a block, as it is run.
    fn line(&self, line: &str) -> String {
        let (line, _) = line.split_once("  #").unwrap_or((line, ""));
        let mut line = line.trim().to_owned();
        for (documented, ours) in &self.ports {
            line = line.replace(&format!(":{documented}"), &format!(":{ours}"));
        }
        for (large, small) in SMALLER {
            line = line.replace(large, small);
        }
        let arguments = line.strip_prefix(PROGRAM).or(line.strip_prefix(RUN)).unwrap_or_default();
        let server = SERVERS.iter().find(|(name, _)| arguments.starts_with(name));
        match server {
            Some((_, words)) => format!("serve '{words}' {}", line.trim_end_matches('&').trim_end()),
            None if arguments.starts_with(" watch ") => format!("look {line}"),
            None => line,
        }
    }

    /// Asks all that was left running to end, and waits until it has.
    async fn stop(&mut self) -> Result<(), String> {
        for group in self.running() {
            signal("TERM", &group);
        }
        let deadline = Instant::now() + tidemark_tests::PATIENCE;
        for log in self.files("log") {
            let code = log.with_extension("log.code");
            while !fs::read_to_string(&code).is_ok_and(|code| code.ends_with('\n')) {
                if Instant::now() > deadline {
                    return Err(format!("it does not end when asked to:\n{}", read(&log)));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let ended = read(&code);
            if ended.trim() != "0" {
                return Err(format!("it ended with code {}:\n{}", ended.trim(), read(&log)));
            }
            fs::remove_file(log).unwrap();
        }
        Ok(())
    }

    /// The process groups of what is still running. The log of a command begins with the number of its group, and its code is
    /// beside it when it has ended: a number that the system may have given to others meanwhile is not among these.
    fn running(&self) -> Vec<String> {
        let running = self.files("log").into_iter().filter(|log| !log.with_extension("log.code").exists());
        running.filter_map(|log| Some(log.file_name()?.to_str()?.split_once('.')?.0.to_owned())).collect()
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let found = fs::read_dir(&self.logs).unwrap().map(|entry| entry.unwrap().path());
        found.filter(|path| path.extension().is_some_and(|of| of == extension)).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for group in self.running() {
            signal("KILL", &group);
        }
    }
}

fn signal(name: &str, group: &str) {
    let arguments = [format!("-{name}"), "--".to_owned(), format!("-{group}")];
    _ = std::process::Command::new("kill").args(arguments).stderr(Stdio::null()).status();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
