//! How a command reaches a cluster that is secured.
//!
//! Owns: the options for it, which all commands that ask or send have in common.
//! Does not own: handshakes (`tidemark_shell`), what a token allows (`tidemark_access`).

use crate::failure::Misuse;
use anyhow::Context as _;
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;
use tidemark_client::{ClientTls, Credential, Dial};

/// The environment variable with a token: as a flag, others on the machine could see it.
const TOKEN: &str = "TIDEMARK_TOKEN";

/// Whom to believe, and what to show.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct ReachOptions {
    /// Certificate of the cluster's CA, for addresses with https:// [default: the CAs of the system]
    #[arg(long, value_name = "FILE", env = "TIDEMARK_CA")]
    ca: Option<PathBuf>,

    /// File with a token; without it, the token is taken from TIDEMARK_TOKEN, if that is set
    #[arg(long, value_name = "FILE", env = "TIDEMARK_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl ReachOptions {
    /// How these addresses are reached.
    ///
    /// # Errors
    /// Where a file cannot be used, or a token would be sent where everybody can read it.
    pub(crate) fn dial<'a>(&self, addresses: impl IntoIterator<Item = &'a String>) -> anyhow::Result<Dial> {
        let (secured, plain): (Vec<&String>, Vec<&String>) =
            addresses.into_iter().partition(|address| address.starts_with("https://"));
        let credential = self.credential()?;
        if let Some(open) = plain.iter().find(|address| credential.is_some() && !is_local(address)) {
            let why = format!(
                "{open} is not secured, and whoever is on the way could read the token: give https://"
            );
            return Err(Misuse::new(why).into());
        }
        let tls = match (&self.ca, secured.is_empty()) {
            (_, true) => None,
            (Some(file), false) => Some(ClientTls::believing(file)?),
            (None, false) => Some(ClientTls::believing_the_system()?),
        };
        Ok(Dial { tls, credential })
    }

    fn credential(&self) -> anyhow::Result<Option<Credential>> {
        let text = match &self.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                Some(text.with_context(|| format!("cannot read the token in {}", file.display()))?)
            }
            None => std::env::var(TOKEN).ok().filter(|text| !text.trim().is_empty()),
        };
        let Some(text) = text else { return Ok(None) };
        let credential = Credential::token(&text);
        Ok(Some(credential.ok_or_else(|| Misuse::new("the token has characters that no token has"))?))
    }
}

/// Whether an address stays on this machine.
fn is_local(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_leave_the_machine_in_the_clear() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "tmk_x\n").unwrap();
        let reach = ReachOptions { ca: None, token_file: Some(file) };
        for local in ["http://127.0.0.1:7100", "http://localhost:1", "http://[::1]:7100"] {
            assert!(reach.dial(&[local.to_owned()]).unwrap().credential.is_some(), "{local}");
        }
        for away in ["http://10.0.0.1:7100", "http://localhost.example:1", "http://node:7100"] {
            assert!(reach.dial(&[away.to_owned()]).unwrap_err().to_string().contains("https://"), "{away}");
        }
    }
}
