//! What documents say of the program's commands and flags.
//!
//! Owns: which commands and flags there are, as the program's own help says, and finding what documents name beside them.
//! Does not own: whether commands do what is said (`session.rs` runs some).

use crate::markdown::Page;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use tidemark_tests::processes::program;

/// Flags of cargo and of a program of ours for developers, which documents name by themselves.
const OTHERS: [&str; 4] = ["--bench", "--build-arg", "--test", "--jobs"];

/// The flags of each command, by its words: `token make`.
pub(crate) struct Program(BTreeMap<String, BTreeSet<String>>);

impl Program {
    /// What the program says of itself.
    pub(crate) fn ask() -> Self {
        let mut commands = BTreeMap::new();
        let mut next = vec![Vec::new()];
        while let Some(words) = next.pop() {
            let help = help(&words);
            // They stand between the headings of commands and options.
            let (_, listed) = help.split_once("\nCommands:\n").unwrap_or_default();
            let (listed, _) = listed.split_once("\n\n").unwrap_or((listed, ""));
            let named = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            let named =
                named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
            next.extend(named.map(|name| [&words[..], &[name.to_owned()]].concat()));
            commands.insert(words.join(" "), flags(&help).collect());
        }
        Self(commands)
    }

    /// What a document says of the program that is not so, each with its line.
    pub(crate) fn wrong(&self, page: &Page) -> Vec<(usize, String)> {
        let blocks = page.blocks.iter().filter(|block| block.is_commands()).flat_map(|block| {
            let commands = block.commands();
            commands.lines().map(|line| (block.line, line.to_owned())).collect::<Vec<_>>()
        });
        let spans = page.spans.iter().map(|span| (span.line, span.text.clone()));
        blocks.chain(spans).filter_map(|(line, text)| Some((line, self.wrong_in(&text)?))).collect()
    }

    /// The first thing in a command, or in a flag alone, that there is not.
    fn wrong_in(&self, text: &str) -> Option<String> {
        let text = text.split("  #").next().unwrap_or_default();
        // To these, `tidemark` is a name of something else.
        if matches!(text.split_whitespace().next(), Some("kubectl" | "docker")) {
            return None;
        }
        let mut words = text.split_whitespace().skip_while(|word| !is_program(word));
        if words.next().is_none() {
            // A flag by itself is of any command.
            let flag = flags(text)
                .next()
                .filter(|flag| text.starts_with("--") && !OTHERS.contains(&flag.as_str()))?;
            return (!self.0.values().any(|known| known.contains(&flag)))
                .then(|| format!("no command has {flag}"));
        }
        let words: Vec<&str> = words.collect();
        let mut command = String::new();
        for word in words.iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())) {
            let longer = format!("{command} {word}").trim().to_owned();
            match self.0.contains_key(&longer) {
                true => command = longer,
                false if command.is_empty() => return Some(format!("there is no command {word}")),
                false => break,
            }
        }
        let known = &self.0[&command];
        let unknown = flags(&words.join(" ")).find(|flag| !known.contains(flag))?;
        Some(format!("tidemark {command} has no {unknown}"))
    }
}

/// Whether a word is how documents call the program.
fn is_program(word: &str) -> bool {
    matches!(word, "tidemark" | "target/release/tidemark")
}

/// The long flags that a text names.
fn flags(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| {
        c.is_whitespace() || matches!(c, '=' | ',' | '[' | ']' | '(' | ')' | '`' | '\'' | '"' | ':' | ';')
    });
    words
        .filter(|word| word.len() > 3 && word.starts_with("--"))
        .map(|word| word.trim_end_matches('.').to_owned())
}

fn help(words: &[String]) -> String {
    let output = Command::new(program()).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "tidemark {} --help", words.join(" "));
    String::from_utf8(output.stdout).unwrap()
}
