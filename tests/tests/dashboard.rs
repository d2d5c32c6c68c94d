//! The dashboard in a browser: Playwright's tests of `dashboard/e2e` on the system's Chromium, against the program.
//!
//! Owns: finding what they need (npm, Chromium), installing their packages, and saying why where they cannot run.
//! Does not own: what is tested (`dashboard/e2e/*.spec.ts`), and the clusters, which those tests start, kill and restart
//! themselves.
//!
//! One test alone, with what the browser saw when it failed: `TIDEMARK_E2E="a part of its name" cargo test -p tidemark-tests
//! --test dashboard`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tidemark_tests::processes::program;

/// Where Debian's Chromium is.
const CHROMIUM: &str = "/usr/bin/chromium";
/// The playwright package's command line, below the packages of the tests.
const PLAYWRIGHT: &str = "node_modules/@playwright/test/cli.js";

#[test]
fn the_dashboard_does_in_a_browser_what_its_tests_say() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("dashboard/e2e");
    let chromium = match ready(&tests) {
        Ok(chromium) => chromium,
        Err(why) => {
            // Straight to the terminal: the test runner hides what passing tests print.
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED: the dashboard in a browser: {why}");
            return;
        }
    };
    let mut command = Command::new("node");
    command.arg(PLAYWRIGHT).arg("test").current_dir(&tests).stdin(Stdio::null());
    if let Ok(name) = std::env::var("TIDEMARK_E2E") {
        command.args(["--grep", &name]);
    }
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    command
        .env("CHROMIUM", chromium)
        .env("TIDEMARK_PROGRAM", program())
        .env("TIDEMARK_E2E_RESULTS", &results);
    let status = command.status().unwrap();
    assert!(
        status.success(),
        "a browser test failed: see above, and the screenshots in {}",
        results.display()
    );
}

/// Chromium, once the packages of the tests are there.
///
/// # Errors
/// Where npm, Chromium, or the network for the packages is missing.
fn ready(tests: &Path) -> Result<PathBuf, String> {
    if !tidemark_dashboard::ABSENT.is_empty() {
        return Err(tidemark_dashboard::ABSENT.to_owned());
    }
    run(Command::new("node").arg("--version"))?;
    let chromium = PathBuf::from(std::env::var_os("CHROMIUM").unwrap_or_else(|| CHROMIUM.into()));
    if !chromium.exists() {
        return Err(format!(
            "there is no {}: install chromium, or name one with CHROMIUM",
            chromium.display()
        ));
    }
    let wanted = fs::read(tests.join("package-lock.json")).map_err(|why| why.to_string())?;
    // Several test programs may be at it at once.
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard-e2e.lock")).unwrap();
    lock.lock().map_err(|why| why.to_string())?;
    let installed = tests.join("node_modules/installed-lock.json");
    if !fs::read(&installed).is_ok_and(|what| what == wanted) {
        run(Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
            .current_dir(tests))?;
        fs::write(installed, wanted).map_err(|why| why.to_string())?;
    }
    Ok(chromium)
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
