//! `tidemark token`: makes, lists and revokes tokens.
//!
//! Owns: the commands and what they print.
//! Does not own: the file and what is in it (`tidemark_access`).

use crate::output;
use crate::settings::values;
use crate::show::grid::{Align, Grid};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_access::file::{Entry, TokenFile};
use tidemark_access::token::{RANDOM_BYTES, Scope, Token};
use tidemark_node::clock::SystemClock;
use tidemark_rollup::time::{Clock as _, EventTime};

/// What to do with tokens.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it: it is shown this once
    Make(MakeOptions),
    /// List the tokens: never their secrets
    List(FileOptions),
    /// Revoke a token, by its id
    Revoke(RevokeOptions),
}

/// Which file.
#[derive(Clone, Debug, Args)]
pub(crate) struct FileOptions {
    /// The file of tokens
    #[arg(long, value_name = "FILE", env = "TIDEMARK_TOKENS")]
    tokens: PathBuf,
}

/// What the token is for.
#[derive(Clone, Debug, Args)]
pub(crate) struct MakeOptions {
    #[command(flatten)]
    file: FileOptions,

    /// Sites that it is for, separated by commas; * for all
    #[arg(long, value_name = "SITE", value_parser = site, value_delimiter = ',', required = true)]
    site: Vec<String>,

    /// What it may be used for, separated by commas: ingest, query, admin
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', required = true)]
    scope: Vec<Scope>,

    /// What it is called in lists
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,

    /// After how long it ends, like 365d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    expires: Option<Duration>,
}

/// Which token.
#[derive(Clone, Debug, Args)]
pub(crate) struct RevokeOptions {
    #[command(flatten)]
    file: FileOptions,

    /// Its id, which is part of it and which `tidemark token list` shows
    #[arg(value_name = "ID")]
    id: String,
}

fn site(text: &str) -> Result<String, String> {
    if text == "*" { Ok(text.to_owned()) } else { values::site(text) }
}

/// Does it.
pub(crate) fn run(command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Make(options) => make(options),
        TokenCommand::List(options) => list(options),
        TokenCommand::Revoke(options) => revoke(options),
    }
}

fn make(options: &MakeOptions) -> anyhow::Result<()> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).context("the system has no randomness")?;
    let (token, now) = (Token::of(&random), SystemClock.now());
    let entry = Entry {
        id: token.id().clone(),
        name: options.name.clone(),
        sites: options.site.iter().cloned().collect(),
        scopes: options.scope.iter().copied().collect::<BTreeSet<_>>(),
        sha256: token.hash().to_hex(),
        made: now.to_string(),
        expires: options.expires.map(|after| now.plus(after).to_string()),
        revoked: None,
    };
    TokenFile::change(&options.file.tokens, |file| {
        file.tokens.push(entry);
        Ok(())
    })?;
    output::note("This is shown once. Whoever has it may do what it is for.");
    Ok(output::print(&format!("{}\n", token.text()))?)
}

fn list(options: &FileOptions) -> anyhow::Result<()> {
    let (file, now) = (TokenFile::read(&options.tokens)?, SystemClock.now());
    let columns = ["id", "name", "sites", "scopes", "made", "state"];
    let mut grid = Grid::new(columns.map(|name| (name.to_owned(), Align::Left)).to_vec());
    for entry in &file.tokens {
        let scopes: Vec<&str> = entry.scopes.iter().map(|scope| scope.name()).collect();
        let sites: Vec<&str> = entry.sites.iter().map(String::as_str).collect();
        let row = [
            entry.id.to_string(),
            entry.name.clone(),
            sites.join(","),
            scopes.join(","),
            entry.made.clone(),
            state(entry, now),
        ];
        grid.push(row.to_vec());
    }
    Ok(output::print(&grid.draw(output::terminal_width()))?)
}

fn state(entry: &Entry, now: EventTime) -> String {
    match (&entry.revoked, entry.expires_at().ok().flatten()) {
        (Some(revoked), _) => format!("revoked {revoked}"),
        (None, Some(expires)) if expires <= now => format!("expired {expires}"),
        (None, Some(expires)) => format!("until {expires}"),
        (None, None) => "in force".to_owned(),
    }
}

fn revoke(options: &RevokeOptions) -> anyhow::Result<()> {
    let (file, now) = (&options.file.tokens, SystemClock.now());
    TokenFile::change(file, |tokens| tokens.revoke(file, &options.id, now))?;
    Ok(output::print(&format!(
        "revoked {}: members that follow the file refuse it within two seconds\n",
        options.id
    ))?)
}
