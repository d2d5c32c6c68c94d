//! The real program as a child process.

// Each test file uses a part of it.
#![allow(unreachable_pub, missing_docs, dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a slow machine, short enough for a person.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, without settings from the environment that the tests happen to run in.
pub fn tidemark(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDEMARK_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    // Its folders are not to be those of another test, nor to be left behind in the project.
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
    command.env("TIDEMARK_DATA", folder);
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    tidemark(arguments).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A program that serves; killed where a test forgets it.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    /// Starts it; `stdout` and `stderr` become one sequence of lines.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let sender = sender.clone();
            thread::spawn(move || {
                let lines = BufReader::new(pipe).lines().map_while(Result::ok);
                lines.for_each(|line| _ = sender.send(line));
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// The first line, also of those seen already, that has this text.
    pub fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line has {text:?}:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// The value of `name=value` in the first line that has `text`.
    pub fn value(&mut self, text: &str, name: &str) -> String {
        let line = self.line_with(text);
        let start = line.find(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {line}"));
        line[start..].trim_start().split([' ', '=']).nth(1).unwrap().to_owned()
    }

    /// All lines so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Sends a signal: `TERM`, `INT`.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// The exit code; 128 and more where a signal ended it.
    pub fn exit_code(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(128);
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the program does not end:\n{}", self.seen.join("\n"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
