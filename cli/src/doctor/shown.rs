//! The certificates that members show.
//!
//! Owns: seeing them in a handshake, and until when they are good.
//! Does not own: what that means (`checks`).

use super::gather::Certificate;
use futures::future::join_all;
use std::time::Duration;
use tidemark_client::ClientTls;
use tidemark_rollup::time::EventTime;
use tokio::net::TcpStream;

/// How long a handshake may take.
const WITHIN: Duration = Duration::from_secs(5);

/// What these show, each by its name and `host:port`. Who does not answer, or shows what nobody believes, is left out: that they cannot
/// be reached is found anyway.
pub(super) async fn certificates(members: Vec<(String, String)>, tls: &ClientTls) -> Vec<Certificate> {
    let asked = members.into_iter().map(async |(name, address)| {
        tokio::time::timeout(WITHIN, certificate(name, &address, tls)).await.ok().flatten()
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn certificate(name: String, address: &str, tls: &ClientTls) -> Option<Certificate> {
    let (host, _) = address.rsplit_once(':')?;
    let stream = TcpStream::connect(address).await.ok()?;
    let stream = tls.connect(host, stream).await.ok()?;
    let shown = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(shown).ok()?;
    let not_after = EventTime::from_unix_ms(parsed.validity().not_after.timestamp().checked_mul(1_000)?);
    Some(Certificate { subject: name, not_after })
}
