//! What a process on a host is given.
//!
//! Owns: the simulated stand-ins for clock, network, disk and store, all of one process.
//! Does not own: what they do (their modules).

use crate::datagrams::SimDatagrams;
use crate::disk::SimDisk;
use crate::link::SimConnect;
use crate::net::{HostId, Net, Process};
use crate::serve::serve;
use crate::time::SimClock;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_history::faults::FaultyStore;
use tidemark_history::store::Store;
use tidemark_journal::{Disk, Journal, JournalConfig, OpenError, Pump, Recovered};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::Clock;
use tidemark_shell::datagrams::Datagrams;
use tidemark_shell::link::Connect;
use tidemark_shell::port::Port;

/// What a process on a host is given. Cheap to clone. Use it within the host's own process only.
#[derive(Clone)]
pub struct HostContext {
    pub(crate) net: Arc<Net>,
    pub(crate) process: Process,
    pub(crate) name: Arc<str>,
    pub(crate) ip: IpAddr,
    pub(crate) seed: u64,
    pub(crate) clock: SimClock,
    pub(crate) disk: SimDisk,
    pub(crate) mounted: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) store: FaultyStore,
}

impl HostContext {
    /// The host.
    pub fn id(&self) -> HostId {
        self.process.host
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What others call a port of the host.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// A seed of this process's own: another one after each start.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The host's clock, which may be wrong.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    /// Makes connections to other hosts.
    pub fn connect(&self) -> Arc<dyn Connect> {
        Arc::new(SimConnect::new(Arc::clone(&self.net), self.process))
    }

    /// Opens a datagram socket.
    ///
    /// # Errors
    /// Where the port is in use.
    pub fn datagrams(&self, port: u16) -> io::Result<Arc<dyn Datagrams>> {
        Ok(Arc::new(SimDatagrams::bind(Arc::clone(&self.net), self.process, port)?))
    }

    /// Where to serve: whoever gets it hands the services over, from within the host's process.
    pub fn port(&self, port: u16) -> Port {
        let (net, process) = (Arc::clone(&self.net), self.process);
        let take = Box::new(move |services| serve(net, process, port, services));
        Port::Handed { address: self.address(port), take }
    }

    /// The host's disk: files below [`folder`](Self::folder).
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.mounted)
    }

    /// The host's folder. It stays when processes end.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens a journal on the host's disk, and has it write as fast as the disk is.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_journal(
        &self,
        config: JournalConfig,
        shards: ShardCount,
    ) -> Result<(Journal, Recovered), OpenError> {
        let (journal, recovered, pump) = Journal::open_driven(config, shards, self.disk())?;
        self.drive(pump);
        Ok((journal, recovered))
    }

    /// Has a journal write as fast as the disk is, until it is closed.
    pub fn drive(&self, pump: Pump) {
        let disk = self.disk.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(disk.draw_delay()).await;
                if !pump.step() {
                    return;
                }
            }
        });
    }

    /// The store that all hosts share, by this host's way to it.
    pub fn store(&self) -> Store {
        Store::of(Arc::new(self.store.clone()))
    }

    /// Writes a line into the trace.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        self.net.note(format_args!("{} {what}", self.name));
    }
}

impl fmt::Debug for HostContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.process)
    }
}
