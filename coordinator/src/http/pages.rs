//! What a browser sees: the dashboard, and the start page.
//!
//! Owns: serving their files, compressed where that is understood, kept where they cannot change; and that they load nothing from
//! elsewhere.
//! Does not own: the files (`tidemark-dashboard`), what the dashboard asks (`service`).

use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use tidemark_dashboard::{ABSENT, Asset, asset};

const START_PAGE: &str = include_str!("start_page.html");
/// In the start page, where something about the dashboard may stand.
const PLACE: &str = "<!-- dashboard -->";
/// The page loads nothing from anywhere.
const START_PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
/// The dashboard loads its own files, and asks where it came from. Charts set styles of their elements.
const DASHBOARD_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
                                img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The dashboard, where the program has one; otherwise the start page, which says how to get it.
pub(super) async fn index(headers: HeaderMap) -> Response {
    match asset("index.html") {
        Some(asset) => serve(asset, &headers),
        None => start().await,
    }
}

/// How to send and to ask without a dashboard.
pub(super) async fn start() -> Response {
    let page = START_PAGE.replacen(PLACE, &about_dashboard(ABSENT), 1);
    ([(CONTENT_SECURITY_POLICY, START_PAGE_POLICY)], Html(page)).into_response()
}

fn about_dashboard(absent: &str) -> String {
    if absent.is_empty() {
        return "<p><a href=\"/\">The dashboard</a> shows all of it, live.</p>".to_owned();
    }
    let escaped = absent.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<p><strong>This program was built without its dashboard.</strong> To have it here, install Node.js 20 or later with npm, \
         and build again: <code>cargo build --release</code>. What was in the way: {escaped}</p>"
    )
}

/// A file of the dashboard.
pub(super) async fn file(uri: Uri, headers: HeaderMap) -> Response {
    match asset(uri.path().trim_start_matches('/')) {
        Some(asset) => serve(asset, &headers),
        None => super::unknown_route(headers, uri).await,
    }
}

fn serve(asset: &'static Asset, headers: &HeaderMap) -> Response {
    let says = |name, what: &str| {
        headers
            .get_all(name)
            .iter()
            .any(|value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains(what)))
    };
    let tag = tag(asset);
    let kept = if asset.is_immutable() { "public, max-age=31536000, immutable" } else { "no-cache" };
    let head = [(CACHE_CONTROL, kept), (VARY, "accept-encoding"), (ETAG, tag.as_str())];
    if says(IF_NONE_MATCH, &tag) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    let about = [
        (CONTENT_TYPE, asset.content_type()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, DASHBOARD_POLICY),
    ];
    match says(ACCEPT_ENCODING, "gzip") {
        true => (head, about, [(CONTENT_ENCODING, "gzip")], asset.gzip).into_response(),
        false => (head, about, asset.plain).into_response(),
    }
}

/// Tells one build's file from another's: a file of gzip ends with the checksum and the length of what is in it (RFC 1952).
fn tag(asset: &Asset) -> String {
    let end = asset.gzip.last_chunk().map_or(0, |&end| u64::from_le_bytes(end));
    format!("\"{end:x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_dashboard_the_start_page_says_how_to_get_it_and_why_it_is_not_there() {
        assert_eq!(START_PAGE.matches(PLACE).count(), 1);
        let text = about_dashboard("npm says <no>");
        assert!(text.contains("npm says &lt;no&gt;") && text.contains("cargo build"), "{text}");
    }
}
