//! What the demo says first: where things are and what to try.
//!
//! Owns: these few lines.
//! Does not own: the commands themselves; a test in `tests/demo.rs` runs them.

use super::SITE;
use super::cluster::Addresses;
use crate::settings::node::DEFAULT_HTTP;
use std::env;
use std::path::Path;

/// The lines. They fit 80 columns where the program's name is short.
pub(super) fn text(addresses: &Addresses, folder: &Path, rate: u32, program: &str) -> String {
    let nodes: Vec<String> = addresses.nodes.iter().map(ToString::to_string).collect();
    let coordinator = addresses.coordinator;
    let at = match coordinator == DEFAULT_HTTP {
        true => String::new(),
        false => format!(" --at http://{coordinator}"),
    };
    format!(
        "\
Tidemark demo: a cluster in one process, with {rate} made-up page views a second

  Dashboard   http://{coordinator}/
  Nodes       {nodes}
  History     {folder}/history

Try in another terminal:
  {program} query --site {SITE} --by url --top 10 \\
      --measure views,visitors,load_ms.p95{at}
  {program} query --site {SITE} --granularity 5m \\
      --measure visitors,load_ms.p95{at}
  curl -s http://{coordinator}/v1/query \\
      -d '{{\"site\": \"{SITE}\", \"groupBy\": [\"device\"]}}'

",
        nodes = nodes.join("  "),
        folder = folder.display(),
    )
}

/// The program as it was called, to be called again from the same folder.
pub(super) fn program() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let called = Path::new(&called);
    let here = env::current_dir().unwrap_or_default();
    called.strip_prefix(here).unwrap_or(called).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(coordinator: &str) -> Addresses {
        let nodes = ["127.0.0.1:7100", "127.0.0.1:40001", "127.0.0.1:40002"];
        Addresses {
            nodes: nodes.iter().map(|node| node.parse().unwrap()).collect(),
            coordinator: coordinator.parse().unwrap(),
        }
    }

    #[test]
    fn the_first_lines_leave_room_on_a_small_terminal() {
        let text =
            text(&addresses("127.0.0.1:8100"), Path::new("/tmp/tidemark-demo-AbCdEf"), 200, "tidemark");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.lines().count() <= 14, "{text}");
    }

    #[test]
    fn commands_name_a_coordinator_that_is_not_where_it_usually_is() {
        assert!(
            !text(&addresses("127.0.0.1:8100"), Path::new("/tmp/tidemark-demo-AbCdEf"), 200, "tidemark")
                .contains("--at")
        );
        let moved = text(&addresses("127.0.0.1:9000"), Path::new("/tmp/d"), 200, "tidemark");
        assert_eq!(moved.matches(" --at http://127.0.0.1:9000\n").count(), 2, "{moved}");
    }
}
