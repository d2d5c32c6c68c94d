//! The dashboard in a browser: Playwright's tests of `dashboard/e2e` on the system's Chromium, against the program.
//!
//! Owns: saying why where they cannot run.
//! Does not own: what they need (`tidemark_tests::browser`), what is tested (`dashboard/e2e/*.spec.ts`), and the clusters, which those
//! tests start, kill and restart themselves.
//!
//! One test alone, with what the browser saw when it failed: `TIDEMARK_E2E="a part of its name" cargo test -p tidemark-tests
//! --test dashboard`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use tidemark_tests::browser::ready;
use tidemark_tests::processes::program;

/// The playwright package's command line, below the packages of the tests.
const PLAYWRIGHT: &str = "node_modules/@playwright/test/cli.js";

#[test]
fn the_dashboard_does_in_a_browser_what_its_tests_say() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("dashboard/e2e");
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let chromium = match tidemark_dashboard::ABSENT {
        "" => ready(&tests, temporary),
        absent => Err(absent.to_owned()),
    };
    let chromium = match chromium {
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
    let results = temporary.join("dashboard");
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
