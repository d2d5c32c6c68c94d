//! What a member keeps in its folder.
//!
//! Owns: two small text files: `incarnation`, the latest one this member went by, and `members`, the nodes that it knew and that
//! did not leave, one `name gossip-address` per line.
//! Does not own: what follows from them (`view`, `protocol`).
//!
//! A file is written beside the old one and then takes its place. One that cannot be read as what it should be counts as absent,
//! with a line in the log: the time of day and what others say stand in for it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tidemark_rollup::member::{Incarnation, NodeId};

/// How many nodes are remembered.
pub(crate) const MAX_REMEMBERED: usize = 10_000;
/// The most bytes that are read of a file.
const MAX_FILE_BYTES: u64 = 2 << 20;

/// A node that was here, and where its gossip was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: NodeId,
    pub(crate) gossip: SocketAddr,
}

/// A member's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder; made if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    /// The incarnation kept last.
    pub(crate) fn incarnation(&self) -> io::Result<Option<Incarnation>> {
        let Some(text) = self.read("incarnation")? else { return Ok(None) };
        let number = text.trim().parse().ok().filter(|number| *number < u64::MAX / 2);
        if number.is_none() {
            tracing::warn!(
                "the file incarnation in {} has no number: the time of day has to do",
                self.0.display()
            );
        }
        Ok(number.map(Incarnation))
    }

    pub(crate) fn keep_incarnation(&self, incarnation: Incarnation) -> io::Result<()> {
        self.write("incarnation", &format!("{}\n", incarnation.0))
    }

    /// The nodes kept last.
    pub(crate) fn members(&self) -> io::Result<Vec<Known>> {
        let text = self.read("members")?.unwrap_or_default();
        let known: Vec<Known> = text.lines().filter_map(known).take(MAX_REMEMBERED).collect();
        if known.len() < text.lines().count() {
            tracing::warn!("the file members in {} has lines that name no member", self.0.display());
        }
        Ok(known)
    }

    pub(crate) fn keep_members(&self, members: &[Known]) -> io::Result<()> {
        let lines: String = members.iter().map(|known| format!("{} {}\n", known.id, known.gossip)).collect();
        self.write("members", &lines)
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        use std::io::Read as _;
        let file = match File::open(self.0.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.0.join(format!("{name}.new"));
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.0.join(name))
    }
}

fn known(line: &str) -> Option<Known> {
    let (id, gossip) = line.split_once(' ')?;
    Some(Known { id: NodeId::new(id).ok()?, gossip: gossip.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::open(&folder.path().join("membership")).unwrap();
        assert_eq!((folder.incarnation().unwrap(), folder.members().unwrap()), (None, vec![]));
        let known = Known { id: NodeId::new("n2").unwrap(), gossip: "[::1]:7000".parse().unwrap() };
        folder.keep_incarnation(Incarnation(41)).unwrap();
        folder.keep_incarnation(Incarnation(42)).unwrap();
        folder.keep_members(std::slice::from_ref(&known)).unwrap();
        assert_eq!(
            (folder.incarnation().unwrap(), folder.members().unwrap()),
            (Some(Incarnation(42)), vec![known])
        );
    }

    #[test]
    fn files_that_hold_something_else_count_as_absent() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::open(path.path()).unwrap();
        fs::write(path.path().join("incarnation"), b"\xff\x00").unwrap();
        fs::write(path.path().join("members"), "n1 1.2.3.4:5\nn 2\n\nn3 host:1\n").unwrap();
        assert_eq!(folder.incarnation().unwrap(), None);
        assert_eq!(folder.members().unwrap().len(), 1);
    }
}
