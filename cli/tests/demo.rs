//! The demo, without a terminal: what it says, and that the commands it shows do what they say.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};
use support::{Server, tidemark};

#[test]
fn the_demo_starts_at_once_shows_traffic_and_its_commands_work() {
    let started = Instant::now();
    let mut demo =
        Server::start(tidemark(&["demo", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--rate", "5"]));
    demo.line_with("\"groupBy\"");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    demo.line_with("complete, newest");

    let commands = commands(demo.seen());
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in &commands {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("complete"), "{command}: {text}");
        assert!(
            text.contains("/news/") || text.contains("time (UTC)") || text.contains("mobile"),
            "{command}: {text}"
        );
    }
    demo.signal("INT");
    assert_eq!(demo.exit_code(), 0);
}

/// The commands in the first lines, each in one line.
fn commands(lines: &[String]) -> Vec<String> {
    let after = lines.iter().skip_while(|line| !line.starts_with("Try ")).skip(1);
    let block: Vec<&str> = after.take_while(|line| line.starts_with("  ")).map(|line| line.trim()).collect();
    let text = block.join("\n").replace("\\\n", " ");
    text.lines().map(str::to_owned).collect()
}
