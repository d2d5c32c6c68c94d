//! The one place that asks the system what time it is.

use std::time::UNIX_EPOCH;
use tidemark_rollup::time::{Clock, EventTime};

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> EventTime {
        let now = std::time::SystemTime::now();
        let ms = match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        EventTime::from_unix_ms(ms)
    }
}
