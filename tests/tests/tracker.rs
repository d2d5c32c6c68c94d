//! The tracker in a browser: the tests of `edge/e2e` on the system's Chromium, against the program.
//!
//! Owns: saying why where they cannot run.
//! Does not own: what they need (`tidemark_tests::browser`), what is tested (`edge/e2e/tracker.test.mjs`), and the node and the edge,
//! which those tests start themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use tidemark_tests::browser::ready;
use tidemark_tests::processes::program;

#[test]
fn the_tracker_tells_in_a_browser_what_its_tests_say() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("edge/e2e");
    let chromium = match ready(&tests, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(chromium) => chromium,
        Err(why) => {
            // Straight to the terminal: the test runner hides what passing tests print.
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED: the tracker in a browser: {why}");
            return;
        }
    };
    let mut command = Command::new("node");
    command.args(["--test", "--test-reporter", "spec", "tracker.test.mjs"]).current_dir(&tests);
    command.env("CHROMIUM", chromium).env("TIDEMARK_PROGRAM", program()).stdin(Stdio::null());
    assert!(command.status().unwrap().success(), "a browser test failed: see above");
}
