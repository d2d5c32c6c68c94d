//! What tests in a browser need.
//!
//! Owns: finding Node.js, npm and Chromium, and installing the packages of such tests.
//! Does not own: the tests, which are JavaScript.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian's Chromium is.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Chromium, once the packages that the folder `tests` names are installed there. `temporary` is a folder for a lock: several test
/// programs may be at it at once.
///
/// # Errors
/// Where npm, Chromium, or the network for the packages is missing: in words, for whoever reads that the tests were skipped.
pub fn ready(tests: &Path, temporary: &Path) -> Result<PathBuf, String> {
    run(Command::new("node").arg("--version"))?;
    let chromium = PathBuf::from(std::env::var_os("CHROMIUM").unwrap_or_else(|| CHROMIUM.into()));
    if !chromium.exists() {
        return Err(format!(
            "there is no {}: install chromium, or name one with CHROMIUM",
            chromium.display()
        ));
    }
    let wanted = fs::read(tests.join("package-lock.json")).map_err(|why| why.to_string())?;
    let lock = File::create(temporary.join("browser-packages.lock")).map_err(|why| why.to_string())?;
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
