//! The script that pages load.
//!
//! Owns: its text without comments, compressed, and how long browsers may keep it.
//! Does not own: what it does (`tracker/tidemark.js`).

use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;
use xxhash_rust::xxh3::xxh3_64;

const SOURCE: &str = include_str!("../tracker/tidemark.js");
/// An hour, and a day more while a newer one is fetched.
const CACHE: &str = "public, max-age=3600, stale-while-revalidate=86400";
const TYPE: &str = "text/javascript; charset=utf-8";

/// The script, ready to be sent.
#[derive(Debug)]
pub(crate) struct Tracker {
    plain: Bytes,
    /// Empty where it cannot be compressed.
    gzip: Bytes,
    /// Of its content; with another ending for each encoding.
    tag: String,
}

impl Tracker {
    pub(crate) fn new() -> Self {
        let plain = Bytes::from(lean(SOURCE));
        let tag = format!("{:016x}", xxh3_64(&plain));
        Self { gzip: compressed(&plain).unwrap_or_default(), plain, tag }
    }

    /// The reply to a request: the script, or that the browser's copy is good.
    pub(crate) fn reply(&self, headers: &HeaderMap) -> Response<Body> {
        let zipped = !self.gzip.is_empty() && accepts_gzip(headers);
        let tag = format!("\"{}{}\"", self.tag, if zipped { "-gz" } else { "" });
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let is_known = known
            .flat_map(|value| value.split(','))
            .any(|known| matches!(known.trim(), "*") || known.trim().trim_start_matches("W/") == tag);
        let mut reply = Response::new(match (is_known, zipped) {
            (true, _) => Body::empty(),
            (false, true) => Body::from(self.gzip.clone()),
            (false, false) => Body::from(self.plain.clone()),
        });
        if is_known {
            *reply.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let all = reply.headers_mut();
        all.insert(CACHE_CONTROL, HeaderValue::from_static(CACHE));
        all.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        // Of hexadecimal digits and quotes.
        all.extend(HeaderValue::from_str(&tag).ok().map(|tag| (ETAG, tag)));
        if !is_known {
            all.insert(CONTENT_TYPE, HeaderValue::from_static(TYPE));
            if zipped {
                all.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        reply
    }
}

/// Without the lines that are comments, and without indentation. The script has no text over several lines.
fn lean(source: &str) -> String {
    let lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn compressed(plain: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain)?;
    Ok(encoder.finish()?.into())
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|weight| weight.trim().parse() == Ok(0.0));
        matches!(name.trim(), "gzip" | "*") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    fn headers(all: &[(HeaderName, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_script_has_under_two_kilobytes_compressed() {
        let tracker = Tracker::new();
        assert!(!tracker.gzip.is_empty() && tracker.gzip.len() < 2_048, "{} bytes", tracker.gzip.len());
    }

    #[test]
    fn a_browser_is_sent_what_it_can_read_and_keeps_it_by_its_tag() {
        let tracker = Tracker::new();
        let zipped = tracker.reply(&headers(&[(ACCEPT_ENCODING, "br, gzip;q=0.8")]));
        assert_eq!(zipped.headers()[CONTENT_ENCODING], "gzip");
        let plain = tracker.reply(&headers(&[(ACCEPT_ENCODING, "gzip;q=0, br")]));
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        assert_ne!(zipped.headers()[ETAG], plain.headers()[ETAG]);
        let tag = zipped.headers()[ETAG].to_str().unwrap().to_owned().leak();
        let again = tracker.reply(&headers(&[(ACCEPT_ENCODING, "gzip"), (IF_NONE_MATCH, tag)]));
        assert_eq!(
            (again.status(), &again.headers()[ETAG]),
            (StatusCode::NOT_MODIFIED, &zipped.headers()[ETAG])
        );
        let other = tracker.reply(&headers(&[(ACCEPT_ENCODING, "gzip"), (IF_NONE_MATCH, "\"old\"")]));
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[test]
    fn what_is_left_out_is_comments_and_indentation() {
        assert_eq!(
            lean("// why\n(function () {\n  a(); // stays\n\n})();\n"),
            "(function () {\na(); // stays\n})();\n"
        );
    }
}
