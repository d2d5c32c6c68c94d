//! What each path needs.
//!
//! Owns: the table, for gRPC and HTTP, of nodes, coordinators and edges alike.
//! Does not own: sites (handlers), who is calling (`layer`).
//!
//! A path that is not in the table needs a token, of whatever scope: what is added later is not open by mistake.

use crate::caller::{Caller, Forbidden};
use crate::token::Scope;

/// What a path needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it shows nothing that anybody has to hide.
    Nothing,
    /// Some token.
    Known,
    /// A token of one of these scopes, for some site; the handler asks for which.
    Somewhere(&'static [Scope]),
    /// A token of this scope for all sites.
    Everywhere(Scope),
    /// To be a member.
    Member,
}

/// What this path needs.
pub fn need_of(path: &str) -> Need {
    use Scope::{Admin, Ingest, Query};
    let segments = || path.trim_start_matches('/').split('/');
    match path {
        // Whether it runs is for whoever looks after it, and the pages have no numbers in them.
        "/healthz" | "/readyz" | "/" | "/start" => return Need::Nothing,
        // An edge takes from everybody what its sites allow.
        "/tidemark.js" | "/t.gif" | "/v1/collect" => return Need::Nothing,
        "/metrics" => return Need::Everywhere(Admin),
        "/v1/query" | "/v1/watch" | "/v1/describe" => return Need::Somewhere(&[Query]),
        // The way of all sites' events.
        "/v1/flow" | "/tidemark.v1.Analytics/WatchFlow" => return Need::Everywhere(Query),
        "/v1/events" => return Need::Somewhere(&[Ingest]),
        // Who brings blocks to their owners has to know them.
        "/tidemark.v1.Admin/Placement" | "/tidemark.v1.Admin/WatchPlacement" => {
            return Need::Somewhere(&[Ingest, Admin]);
        }
        "/tidemark.v1.Admin/Receipts" => return Need::Somewhere(&[Query]),
        _ => {}
    }
    match segments().next() {
        Some("assets") => Need::Nothing,
        Some("grpc.health.v1.Health") => Need::Nothing,
        Some("tidemark.v1.Ingest") => Need::Somewhere(&[Ingest]),
        Some("tidemark.v1.Analytics") => Need::Somewhere(&[Query]),
        Some("tidemark.v1.Admin") => Need::Everywhere(Admin),
        Some("tidemark.v1.Cluster") => Need::Member,
        _ => Need::Known,
    }
}

impl Need {
    /// Whether this caller has it.
    ///
    /// # Errors
    /// Where they do not.
    pub(crate) fn check(self, caller: &Caller) -> Result<(), Option<Forbidden>> {
        match (self, caller) {
            (Self::Nothing, _) | (_, Caller::Member | Caller::Anyone) => Ok(()),
            (Self::Member, _) | (_, Caller::Nobody) => Err(None),
            (Self::Known, Caller::Token(_)) => Ok(()),
            (Self::Everywhere(scope), Caller::Token(_)) => caller.may_for_all(scope).map_err(Some),
            (Self::Somewhere(scopes), Caller::Token(_)) => {
                let mut judged = scopes.iter().map(|&scope| caller.may_somewhere(scope));
                let first = judged.next().unwrap_or(Ok(()));
                if first.is_ok() || judged.any(|judged| judged.is_ok()) {
                    Ok(())
                } else {
                    first.map_err(Some)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_needs_a_token() {
        for path in [
            "/v1/queries",
            "/v2/query",
            "/metrics/",
            "//metrics",
            "/tidemark.v2.Ingest/SendRows",
            "/x",
            "/v1/query/",
        ] {
            assert_eq!(need_of(path), Need::Known, "{path}");
        }
        // No spelling of a way out of a folder is open either, but for what the route of assets itself refuses.
        assert_eq!(need_of("/assets/../metrics"), Need::Nothing);
        assert_eq!(need_of("/healthz/../metrics"), Need::Known);
    }

    #[test]
    fn calls_between_members_are_for_members() {
        for method in ["Apply", "PullBlocks", "Status", "QueryPartial", "Anything"] {
            assert_eq!(need_of(&format!("/tidemark.v1.Cluster/{method}")), Need::Member);
        }
    }
}
