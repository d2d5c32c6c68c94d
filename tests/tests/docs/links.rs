//! Where links lead.
//!
//! Owns: whether what a relative link names is there, within the repository.
//! Does not own: addresses elsewhere, which nobody asks in a test.

use crate::markdown::Page;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The links of `file` that lead nowhere, each with its place.
pub(crate) fn broken(repository: &Path, file: &Path) -> Vec<String> {
    let page = Page::of(&fs::read_to_string(file).unwrap());
    let told = file.strip_prefix(repository).unwrap().display().to_string();
    let broken = page.links.iter().filter_map(|link| {
        let why = lost(repository, file, &page, &link.to)?;
        Some(format!("{told}:{}: {}: {why}", link.line, link.to))
    });
    broken.collect()
}

/// Why a link leads nowhere; `None` where it does not, or is none of ours.
fn lost(repository: &Path, file: &Path, page: &Page, to: &str) -> Option<String> {
    let scheme =
        to.split_once(':').is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    if scheme {
        return None;
    }
    let (path, anchor) = to.split_once('#').map_or((to, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => file.to_owned(),
        path => match resolve(file.parent().unwrap(), path) {
            target if target.starts_with(repository) => target,
            _ => return Some("leads out of the repository".to_owned()),
        },
    };
    if !target.exists() {
        return Some("there is no such file".to_owned());
    }
    let anchor = anchor?;
    let there = match path {
        "" => page.anchors.iter().any(|name| name == anchor),
        _ if target.extension().is_some_and(|extension| extension == "md") => {
            Page::of(&fs::read_to_string(&target).unwrap()).anchors.iter().any(|name| name == anchor)
        }
        _ => false,
    };
    (!there).then(|| "there is no such heading".to_owned())
}

/// `path` from `folder`, without asking the file system.
fn resolve(folder: &Path, path: &str) -> PathBuf {
    let mut target = folder.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => _ = target.pop(),
            Component::CurDir => {}
            other => target.push(other),
        }
    }
    target
}
