//! Certificates that end soon.

use super::words;
use crate::doctor::finding::Finding;
use crate::doctor::gather::{Certificate, Observed};
use std::time::Duration;
use tidemark_rollup::time::EventTime;

/// How long before its end a certificate is to be renewed.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    findings.extend(observed.certificates.iter().filter_map(|certificate| judge(certificate, observed.now)));
}

/// What is wrong with a certificate at this moment.
fn judge(Certificate { subject, not_after }: &Certificate, now: EventTime) -> Option<Finding> {
    let left_ms = not_after.as_unix_ms() - now.as_unix_ms();
    let between = words(Duration::from_millis(left_ms.unsigned_abs()));
    let renew = "Renew it: members take the new files without a restart.";
    if left_ms <= 0 {
        let what = format!("Its certificate ended {between} ago; nobody connects.");
        return Some(Finding::critical("certificate-ended", subject.clone(), what, renew));
    }
    let is_soon = Duration::from_millis(left_ms.unsigned_abs()) < SOON;
    is_soon.then(|| {
        Finding::warning(
            "certificate-ends",
            subject.clone(),
            format!("Its certificate ends in {between}."),
            renew,
        )
    })
}
