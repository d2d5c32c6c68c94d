//! Builds the dashboard where npm is there, and writes down what came of it, compressed, for `embed/lib.rs` to include.
//!
//! The program is built in any case: without npm, without the network for its packages, or with `TIDEMARK_DASHBOARD=off`, there are no
//! assets, and `/` says how to get them.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// What the result depends on.
const SOURCES: [&str; 8] = [
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "vite.config.ts",
    "buf.gen.yaml",
    "index.html",
    "src",
    "../proto/proto",
];
/// What is made here and not by hand.
const GENERATED: &str = "src/gen";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=TIDEMARK_DASHBOARD");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let assets = out.join("assets");
    for source in SOURCES {
        watch(Path::new(source));
    }
    let is_off = env::var("TIDEMARK_DASHBOARD").is_ok_and(|value| value == "off");
    let absent = match is_off {
        true => Some("it was built with TIDEMARK_DASHBOARD=off".to_owned()),
        false => build(&assets).err(),
    };
    if let Some(why) = &absent {
        println!("cargo:warning=the program is built without its dashboard: {why}");
        // Once npm or the network is there, building again is enough: cargo tries each time while a file that it watches is not there.
        if !is_off {
            println!("cargo:rerun-if-changed={}", out.join("never-written").display());
        }
        let _ = fs::remove_dir_all(&assets);
    }
    let mut table = String::from("&[\n");
    for path in files(&assets)? {
        let name = path.strip_prefix(&assets)?.to_str().ok_or("a file name that is no text")?.to_owned();
        let plain = fs::read(&path)?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&plain)?;
        let compressed = out.join(format!("{}.gz", name.replace('/', "__")));
        fs::write(&compressed, gzip.finish()?)?;
        table.push_str(&format!(
            "    Asset {{ path: {name:?}, plain: include_bytes!({path:?}), gzip: include_bytes!({compressed:?}) }},\n"
        ));
    }
    table.push(']');
    fs::write(out.join("assets.rs"), table)?;
    fs::write(out.join("absent.rs"), format!("{:?}", absent.unwrap_or_default()))?;
    Ok(())
}

/// Has cargo look at every file: of a folder it sees only its own time, which tools touch.
fn watch(path: &Path) {
    if path == Path::new(GENERATED) {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| watch(&entry.path())),
        Err(_) => println!("cargo:rerun-if-changed={}", path.display()),
    }
}

/// # Errors
/// Why there are no assets.
fn build(assets: &Path) -> Result<(), String> {
    // What was installed last, as its lock file says.
    let installed = Path::new("node_modules/installed-lock.json");
    let wanted = fs::read("package-lock.json").map_err(|error| error.to_string())?;
    if !fs::read(installed).is_ok_and(|what| what == wanted) {
        npm(&["ci", "--no-audit", "--no-fund"], assets)?;
        fs::write(installed, wanted).map_err(|error| error.to_string())?;
    }
    npm(&["run", "build", "--silent"], assets)
}

fn npm(arguments: &[&str], assets: &Path) -> Result<(), String> {
    let mut npm = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" });
    npm.args(arguments).env("TIDEMARK_DASHBOARD_OUT", assets).stdin(Stdio::null());
    let output = npm
        .output()
        .map_err(|error| format!("npm cannot be run ({error}): install Node.js with npm, and build again"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = last[last.len().saturating_sub(8)..].join(" / ");
    Err(format!("`npm {}` failed: {last}", arguments.join(" ")))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(found) };
    for entry in entries {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}
