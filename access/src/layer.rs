//! The layer before all calls.
//!
//! Owns: finding out who is calling, and refusing calls that they may not make, in the caller's own protocol.
//! Does not own: what a path needs (`paths`), sites (handlers).

use crate::caller::{Caller, Forbidden};
use crate::keyring::{Keyring, Refused};
use crate::metrics::{AccessMetrics, Reason};
use crate::paths::{Need, need_of};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;
use tidemark_rollup::time::Clock;
use tidemark_shell::accepted::OtherEnd;
use tidemark_shell::link::MEMBER_SECRET;
use tonic::{Code, Status};

/// Who may call.
#[derive(Clone)]
pub struct Access(Option<Arc<Guard>>);

struct Guard {
    keyring: Arc<Keyring>,
    clock: Arc<dyn Clock>,
    metrics: AccessMetrics,
    /// What other parts of this process show, where there is no TLS by which members know each other.
    secret: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Access(tokens)" } else { "Access(open)" })
    }
}

impl Access {
    /// Whoever reaches the process.
    pub const OPEN: Self = Self(None);

    /// Who has a token of this ring; and members, which TLS tells, or who show `secret`.
    pub fn with_tokens(
        keyring: Arc<Keyring>,
        clock: Arc<dyn Clock>,
        metrics: AccessMetrics,
        secret: Option<String>,
    ) -> Self {
        Self(Some(Arc::new(Guard { keyring, clock, metrics, secret })))
    }

    /// Asks for what its path needs before each request of `router`, and notes the [`Caller`] in its extensions.
    pub fn guard(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), guard))
    }

    /// Notes that a handler refused a call.
    pub fn refused(&self, forbidden: Forbidden) {
        if let Some(guard) = &self.0 {
            guard.metrics.refused(forbidden);
        }
    }
}

impl Guard {
    fn caller(&self, request: &Request) -> Result<Caller, Refused> {
        if request.extensions().get::<OtherEnd>().is_some_and(|other| other.is_member) {
            return Ok(Caller::Member);
        }
        if let (Some(secret), Some(shown)) = (&self.secret, request.headers().get(MEMBER_SECRET)) {
            return match secret.as_bytes().ct_eq(shown.as_bytes()).into() {
                true => Ok(Caller::Member),
                false => Err(Refused::Unknown),
            };
        }
        let token = bearer(request.headers()).ok_or(Refused::Missing)?;
        self.keyring.check(token, self.clock.now()).map(Caller::Token)
    }
}

/// The token of a request; `None` where there is none, or several.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (first, second) = (given.next()?, given.next());
    let (scheme, token) = first.to_str().ok().filter(|_| second.is_none())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let Some(guard) = access.0 else {
        request.extensions_mut().insert(Caller::Anyone);
        return next.run(request).await;
    };
    let need = need_of(request.uri().path());
    let caller = guard.caller(&request);
    let judged = match &caller {
        _ if need == Need::Nothing => Ok(()),
        Ok(caller) => need.check(caller).map_err(Denial::of),
        Err(refused) => Err(Denial::Unknown(*refused)),
    };
    if let Err(denial) = judged {
        guard.metrics.refused(denial.reason());
        return denial.answer(request.headers());
    }
    // Neither is for those who handle the request.
    request.headers_mut().remove(AUTHORIZATION);
    request.headers_mut().remove(MEMBER_SECRET);
    request.extensions_mut().insert(caller.unwrap_or(Caller::Nobody));
    next.run(request).await
}

/// Why a call is refused.
enum Denial {
    Unknown(Refused),
    Forbidden(Forbidden),
    NoMember,
}

impl Denial {
    fn of(forbidden: Option<Forbidden>) -> Self {
        forbidden.map_or(Self::NoMember, Self::Forbidden)
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Unknown(refused) => (*refused).into(),
            Self::Forbidden(forbidden) => (*forbidden).into(),
            Self::NoMember => Reason::no_member,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Unknown(Refused::Missing) => {
                "a token is needed: send it as `authorization: Bearer tmk_...`".to_owned()
            }
            Self::Unknown(Refused::Unknown) => "the token is not known here".to_owned(),
            Self::Unknown(Refused::Revoked) => "the token was revoked: ask for another one".to_owned(),
            Self::Unknown(Refused::Expired) => "the token has expired: ask for another one".to_owned(),
            Self::Forbidden(forbidden) => forbidden.to_string(),
            Self::NoMember => "this is between members of the cluster".to_owned(),
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let (code, status, name) = match self {
            Self::Unknown(_) => (Code::Unauthenticated, StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Forbidden(_) | Self::NoMember => {
                (Code::PermissionDenied, StatusCode::FORBIDDEN, "permission_denied")
            }
        };
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if let Some(asked) = headers.get(CONTENT_TYPE).filter(|value| is_grpc(value)) {
            let mut response = Status::new(code, self.message()).into_http::<Body>();
            // A browser's form of it is answered in that form.
            response.headers_mut().insert(CONTENT_TYPE, asked.clone());
            return response;
        }
        let body = format!("{{\"code\":\"{name}\",\"message\":\"{}\",\"field\":null}}", self.message());
        let mut response = (status, [(CONTENT_TYPE, "application/json")], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::any;
    use tidemark_rollup::time::EventTime;
    use tower::ServiceExt as _;

    struct Now;

    impl Clock for Now {
        fn now(&self) -> EventTime {
            EventTime::EPOCH
        }
    }

    #[tokio::test]
    async fn no_method_of_http_is_a_way_around() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        std::fs::write(&file, "").unwrap();
        let keyring = Keyring::open(&file, Arc::new(Now)).unwrap();
        let access = Access::with_tokens(keyring, Arc::new(Now), AccessMetrics::default(), None);
        let router = access.guard(Router::new().fallback(any(|| async { "reached" })));
        for method in ["OPTIONS", "HEAD", "GET", "POST", "CONNECT", "ANYTHING"] {
            for path in
                ["/tidemark.v1.Cluster/PullBlocks", "/tidemark.v1.Admin/Drain", "/metrics", "/v1/query"]
            {
                let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
                let response = router.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
    }
}
