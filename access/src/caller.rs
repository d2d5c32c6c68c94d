//! Who is calling, and what they may do.
//!
//! Owns: the answer to "may this caller do this for this site", and the refusal.
//! Does not own: who it is (`layer`, `keyring`), which site a call is about (its handler).
//!
//! A refusal is the same whether or not there is such a site.

use crate::token::{Scope, TokenId};
use futures::{Stream, StreamExt as _, stream};
use http::Extensions;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_rollup::canonical;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Which sites a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// All of them, also those that do not exist yet.
    All,
    /// These.
    Named(BTreeSet<String>),
}

impl Sites {
    /// Whether `site`, in its canonical form, is one of them.
    pub fn include(&self, site: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(site),
        }
    }
}

/// What a token allows.
#[derive(Debug)]
pub struct Grant {
    /// Whose it is.
    pub id: TokenId,
    /// What for.
    pub scopes: BTreeSet<Scope>,
    /// Where.
    pub sites: Sites,
    /// Cancelled when it is over: the token was revoked, or its time is up.
    pub ended: CancellationToken,
}

static NO_SITES: BTreeSet<String> = BTreeSet::new();

/// Who is calling.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever it is: the process has no tokens.
    Anyone,
    /// Another member, or another part of this process.
    Member,
    /// Who has this token.
    Token(Arc<Grant>),
    /// Nobody who was asked who they are.
    Nobody,
}

/// The caller may not do that. Use a token that is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Ask for a token of that scope.
    #[error("the token is not for that: it needs the scope {0}")]
    Scope(Scope),
    /// Name a site that the token is for.
    #[error("the token is not for this site: name one that it is for")]
    Site,
    /// Ask for a token of all sites.
    #[error("this is about all sites, and the token is not for all of them: name one that it is for")]
    AllSites,
}

impl From<Forbidden> for Status {
    fn from(forbidden: Forbidden) -> Self {
        Self::permission_denied(forbidden.to_string())
    }
}

impl Caller {
    /// Who made this request: what the [layer](crate::layer) noted.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self::Nobody)
    }

    /// Whether they may do things of this scope for this site, named in its canonical form.
    ///
    /// # Errors
    /// Where not.
    pub fn may(&self, scope: Scope, site: &str) -> Result<(), Forbidden> {
        self.may_somewhere(scope)?;
        match self {
            Self::Token(grant) if !grant.sites.include(site) => Err(Forbidden::Site),
            _ => Ok(()),
        }
    }

    /// Whether they may do things of this scope that are about all sites at once.
    ///
    /// # Errors
    /// Where not.
    pub fn may_for_all(&self, scope: Scope) -> Result<(), Forbidden> {
        self.may_somewhere(scope)?;
        match self {
            Self::Token(grant) if grant.sites != Sites::All => Err(Forbidden::AllSites),
            _ => Ok(()),
        }
    }

    /// Whether they may do things of this scope for some site.
    ///
    /// # Errors
    /// Where not.
    pub fn may_somewhere(&self, scope: Scope) -> Result<(), Forbidden> {
        match self {
            Self::Anyone | Self::Member => Ok(()),
            Self::Token(grant) if grant.scopes.contains(&scope) => Ok(()),
            Self::Token(_) | Self::Nobody => Err(Forbidden::Scope(scope)),
        }
    }

    /// Whether they may send an event of this site, as it came. What cannot be a site is for others to judge.
    pub fn may_send(&self, site: &[u8]) -> bool {
        let Some(sites) = self.only_sites() else { return true };
        let site = std::str::from_utf8(site).ok().and_then(|site| canonical::site(site).ok());
        site.is_none_or(|site| sites.contains(&*site))
    }

    /// The sites that they may do things for, where these are not all; none for nobody.
    pub fn only_sites(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Token(grant) => match &grant.sites {
                Sites::All => None,
                Sites::Named(names) => Some(names),
            },
            Self::Nobody => Some(&NO_SITES),
            Self::Anyone | Self::Member => None,
        }
    }

    /// What they are sent, for as long as they may have it; then an error that says why it ends.
    pub fn while_allowed<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
        let caller = self.clone();
        let over = stream::once(async move {
            let over =
                || Status::unauthenticated("the token was revoked, or has expired: ask for another one");
            caller.has_ended().then(|| Err(over()))
        });
        stream.take_until(self.ended()).chain(over.filter_map(std::future::ready))
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Token(grant) if grant.ended.is_cancelled())
    }

    /// Waits until they may do nothing any more; for ever where nothing takes it away. What is open for long ends then.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let ended = match self {
            Self::Token(grant) => Some(grant.ended.clone()),
            Self::Anyone | Self::Member | Self::Nobody => None,
        };
        async move {
            match ended {
                Some(ended) => ended.cancelled_owned().await,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scopes: &[Scope], sites: Sites) -> Caller {
        let id = TokenId::parse("0123456789ab").unwrap();
        let scopes = scopes.iter().copied().collect();
        Caller::Token(Arc::new(Grant { id, scopes, sites, ended: CancellationToken::new() }))
    }

    #[test]
    fn a_token_is_for_its_scopes_at_its_sites_and_for_nothing_else() {
        let one = token(&[Scope::Query], Sites::Named(["a.example".to_owned()].into()));
        assert_eq!(one.may(Scope::Query, "a.example"), Ok(()));
        assert_eq!(one.may(Scope::Query, "b.example"), Err(Forbidden::Site));
        assert_eq!(one.may(Scope::Ingest, "a.example"), Err(Forbidden::Scope(Scope::Ingest)));
        assert_eq!(one.may_for_all(Scope::Query), Err(Forbidden::AllSites));
        let all = token(&[Scope::Query, Scope::Admin], Sites::All);
        assert_eq!(all.may(Scope::Query, "b.example"), Ok(()));
        assert_eq!(all.may_for_all(Scope::Admin), Ok(()));
        assert_eq!(all.may_for_all(Scope::Ingest), Err(Forbidden::Scope(Scope::Ingest)));
    }

    #[test]
    fn who_was_not_asked_may_do_nothing() {
        let nobody = Caller::of(&Extensions::new());
        for scope in Scope::ALL {
            assert_eq!(nobody.may(scope, "a.example"), Err(Forbidden::Scope(scope)));
            assert_eq!(nobody.may_for_all(scope), Err(Forbidden::Scope(scope)));
        }
        assert!(!nobody.may_send(b"a.example"));
    }
}
