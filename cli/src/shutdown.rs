//! How a serving command ends.
//!
//! Owns: SIGTERM and Ctrl-C, and waiting for everything to stop.
//! Does not own: what stopping means (the token's holders).

use anyhow::Context as _;
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A token that the first SIGTERM or Ctrl-C cancels. A second Ctrl-C ends the process at once.
///
/// # Errors
/// Where the system does not let signals be caught.
pub(crate) fn on_signal() -> anyhow::Result<CancellationToken> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = next(&mut terminate) => {}
            () = next(&mut interrupt) => {}
        }
        tracing::info!("stopping; Ctrl-C ends at once");
        token.cancel();
        next(&mut interrupt).await;
        std::process::exit(INTERRUPTED);
    });
    Ok(shutdown)
}

async fn next(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a part that serves. Where it stops without having been told, the others are told to.
///
/// # Errors
/// Where it stopped by itself.
pub(crate) async fn served(
    what: &str,
    stopped: impl Future<Output = ()>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    stopped.await;
    if shutdown.is_cancelled() {
        return Ok(());
    }
    shutdown.cancel();
    anyhow::bail!("{what} stopped by itself; the log may say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_stops_by_itself_is_an_error_and_takes_the_others_along() {
        let shutdown = CancellationToken::new();
        assert!(served("the node", async {}, &shutdown).await.is_err());
        assert!(shutdown.is_cancelled());
        assert!(served("the coordinator", async {}, &shutdown).await.is_ok());
    }
}
