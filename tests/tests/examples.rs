//! The examples of clients: those of `deploy/examples` in other languages, each by its own test, and `client/examples`.
//!
//! Owns: installing what they need from the package indexes of their languages, and saying why where that is not possible.
//! Does not own: what is tested in other languages (`deploy/examples/*`). Those tests start the program themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tidemark_tests::processes::{Process, program};

/// As short as pip allows: a machine without network is to say so soon.
const PIP: [&str; 9] =
    ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"];

#[test]
fn the_python_example_sends_asks_and_subscribes() {
    let folder = examples().join("python");
    match python(&folder) {
        Ok(python) => test(Command::new(python).arg("test_example.py").current_dir(folder)),
        Err(why) => skipped("the Python example", &why),
    }
}

#[test]
fn the_node_example_sends_asks_and_subscribes() {
    let folder = examples().join("node");
    match npm(&folder) {
        Ok(()) => test(Command::new("node").args(["--test", "example.test.js"]).current_dir(folder)),
        Err(why) => skipped("the Node.js example", &why),
    }
}

#[tokio::test]
async fn the_rust_example_sends_asks_and_subscribes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let arguments = ["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", &data];
    let node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let [to, at] =
        ["the node serves", "coordinator is listening"].map(|what| format!("http://{}", node.address(what)));
    let example = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/page_views");
    assert!(example.exists(), "{} is not built: run `cargo test --workspace`", example.display());
    let spool = folder.path().join("spool");
    for (run, views) in [(1, 1_000), (2, 2_000)] {
        let output =
            tokio::process::Command::new(&example).args([&to, &at]).arg(&spool).output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{run}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(
            said.contains("1000 of 1000 events are counted, 0 rejected") && said.contains("complete"),
            "{said}"
        );
        // The answer, and the subscription's: as many as were sent by now.
        let counted = |line: &str| line.strip_prefix("/articles/")?.split("  ").nth(1)?.parse::<u64>().ok();
        let rows: Vec<u64> = said.lines().filter_map(counted).collect();
        assert_eq!((rows.len(), rows.iter().sum::<u64>()), (6, 2 * views), "{said}");
    }
    assert_eq!(node.terminate().await, Some(0));
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/examples")
}

/// Runs a test to its end. Its environment is ours, but for what would have it go to another cluster, or by way of a proxy.
fn test(command: &mut Command) {
    let command = command.stdin(Stdio::null()).env("TIDEMARK_PROGRAM", program());
    for other in ["TIDEMARK_CA", "TIDEMARK_TOKEN", "http_proxy", "https_proxy", "grpc_proxy"] {
        command.env_remove(other);
    }
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).join("\n");
    assert!(output.status.success(), "the example's own test failed:\n{said}");
}

/// Straight to the terminal: the test runner hides what passing tests print.
fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {what}: {why}");
}

/// Python with the packages of the example's `requirements.txt`.
///
/// # Errors
/// Where Python, pip, openssl or the network is missing.
fn python(folder: &Path) -> Result<PathBuf, String> {
    run(Command::new("openssl").arg("version"))?;
    let venv = cache().join("examples-venv");
    let wanted = fs::read_to_string(folder.join("requirements.txt")).map_err(|why| why.to_string())?;
    let (python, installed) = (venv.join("bin/python"), venv.join("installed"));
    let _lock = lock("examples-venv.lock")?;
    if !fs::read_to_string(&installed).is_ok_and(|what| what == wanted) || !python.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(&python).args(PIP).arg("-r").arg(folder.join("requirements.txt")))?;
        fs::write(installed, wanted).map_err(|why| why.to_string())?;
    }
    Ok(python)
}

/// The packages of the example's `package-lock.json`.
///
/// # Errors
/// Where Node.js, npm, openssl or the network is missing.
fn npm(folder: &Path) -> Result<(), String> {
    run(Command::new("openssl").arg("version"))?;
    run(Command::new("node").arg("--version"))?;
    let wanted = fs::read(folder.join("package-lock.json")).map_err(|why| why.to_string())?;
    let _lock = lock("examples-npm.lock")?;
    let installed = folder.join("node_modules/installed-lock.json");
    if !fs::read(&installed).is_ok_and(|what| what == wanted) {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder))?;
        fs::write(installed, wanted).map_err(|why| why.to_string())?;
    }
    Ok(())
}

fn cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Several test programs may be at it at once.
fn lock(name: &str) -> Result<File, String> {
    fs::create_dir_all(cache()).map_err(|why| why.to_string())?;
    let lock = File::create(cache().join(name)).map_err(|why| why.to_string())?;
    lock.lock().map_err(|why| why.to_string())?;
    Ok(lock)
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|why| format!("{name}: {why}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name}: {}", said.trim().lines().last().unwrap_or("failed")))
        }
    }
}
