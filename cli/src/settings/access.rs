//! Settings of who may do what.
//!
//! Owns: the flags, their help, and that nobody listens beyond this machine without them.
//! Does not own: certificates (`tidemark_shell::tls`), tokens (`tidemark_access`).

use crate::failure::Misuse;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Who may do what.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessSettings {
    /// Folder with ca.crt, tls.crt and tls.key: all ports speak TLS, and members show each other these certificates
    ///
    /// Read again when the files change, for new connections. A member's certificate is for the name tidemark-member, beside
    /// those of its host; `tidemark certs` makes a set to begin with.
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: Option<PathBuf>,

    /// File of tokens, made with `tidemark token`: every call needs one of them
    ///
    /// Read again when it changes. Without it whoever reaches the process may do everything.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

impl AccessSettings {
    /// Whether a process with these settings may listen there; `flag` is what says where.
    ///
    /// # Errors
    /// Where it would be open to a network.
    pub(crate) fn check(&self, flag: &str, address: SocketAddr) -> Result<(), Misuse> {
        if address.ip().is_loopback() || (self.tls.is_some() && self.tokens.is_some()) {
            return Ok(());
        }
        let missing = match (&self.tls, &self.tokens) {
            (None, None) => "--tls DIR and --tokens FILE",
            (None, Some(_)) => "--tls DIR",
            (Some(_), _) => "--tokens FILE",
        };
        Err(Misuse::new(format!(
            "{flag} {address} is open to a network: give {missing} (`tidemark certs` and `tidemark token make` make what they need), \
             or listen on 127.0.0.1"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_this_machine_both_flags_are_needed_and_named() {
        let (here, everywhere) = ("127.0.0.1:7100".parse().unwrap(), "0.0.0.0:7100".parse().unwrap());
        let settings = |tls: bool, tokens: bool| AccessSettings {
            tls: tls.then(|| "certs".into()),
            tokens: tokens.then(|| "tokens.toml".into()),
        };
        for (tls, tokens, named) in [
            (false, false, "--tls DIR and --tokens FILE"),
            (false, true, "--tls DIR"),
            (true, false, "--tokens FILE"),
        ] {
            let refused = settings(tls, tokens).check("--listen", everywhere).unwrap_err().to_string();
            assert!(refused.contains(named) && refused.contains("--listen 0.0.0.0:7100"), "{refused}");
            assert!(settings(tls, tokens).check("--listen", here).is_ok());
        }
        assert!(settings(true, true).check("--listen", everywhere).is_ok());
        assert!(settings(false, false).check("--http", "[::1]:0".parse().unwrap()).is_ok());
    }
}
