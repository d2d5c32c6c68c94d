//! The HTTP side.
//!
//! Owns: routes, who may post (site, origin, rate), reading bodies, and replies.
//! Does not own: what is posted (`post`), what is made of it (`event`), keeping it (`intake`), the tracker (`tracker`).
//!
//! | route | what |
//! | --- | --- |
//! | `POST /v1/collect` | events in JSON, of browsers (`sendBeacon`, `fetch`) and servers: 204 when they are taken |
//! | `GET /t.gif?site=...&url=...` | one event; a transparent pixel when it is taken |
//! | `GET /tidemark.js` | the tracker |
//! | `GET /metrics` | Prometheus, OpenMetrics text |
//! | `GET /healthz` | 200 as long as the process runs |
//! | `GET /readyz` | 200 when events are taken, else 503 |

use crate::address::{self, NOBODY};
use crate::event::{Making, Sender};
use crate::intake::{Intake, TakeError};
use crate::metrics::{EdgeMetrics, Refused};
use crate::post::{self, Post};
use crate::recent::{self, Pending, Recent, Seen};
use crate::refusal::Refusal;
use crate::sites::{Sites, origin_of};
use crate::tracker::Tracker;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, ORIGIN, REFERER, USER_AGENT, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_rollup::canonical;
use tidemark_rollup::rates::Rates;
use tidemark_rollup::time::Clock;
use tidemark_shell::accepted::OtherEnd;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Bodies that are read at a time; further ones wait for as long as a body may take.
pub(crate) const MAX_READING: usize = 256;
/// A pixel that nobody sees.
const GIF: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";
/// Pages that isolate themselves show what says that it may be shown.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What the handlers need.
pub(crate) struct App {
    pub(crate) sites: Sites,
    pub(crate) trusted_proxies: u32,
    pub(crate) ignore_do_not_track: bool,
    pub(crate) max_body_bytes: usize,
    pub(crate) making: Making,
    pub(crate) intake: Intake,
    pub(crate) address_rates: Rates<u128>,
    pub(crate) site_rates: Rates<String>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) reading: Semaphore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tracker: Tracker,
    pub(crate) metrics: EdgeMetrics,
    pub(crate) registry: Arc<Mutex<Registry>>,
}

/// The routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/collect", post(collect).options(preflight))
        .route("/t.gif", get(pixel))
        .route("/tidemark.js", get(script))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .with_state(app)
}

/// What was taken of a post.
#[derive(Debug, Default)]
struct Taken {
    accepted: usize,
    /// Positions of events that do not count, and why.
    rejected: Vec<(usize, String)>,
}

async fn collect(
    State(app): State<Arc<App>>,
    peer: Option<Extension<OtherEnd>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let address = app.address(peer, &headers);
    let outcome = async {
        // Whoever has sent too much already is not read.
        app.admit_address(address, 0)?;
        let body = app.read(body).await?;
        let post = post::from_json(&body).map_err(|error| Refusal::malformed(error.to_string()))?;
        app.origin_may(&post.site, text(&headers, &ORIGIN))?;
        app.take(post, address, &headers).await
    };
    let reply = match outcome.await {
        Ok(Taken { rejected, .. }) if rejected.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok(Taken { accepted, rejected }) => {
            let rejected: Vec<_> = rejected
                .into_iter()
                .map(|(index, reason)| json!({ "index": index, "reason": reason }))
                .collect();
            axum::Json(json!({ "accepted": accepted, "rejected": rejected })).into_response()
        }
        Err(refusal) => app.refuse(refusal),
    };
    app.allowing(reply, &headers)
}

async fn pixel(
    State(app): State<Arc<App>>,
    peer: Option<Extension<OtherEnd>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let address = app.address(peer, &headers);
    let referer = text(&headers, &REFERER);
    let post = post::from_query(query.as_deref().unwrap_or_default(), referer);
    let outcome = async {
        // An image has no origin, but for one that asks for it; the page that shows it is told by most browsers.
        let of_page = referer.and_then(origin_of);
        app.origin_may(&post.site, text(&headers, &ORIGIN).or(of_page.as_deref()))?;
        app.take(post, address, &headers).await
    };
    let reply = match outcome.await {
        Ok(Taken { rejected, .. }) if rejected.is_empty() => {
            ([(CONTENT_TYPE, "image/gif")], GIF).into_response()
        }
        Ok(Taken { rejected, .. }) => {
            let reason = rejected.into_iter().next().map(|(_, reason)| reason).unwrap_or_default();
            app.refuse(Refusal::malformed(format!("the event does not count: {reason}")))
        }
        Err(refusal) => app.refuse(refusal),
    };
    let mut reply = app.allowing(reply, &headers);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers_mut().insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    reply
}

/// A browser asks before it posts what is not plain text. Which site it will be about it does not say.
async fn preflight(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut reply = app.allowing(StatusCode::NO_CONTENT.into_response(), &headers);
    let allowed = reply.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN);
    if allowed {
        let all = reply.headers_mut();
        all.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        all.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
        all.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    reply
}

async fn script(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut reply = app.tracker.reply(&headers);
    reply.headers_mut().insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    reply
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = String::new();
    let encoded = encode(&mut text, &app.registry.lock().unwrap_or_else(PoisonError::into_inner));
    match encoded {
        Ok(()) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.intake.is_ready() {
        true => axum::Json(json!({ "ready": true })).into_response(),
        false => {
            let message = TakeError::NotReady.to_string();
            let body = json!({ "ready": false, "code": "unavailable", "message": message, "field": null });
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not possible on {}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "unimplemented", message).into_response()
}

async fn unknown_route(uri: Uri) -> Response {
    let message = format!("there is nothing at {}: POST /v1/collect takes events", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
}

impl App {
    fn address(&self, peer: Option<Extension<OtherEnd>>, headers: &HeaderMap) -> IpAddr {
        address::client(
            peer.map_or(NOBODY, |Extension(peer)| peer.address.ip()),
            headers,
            self.trusted_proxies,
        )
    }

    fn admit_address(&self, address: IpAddr, events: usize) -> Result<(), Refusal> {
        let admitted = self.address_rates.take(&address::household(address), events as f64, self.clock.now());
        admitted.map_err(|after| Refusal::too_many(Refused::AddressRate, after))
    }

    /// Whether pages of this origin may send events of the site. Servers have none.
    fn origin_may(&self, site: &str, origin: Option<&str>) -> Result<(), Refusal> {
        let site = canonical::site(site).map_err(|reason| Refusal::site(&reason.name()))?;
        if !self.sites.knows(&site) {
            return Err(Refusal::unknown_site());
        }
        match origin {
            Some(origin) if !self.sites.allow(&site, origin) => Err(Refusal::origin()),
            _ => Ok(()),
        }
    }

    async fn take(&self, post: Post<'_>, address: IpAddr, headers: &HeaderMap) -> Result<Taken, Refusal> {
        let Post { site, sent_ms, id, hits } = post;
        let asks = |name: &str| headers.get(name).is_some_and(|value| value == "1");
        if !self.ignore_do_not_track && (asks("dnt") || asks("sec-gpc")) {
            // Not the sender's fault: the reply is the one of any other.
            self.metrics.refused(Refused::DoNotTrack);
            return Ok(Taken::default());
        }
        let site = canonical::site(&site).map_err(|reason| Refusal::site(&reason.name()))?;
        let name = id.map(|id| recent::name(&site, &id));
        match name.map(|name| self.recent.come(name)) {
            Some(Seen::Counted) => {
                self.metrics.refused(Refused::Repeated);
                return Ok(Taken::default());
            }
            Some(Seen::OnItsWay) => {
                return Err(Refusal::unavailable("the same post is on its way: post again in a moment"));
            }
            Some(Seen::New) | None => {}
        }
        let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
        let sender = Sender { site: &site, address, agent, sent_ms, now: self.clock.now() };
        let pending = name.map(|name| Pending::new(&self.recent, name));
        self.take_hits(hits, &sender, pending).await
    }

    async fn take_hits(
        &self,
        hits: Vec<Option<post::Hit<'_>>>,
        sender: &Sender<'_>,
        pending: Option<Pending>,
    ) -> Result<Taken, Refusal> {
        let started = Instant::now();
        self.admit_address(sender.address, hits.len())?;
        let site_rate = self.site_rates.take(sender.site, hits.len() as f64, sender.now);
        site_rate.map_err(|after| Refusal::too_many(Refused::SiteRate, after))?;
        let (mut events, mut taken) = (Vec::with_capacity(hits.len()), Taken::default());
        for (index, hit) in hits.into_iter().enumerate() {
            let Some(hit) = hit else {
                self.metrics.unreadable(1);
                taken.rejected.push((index, "unreadable".to_owned()));
                continue;
            };
            let made = self.making.event(hit, sender);
            let made =
                made.map_err(|error| Refusal::unavailable(format!("the system has no randomness: {error}")))?;
            match made.rejected {
                Some(reason) => taken.rejected.push((index, reason.name())),
                None => taken.accepted += 1,
            }
            events.push(made.event);
        }
        self.intake.take(events, pending).await.map_err(|error| match error {
            TakeError::Lost(_) => Refusal::lost(error.to_string()),
            TakeError::Busy | TakeError::Full | TakeError::NotReady | TakeError::Late => {
                Refusal::unavailable(error.to_string())
            }
        })?;
        self.metrics.taken(taken.accepted, started.elapsed());
        Ok(taken)
    }

    /// Reads a body. What is too large is read on without being kept: most clients listen only once they have sent everything.
    async fn read(&self, body: Body) -> Result<Bytes, Refusal> {
        timeout(BODY_WITHIN, self.read_in_time(body)).await.map_err(|_| Refusal::slow())?
    }

    async fn read_in_time(&self, body: Body) -> Result<Bytes, Refusal> {
        // The semaphore is never closed.
        let _place = self.reading.acquire().await.map_err(|_| Refusal::slow())?;
        let (mut bytes, mut len) = (BytesMut::new(), 0_usize);
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Refusal::malformed(format!("the body broke off: {error}")))?;
            len = len.saturating_add(chunk.len());
            if len <= self.max_body_bytes {
                bytes.extend_from_slice(&chunk);
            } else if len > self.max_body_bytes.saturating_mul(4) {
                break;
            }
        }
        if len > self.max_body_bytes {
            return Err(Refusal::too_large(self.max_body_bytes));
        }
        Ok(bytes.freeze())
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        if let Some(why) = refusal.why() {
            self.metrics.refused(why);
        }
        refusal.into_response()
    }

    /// Lets pages read the reply, where some site may be sent from there.
    fn allowing(&self, mut reply: Response, headers: &HeaderMap) -> Response {
        reply.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = headers.get(ORIGIN)
            && origin.to_str().is_ok_and(|origin| self.sites.any_allows(origin))
        {
            reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        reply
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("null"))
}
