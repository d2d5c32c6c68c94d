//! DuckDB, from the Python package index.
//!
//! Owns: installing it once, and running SQL in it.
//! Does not own: whether a test may go on without it ([`Duck::install`] says why there is none).

use serde_json::Value;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PACKAGE: &str = "duckdb==2.0.0";
const RUN: &str = include_str!("run.py");
const PIP: [&str; 9] =
    ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"];

/// DuckDB, with a folder that it works in.
#[derive(Debug)]
pub(crate) struct Duck {
    python: PathBuf,
    folder: PathBuf,
}

impl Duck {
    /// A DuckDB that works in `folder`. The first time it is installed below `cache` (over the network, 40 MB). Blocks.
    ///
    /// # Errors
    /// Where Python, pip or the network is missing. Tests then print `SKIPPED: …` and pass.
    pub(crate) fn install(cache: &Path, folder: &Path) -> Result<Self, String> {
        let venv = cache.join("duckdb-venv");
        fs::create_dir_all(cache).map_err(|why| why.to_string())?;
        // Several test programs may be at it at once.
        let lock = File::create(cache.join("duckdb-venv.lock")).map_err(|why| why.to_string())?;
        lock.lock().map_err(|why| why.to_string())?;
        let (python, installed) = (venv.join("bin/python"), venv.join("installed"));
        if !fs::read_to_string(&installed).is_ok_and(|what| what == PACKAGE) || !python.exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
            run(Command::new(&python).args(PIP).arg(PACKAGE))?;
            fs::write(installed, PACKAGE).map_err(|why| why.to_string())?;
        }
        Ok(Self { python, folder: folder.to_owned() })
    }

    /// The rows of each SELECT in `sql`, as objects.
    pub(crate) fn run(&self, sql: &str) -> Vec<Vec<Value>> {
        let mut child = Command::new(&self.python)
            .args(["-c", RUN])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Python reads all of it before it prints anything.
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|why| format!("{name}: {why}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.trim().lines().last().unwrap_or("python failed").to_owned())
        }
    }
}
