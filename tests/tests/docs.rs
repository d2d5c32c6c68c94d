//! The documents say what is so: every link leads somewhere, and every command of the README and the quick start runs.
//!
//! Owns: which documents are looked at, and what of them is told: what is not run is printed with its reason.
//! Does not own: reading Markdown (`docs/markdown.rs`), following links (`docs/links.rs`), knowing flags
//! (`docs/flags.rs`), running blocks (`docs/session.rs`).
//!
//! A block of commands (`sh` or `console`) is run as it stands, unless a comment before it says why not:
//! `<!-- not run: a reason -->`. `<!-- before: commands -->` are run before the block, where it needs something that the text has
//! elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "docs/flags.rs"]
mod flags;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/markdown.rs"]
mod markdown;
#[path = "docs/session.rs"]
mod session;

use markdown::{Directive, Page};
use session::Session;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How often a session is begun anew where somebody else has taken one of its ports meanwhile.
const ATTEMPTS: usize = 5;
/// Folders that hold what tools have made, and others' Markdown.
const NOT_OURS: [&str; 5] = ["target", "node_modules", "venv", "generated", "dist"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Markdown files of the repository.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && !NOT_OURS.contains(&&*name) {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let mut files = Vec::new();
    documents(&repository(), &mut files);
    assert!(files.len() > 30, "{} documents", files.len());
    let broken: Vec<String> = files.iter().flat_map(|file| links::broken(&repository(), file)).collect();
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn a_link_to_what_is_not_there_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.md");
    fs::write(
        folder.path().join("other.md"),
        "# One: *two*, `three`\n\n## One: two, three\n\n<a id=\"four\"></a>\n",
    )
    .unwrap();
    let text = "[a](other.md) [b](other.md#one-two-three) [c](other.md#one-two-three-1) [d](other.md#four) [e](#here)\n\n\
                # Here\n\n`[no](link.md)` <https://example.com/> [mail](mailto:a@example.com)\n\n\
                [f](other.md#five) [g](gone.md) <img src=\"gone.png\"> [h][h] [i](../../outside.md) [j](#there)\n\n[h]: gone-too.md\n";
    fs::write(&file, text).unwrap();
    let broken = links::broken(folder.path(), &file);
    let found: Vec<&str> = broken.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(found, ["other.md#five", "gone.md", "gone.png", "gone-too.md", "../../outside.md", "#there"]);
    assert!(broken[0].starts_with("page.md:7"), "{}", broken[0]);
}

#[test]
fn documents_name_commands_and_flags_that_there_are() {
    let (mut files, program) = (Vec::new(), flags::Program::ask());
    documents(&repository(), &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let page = Page::of(&fs::read_to_string(file).unwrap());
        let told = file.strip_prefix(repository()).unwrap().display();
        wrong.extend(program.wrong(&page).iter().map(|(line, what)| format!("{told}:{line}: {what}")));
    }
    assert!(wrong.is_empty(), "documents say of the program what is not so:\n{}", wrong.join("\n"));
}

#[test]
fn a_command_or_flag_that_there_is_not_is_found() {
    let text = "`tidemark query --since 1h` `--replication` `tidemark quarry` `--replicas 2`\n\n\
                ```sh\ntarget/release/tidemark verify --from -2d \\\n    --untill now  # --yes\n```\n";
    let wrong = flags::Program::ask().wrong(&Page::of(text));
    let found: Vec<&str> = wrong.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(
        found,
        ["tidemark verify has no --untill", "there is no command quarry", "no command has --replicas"]
    );
}

#[test]
fn every_alert_has_a_chapter_in_the_runbook() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let alerts: serde_yaml_ng::Value = serde_yaml_ng::from_str(&read("deploy/grafana/alerts.yml")).unwrap();
    let groups = alerts["groups"].as_sequence().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_sequence().unwrap());
    let names: Vec<&str> = rules.filter_map(|rule| rule["alert"].as_str()).collect();
    assert!(names.len() > 5, "{names:?}");
    let chapters = Page::of(&read("docs/runbook.md")).anchors;
    let without: Vec<&str> =
        names.into_iter().filter(|name| !chapters.contains(&name.to_lowercase())).collect();
    assert!(without.is_empty(), "alerts without a chapter in docs/runbook.md: {}", without.join(", "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_runs() {
    run("README.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_quick_start_runs() {
    run("docs/quick-start.md").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_is_found() {
    if let Some(why) = missing_tools() {
        return say(&format!("SKIPPED: commands that fail: {why}"));
    }
    let failing = [
        ("target/release/tidemark query --nonsense", "--nonsense"),
        ("target/release/tidemark node --single --shards 3", "ended by itself"),
        (
            "target/release/tidemark node --single\ncurl -s 127.0.0.1:8100/v1/query -d '{\"site\":1}'",
            "invalid_argument",
        ),
        ("cargo run --release -- dema", "dema"),
        ("cargo install tidemark", "cargo install"),
    ];
    for (commands, said) in failing {
        let page = Page::of(&format!("```sh\n{commands}\n```\n"));
        let failure = Session::begin(&repository()).run(&page.blocks[0]).await.expect_err(commands);
        assert!(failure.contains(said), "{commands}: {failure}");
    }
}

/// Runs the blocks of a document, one after the other, and prints which ones it does not run.
async fn run(document: &str) {
    if let Some(why) = missing_tools() {
        return say(&format!("SKIPPED: the commands of {document}: {why}"));
    }
    let page = Page::of(&fs::read_to_string(repository().join(document)).unwrap());
    for attempt in 1..=ATTEMPTS {
        match in_order(document, &page).await {
            Ok(ran) => {
                assert!(ran > 2, "{document} has {ran} blocks that can be run");
                return;
            }
            Err(taken) if taken.contains("another program has it") && attempt < ATTEMPTS => {}
            Err(failure) => panic!("{failure}"),
        }
    }
}

async fn in_order(document: &str, page: &Page) -> Result<usize, String> {
    let (mut session, mut ran) = (Session::begin(&repository()), 0);
    for block in page.blocks.iter().filter(|block| block.is_commands()) {
        match &block.directive {
            Some(Directive::NotRun(reason)) => {
                say(&format!("NOT RUN: {document}:{}: {reason}", block.line));
            }
            Some(Directive::Before(_)) | None => {
                let ended = session.run(block).await;
                ended.map_err(|failure| format!("{document}:{}: {failure}", block.line))?;
                ran += 1;
            }
        }
    }
    session.end().await.map_err(|failure| format!("{document}: {failure}"))?;
    Ok(ran)
}

/// What is needed to run commands and is not here.
fn missing_tools() -> Option<String> {
    let answers = |tool: &&str| {
        let mut command = Command::new(tool);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<&str> = ["bash", "curl"].into_iter().filter(|tool| !answers(tool)).collect();
    (!missing.is_empty()).then(|| format!("there is no {}", missing.join(" and no ")))
}

/// Straight to the terminal: the test runner hides what passing tests print.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
