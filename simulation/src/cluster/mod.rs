//! Whole clusters in a world: nodes, coordinators and producers, what happens to them, and what has to hold.
//!
//! Owns: putting a cluster together on hosts, schedules of faults, load with a ledger, and the checks.
//! Does not own: the product; the world itself (`crate::world`).
//!
//! ```text
//! schedule.rs ── what happens when ──> run.rs ──> members.rs: nodes and coordinators on hosts
//!                                       │  ├────> load.rs: producers ──> ledger.rs <── probe.rs: questions
//!                                       │  └────> finish.rs: everything heals, and has to add up
//!                                       └── faults.rs: doing it to the world
//! ```
//!
//! The spool of a producer is left out: its journal has a thread of its own.

mod ask;
mod faults;
mod finish;
mod ledger;
mod load;
mod members;
mod probe;
mod run;
mod schedule;

pub use members::{Defect, defects};
pub use run::{Options, Outcome, simulate};
pub use schedule::{Schedule, Step, Trouble};
