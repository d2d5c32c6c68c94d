//! Clusters beyond this machine's loopback: with certificates and a token, as they have to be.
//!
//! Owns: one set of certificates and one token for all clusters of a test program, and how these are reached.
//! Does not own: what a token may do (the tests of `security`).
//!
//! Whether a member is secured follows from its address alone: on loopback it is not.

use crate::processes::program;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tidemark_client::{ClientTls, Credential, Dial};

/// Networks of [`Net`](crate::netns::Net) and [`Wires`](crate::netns::wire::Wires), and the numbers that addresses in them end with.
const NETWORKS: [&str; 2] = ["10.77.0", "10.78.0"];
const HOSTS: std::ops::RangeInclusive<u8> = 1..=40;

/// Certificates and a token.
#[derive(Debug)]
pub struct Secured {
    folder: tempfile::TempDir,
    token: String,
}

/// Those of this program.
pub static SECURED: LazyLock<Secured> = LazyLock::new(|| {
    let names = NETWORKS.iter().flat_map(|network| HOSTS.map(move |host| format!("{network}.{host}")));
    let names: Vec<String> = names.chain(["127.0.0.1".to_owned(), "localhost".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let secured = Secured::with_certificates(&names);
    secured.with_token()
});

/// Whether a member at this address is secured.
pub fn is_secured(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| !address.ip().is_loopback())
}

/// The URL of a member at `host:port`.
pub fn url(address: &str) -> String {
    format!("{}://{address}", if is_secured(address) { "https" } else { "http" })
}

/// How a member at `host:port` is reached.
pub fn dial(address: &str) -> Dial {
    if is_secured(address) { SECURED.dial() } else { Dial::default() }
}

fn run(arguments: &[&str]) -> String {
    let ran = Command::new(program()).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

impl Secured {
    /// A CA, and a member's certificate for these names; no token yet.
    pub fn with_certificates(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs");
        let mut arguments = vec!["certs", "--out", certs.to_str().unwrap()];
        names.iter().for_each(|name| arguments.extend(["--name", name]));
        run(&arguments);
        Self { folder, token: String::new() }
    }

    /// The same, with a token for everything.
    #[must_use]
    pub fn with_token(self) -> Self {
        let token = self.make_token(&["--site", "*", "--scope", "ingest,query,admin"]);
        Self { token, ..self }
    }

    /// Makes another certificate of the same CA, with these flags.
    pub fn renew(&self, flags: &[&str]) {
        run(&[&["certs", "--out", self.certs().to_str().unwrap()], flags].concat());
    }

    /// Makes a token with these flags; returns it.
    pub fn make_token(&self, flags: &[&str]) -> String {
        run(&[&["token", "make", "--tokens", self.tokens().to_str().unwrap()], flags].concat())
    }

    /// The folder with certificates.
    pub fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.certs().join("ca.crt")
    }

    /// The file of tokens.
    pub fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    /// Where more can be put.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The token for everything.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Settings of a member.
    pub fn flags(&self) -> Vec<String> {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        let flags = ["--tls", &path(self.certs()), "--tokens", &path(self.tokens())];
        let key = ["--cluster-key", "sixteen characters that nobody guesses"];
        flags.into_iter().chain(key).map(str::to_owned).collect()
    }

    /// With the token for everything.
    pub fn dial(&self) -> Dial {
        self.dial_with(Some(&self.token))
    }

    /// With this token, or none.
    pub fn dial_with(&self, token: Option<&str>) -> Dial {
        let tls = ClientTls::believing(&self.ca()).unwrap();
        Dial { tls: Some(tls), credential: token.map(|token| Credential::token(token).unwrap()) }
    }

    /// A client for HTTP that believes the CA.
    pub fn http(&self) -> reqwest::Client {
        crate::http::with_provider();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(self.ca()).unwrap()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap()
    }
}
