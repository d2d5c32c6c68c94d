//! A local S3, for tests (feature `test-util`): the Python program moto.
//!
//! Owns: installing it once, starting and ending it, and creating buckets.
//! Does not own: whether a test may go on without it ([`Moto::start`] says why there is none).

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

const PACKAGE: &str = "moto[s3,server]==5.2.5";

/// Says below the cache that all of it is there.
const INSTALLED: &str = "moto-venv/installed";

/// Ends when its input does, so that it never outlives a test that was killed.
const SERVER: &str = "
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import main
main(['-H', '127.0.0.1', '-p', '0'])
";

/// Why there is no moto.
#[derive(Debug, thiserror::Error)]
#[error("moto cannot be {step}: {why}")]
pub struct MotoError {
    step: &'static str,
    why: String,
}

fn error(step: &'static str, why: impl ToString) -> MotoError {
    MotoError { step, why: why.to_string() }
}

/// A running S3 on this machine. It keeps objects in memory and ends when dropped.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    address: String,
}

impl Moto {
    /// Starts a server on a free port. The first time it is installed below `cache` (over the network, a minute or two,
    /// 300 MB); a folder like `env!("CARGO_TARGET_TMPDIR")` will do. Blocks.
    ///
    /// # Errors
    /// Where Python, pip or the network is missing. Tests then print `SKIPPED: …` and pass.
    pub fn start(cache: &Path) -> Result<Self, MotoError> {
        let python = install(cache)?;
        let mut child = Command::new(python)
            .args(["-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|why| error("started", why))?;
        let address = child.stderr.take().and_then(|output| listen_address(BufReader::new(output)));
        match address {
            Some(address) => Ok(Self { child, address }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                // Next time it is installed anew.
                let _ = fs::remove_file(cache.join(INSTALLED));
                Err(error("started", "it ended before it listened"))
            }
        }
    }

    /// Settings for `Store::open_with`.
    pub fn options(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Creates a bucket.
    ///
    /// # Errors
    /// Where the server does not reply that it did.
    pub fn create_bucket(&self, name: &str) -> Result<(), MotoError> {
        let reply = self.request("PUT", name).map_err(|why| error("given a bucket", why))?;
        let status = reply.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            Some("200") => Ok(()),
            _ => Err(error("given a bucket", status)),
        }
    }

    fn request(&self, method: &str, path: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(&self.address)?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        let host = &self.address;
        // Moto tells services apart by the signature's scope; it does not check the signature.
        write!(
            connection,
            "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\r\n"
        )?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply)?;
        Ok(reply)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address that the server says it listens on. Its further output is read and thrown away, or it would block.
fn listen_address(mut output: BufReader<ChildStderr>) -> Option<String> {
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some((_, address)) = line.split_once("Running on http://") {
            let address = address.trim().to_owned();
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return Some(address);
        }
    }
}

/// The Python that has moto, after installing it where it is not yet.
fn install(cache: &Path) -> Result<PathBuf, MotoError> {
    let step = "installed";
    let folder = cache.join("moto-venv");
    fs::create_dir_all(cache).map_err(|why| error(step, why))?;
    // Several test programs may be at it at once.
    let lock = File::create(cache.join("moto-venv.lock")).map_err(|why| error(step, why))?;
    lock.lock().map_err(|why| error(step, why))?;
    let python = folder.join("bin/python");
    let installed = cache.join(INSTALLED);
    if fs::read_to_string(&installed).is_ok_and(|what| what == PACKAGE) && python.exists() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "15",
    ];
    run(Command::new(&python).args(pip).arg(PACKAGE))?;
    fs::write(installed, PACKAGE).map_err(|why| error(step, why))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), MotoError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|why| error("installed", format_args!("{name}: {why}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(error("installed", said.trim().lines().last().unwrap_or("python failed")))
        }
    }
}
