//! What happens to hosts and between them.
//!
//! Owns: crashes, pauses, wrong clocks, cuts, bad links, bad disks, a store out of reach.
//! Does not own: what each of them means (`net`, `host`, `disk`).

use super::World;
use crate::disk::{DiskFaults, SimDisk};
use crate::net::{HostId, Quality, Up};
use std::time::Duration;
use tidemark_history::faults::{Faults, FaultyStore};

impl World {
    /// The host's process is killed. Its machine stays: it will write what it was given, and refuses connections.
    pub fn kill(&mut self, host: HostId) {
        self.hosts[host.0].disk.detach();
        self.stop(host, Up::Refusing);
    }

    /// The host's machine loses its power. What was not synced may be lost, and nobody answers.
    ///
    /// # Panics
    /// Where the host's real files cannot be cut.
    pub fn lose_power(&mut self, host: HostId) {
        self.hosts[host.0].disk.lose_power().expect("the world's folder can be written");
        self.stop(host, Up::Dark);
    }

    /// One or the other.
    pub fn crash(&mut self, host: HostId) {
        if self.random.happens(0.5) { self.kill(host) } else { self.lose_power(host) }
    }

    fn stop(&mut self, host: HostId, up: Up) {
        self.net.end(host, up);
        self.hosts[host.0].end();
    }

    /// The host's process stands for so long, as if stopped by a signal. What it missed is over when it goes on: its timers fire at once.
    pub fn pause(&mut self, host: HostId, time: Duration) {
        let until = self.now + time;
        let at = &mut self.hosts[host.0];
        let was_paused = at.paused_until.replace(until).is_some();
        if at.running.is_none() {
            at.paused_until = None;
        } else if !was_paused {
            self.net.set_paused(host, true);
        }
    }

    /// The host gets to run only this often, as if it had no processor to itself. Zero: always. Stay below the four seconds after
    /// which others would find it dead, which they do not look for here.
    pub fn slow(&mut self, host: HostId, every: Duration) {
        let at = &mut self.hosts[host.0];
        at.every = every;
        self.net.note(format_args!("{} runs every {every:?}", at.name));
    }

    /// The host's clock is so far ahead from now on, or behind where negative.
    pub fn skew(&mut self, host: HostId, ahead_ms: i64) {
        let at = &self.hosts[host.0];
        at.clock.set_ahead_ms(ahead_ms);
        self.net.note(format_args!("{} is {ahead_ms} ms ahead", at.name));
    }

    /// Nothing passes between these hosts and those, in either direction.
    pub fn cut(&mut self, these: &[HostId], those: &[HostId]) {
        self.cut_one_way(these, those);
        self.cut_one_way(those, these);
    }

    /// Nothing passes from these hosts to those; the other way is not touched.
    pub fn cut_one_way(&mut self, from: &[HostId], to: &[HostId]) {
        self.net.set_cut(ways(from, to), true);
    }

    /// Cuts the host off from all others.
    pub fn isolate(&mut self, host: HostId) {
        let others: Vec<HostId> = self.hosts().filter(|&other| other != host).collect();
        self.cut(&[host], &others);
    }

    /// Everything passes everywhere again.
    pub fn heal(&mut self) {
        self.net.set_cut(self.net.cuts(), false);
    }

    /// Everything passes between these hosts and those again.
    pub fn heal_between(&mut self, these: &[HostId], those: &[HostId]) {
        self.net.set_cut(ways(these, those).into_iter().chain(ways(those, these)), false);
    }

    /// How good the way between two hosts is from now on, in both directions.
    pub fn set_link(&mut self, a: HostId, b: HostId, quality: Quality) {
        self.set_link_one_way(a, b, quality.clone());
        self.set_link_one_way(b, a, quality);
    }

    /// How good the way from one host to another is from now on.
    pub fn set_link_one_way(&mut self, from: HostId, to: HostId, quality: Quality) {
        self.net.lock().0.links.insert((from, to), quality);
    }

    /// How good all ways are from now on of which nothing was said by [`set_link`](Self::set_link).
    pub fn set_quality(&mut self, quality: Quality) {
        self.net.lock().0.quality = quality;
    }

    /// The host's disk.
    pub fn disk(&self, host: HostId) -> &SimDisk {
        &self.hosts[host.0].disk
    }

    /// How the host's disk is doing from now on.
    pub fn set_disk(&mut self, host: HostId, faults: DiskFaults) {
        let at = &self.hosts[host.0];
        self.net.note(format_args!("{} has a disk with {faults:?}", at.name));
        at.disk.set(faults);
    }

    /// The host's way to the store.
    pub fn store(&self, host: HostId) -> &FaultyStore {
        &self.hosts[host.0].store
    }

    /// How the host's way to the store is doing from now on; `Faults { away: true, .. }` cuts it off.
    pub fn set_store(&mut self, host: HostId, faults: Faults) {
        let at = &self.hosts[host.0];
        self.net.note(format_args!("{} has a store with {faults:?}", at.name));
        at.store.set(faults);
    }
}

/// The ways from each to each, but not from one to itself.
fn ways(from: &[HostId], to: &[HostId]) -> Vec<(HostId, HostId)> {
    let pairs = from.iter().flat_map(|&from| to.iter().map(move |&to| (from, to)));
    pairs.filter(|(from, to)| from != to).collect()
}
