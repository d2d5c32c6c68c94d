//! Asks while things happen.
//!
//! Owns: asking coordinators now and then, and holding what they say to the ledger.
//! Does not own: the questions (`ask`).

use super::ask;
use super::ledger::SharedLedger;
use super::members::Setup;
use crate::context::HostContext;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::time::EventTime;

/// How often.
const EVERY: Duration = Duration::from_millis(350);

/// Asks until the process ends.
pub(crate) async fn probe(context: HostContext, setup: Arc<Setup>, ledger: SharedLedger) {
    for turn in 0_usize.. {
        tokio::time::sleep(EVERY).await;
        if ledger.lock().finished >= setup.producers {
            // The last questions are asked by the driver.
            return std::future::pending().await;
        }
        let coordinator = &setup.coordinators[turn % setup.coordinators.len()];
        let floor = ledger.lock().floor(setup.elapsed(&context));
        let range = setup.range();
        match ask::views(&context, coordinator, range.0, range.1).await {
            Ok(views) => {
                let held = floor.filter(|_| {
                    views.facts.complete && ledger.lock().floor(setup.elapsed(&context)).is_some()
                });
                let total: u64 = views.views.values().sum();
                context.note(format_args!(
                    "is told of {total} views, complete: {}, held: {}, missing: {}",
                    views.facts.complete,
                    held.is_some(),
                    views
                        .facts
                        .missing
                        .iter()
                        .map(|of| format!("{} {} ", of.node, of.reason))
                        .collect::<String>()
                ));
                let mut ledger = ledger.lock();
                ledger.check(&views.views, held.as_ref(), &at(setup.elapsed(&context)));
                for (cell, visitors) in &views.visitors {
                    let views = views.views[cell];
                    if views != *visitors {
                        ledger.violated(format!("{cell:?} has {views} views of {visitors} visitors"));
                    }
                }
            }
            Err(status) => context.note(format_args!("is told nothing: {status:?}")),
        }
    }
}

/// When something was.
pub(crate) fn at(elapsed: Duration) -> String {
    format!("at {:.2} s", elapsed.as_secs_f64())
}

/// What is asked for: everything that a simulation sends.
pub(crate) fn range(start: EventTime) -> (EventTime, EventTime) {
    (start.minus(Duration::from_secs(3600)), start.plus(Duration::from_secs(3600)))
}
