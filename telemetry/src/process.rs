//! The process: what it runs, and what it takes of the machine.
//!
//! Owns: reading that from the system whenever metrics are asked for.
//! Does not own: limits on it.
//!
//! The names are those that Prometheus' own clients use, so that existing dashboards show them.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Adds the process to a registry.
pub(crate) fn register(registry: &mut Registry, version: &str) {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let labels = vec![("version", version.to_owned()), ("profile", profile.to_owned())];
    registry.register("tidemark_build", "What runs: always 1", Info::new(labels));
    #[cfg(target_os = "linux")]
    registry.register_collector(Box::new(linux::Process));
}

/// Memory that this process has in use, where the system tells. Cheap enough to ask several times a second.
pub fn resident_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::resident_bytes();
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::LimitValue;
    use procfs::{ProcError, WithCurrentSystemInfo as _};
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::registry::Unit;
    use std::fmt;

    /// This process, as the system sees it.
    #[derive(Debug)]
    pub(super) struct Process;

    struct Usage {
        cpu_seconds: f64,
        resident_bytes: u64,
        virtual_bytes: u64,
        threads: i64,
        open_files: u64,
        open_files_limit: u64,
        started_s: f64,
    }

    pub(super) fn resident_bytes() -> Option<u64> {
        let pages = procfs::process::Process::myself().ok()?.statm().ok()?.resident;
        pages.checked_mul(procfs::page_size())
    }

    fn usage() -> Result<Usage, ProcError> {
        let me = procfs::process::Process::myself()?;
        let stat = me.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        let limit = match me.limits()?.max_open_files.soft_limit {
            LimitValue::Value(files) => files,
            LimitValue::Unlimited => u64::MAX,
        };
        Ok(Usage {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            threads: stat.num_threads,
            open_files: me.fd_count()? as u64,
            open_files_limit: limit,
            started_s: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
        })
    }

    fn gauge(
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, unit): (&str, &str, Option<Unit>),
        value: f64,
    ) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?;
        gauge.encode(encoder)
    }

    impl Collector for Process {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            // Where the system does not tell, the metrics are not there: 0 would be a lie.
            let Ok(usage) = usage() else { return Ok(()) };
            let cpu = ConstCounter::new(usage.cpu_seconds);
            let of_cpu = encoder.encode_descriptor(
                "process_cpu",
                "Processor time that the process has taken",
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?;
            cpu.encode(of_cpu)?;
            let encoder = &mut encoder;
            let bytes = || Some(Unit::Bytes);
            let resident = ("process_resident_memory", "Memory that the process has in use", bytes());
            gauge(encoder, resident, usage.resident_bytes as f64)?;
            let reserved = ("process_virtual_memory", "Address space that the process has reserved", bytes());
            gauge(encoder, reserved, usage.virtual_bytes as f64)?;
            gauge(encoder, ("process_threads", "Threads of the process", None), usage.threads as f64)?;
            let open = ("process_open_fds", "Files and sockets that the process has open", None);
            gauge(encoder, open, usage.open_files as f64)?;
            let limit = ("process_max_fds", "How many the system lets it open", None);
            gauge(encoder, limit, usage.open_files_limit as f64)?;
            let start = ("process_start_time", "When the process started, in Unix time", Some(Unit::Seconds));
            gauge(encoder, start, usage.started_s)?;
            // Whoever asks for metrics does so on the runtime whose tasks these are.
            let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Ok(()) };
            let tasks = ("tidemark_tasks", "Tasks of the process that have not ended", None);
            gauge(encoder, tasks, runtime.metrics().num_alive_tasks() as f64)
        }
    }
}
