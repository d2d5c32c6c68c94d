//! One of a limited number of places, as long as somebody has it.

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;

/// A place, and its part of the gauge that tells how many are taken.
pub(crate) struct Place {
    taken: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Takes the place of this permit.
    pub(crate) fn new(permit: OwnedSemaphorePermit, taken: &Gauge) -> Self {
        taken.inc();
        Self { taken: taken.clone(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.dec();
    }
}
