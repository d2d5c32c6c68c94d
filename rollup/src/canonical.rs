//! The one form of a URL that is counted.
//!
//! Owns: canonical sites and URLs, and what `utm_*` parameters say.
//! Does not own: events (`event`).
//!
//! A URL of the site itself is its path (`/a`); a URL of another host is kept whole (`https://cdn.example.net/a`).
//! Paths are made canonical by the `url` crate (dot segments, escapes). There is no fragment, no user, and no query
//! but the parameters that the site's configuration names, in the order they came.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_proto::v1::Reason;
use url::{ParseError, Url, form_urlencoded};

/// Longest URL in bytes, as sent and as made canonical.
pub const MAX_URL_BYTES: usize = 2048;
/// Longest site in bytes.
pub const MAX_SITE_BYTES: usize = 253;

/// The canonical site: lower case.
///
/// # Errors
/// `missing_site` where it is empty, `bad_site` where it is no host name.
pub fn site(raw: &str) -> Result<Cow<'_, str>, Reason> {
    if raw.is_empty() {
        return Err(Reason::MissingSite);
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '*' | '?' | '#' | '@');
    if raw.len() > MAX_SITE_BYTES || raw.contains(bad) {
        return Err(Reason::BadSite);
    }
    Ok(match raw.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(raw.to_ascii_lowercase()),
        false => Cow::Borrowed(raw),
    })
}

/// Which query parameters stay in the URL, by site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepParams(BTreeMap<String, BTreeSet<String>>);

impl KeepParams {
    /// Parses `site:parameter` lines; `*` stands for all sites or all parameters.
    ///
    /// # Errors
    /// Where a line has another form.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, KeepParamError> {
        let mut keep = Self::default();
        for line in lines {
            let error = || KeepParamError(line.to_owned());
            let (site, parameter) = line.split_once(':').ok_or_else(error)?;
            let (site, parameter) = (site.trim(), parameter.trim());
            if site.is_empty() || parameter.is_empty() {
                return Err(error());
            }
            keep.0.entry(site.to_ascii_lowercase()).or_default().insert(parameter.to_owned());
        }
        Ok(keep)
    }

    /// Keeps every parameter, as a producer does that knows which URLs it means. `utm_*` still become dimensions.
    pub fn all() -> Self {
        Self(BTreeMap::from([("*".to_owned(), BTreeSet::from(["*".to_owned()]))]))
    }

    fn keeps(&self, site: &str, parameter: &str) -> bool {
        [site, "*"]
            .iter()
            .filter_map(|site| self.0.get(*site))
            .any(|kept| kept.contains(parameter) || kept.contains("*"))
    }
}

/// A line that is no `site:parameter`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no query parameter: write site:parameter, with * for all sites or all parameters")]
pub struct KeepParamError(String);

/// A canonical URL, and the dimensions that were part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalUrl<'a> {
    /// What is counted.
    pub url: Cow<'a, str>,
    /// From `utm_campaign`.
    pub campaign: Option<String>,
    /// From `utm_medium`, or else from `utm_source`.
    pub channel: Option<String>,
}

impl<'a> CanonicalUrl<'a> {
    fn plain(url: Cow<'a, str>) -> Self {
        Self { url, campaign: None, channel: None }
    }
}

/// Makes a path or an absolute URL of a canonical `site` canonical.
///
/// # Errors
/// `missing_url`, `url_too_long` or `bad_url`.
pub fn url<'a>(site: &str, raw: &'a str, keep: &KeepParams) -> Result<CanonicalUrl<'a>, Reason> {
    if raw.is_empty() {
        return Err(Reason::MissingUrl);
    }
    if raw.len() > MAX_URL_BYTES {
        return Err(Reason::UrlTooLong);
    }
    if is_plain_path(raw) {
        return Ok(CanonicalUrl::plain(Cow::Borrowed(raw)));
    }
    let parsed = parse(site, raw).map_err(|_| Reason::BadUrl)?;
    let host = parsed.host_str().ok_or(Reason::BadUrl)?;
    let mut canonical = match host == site && parsed.port().is_none() {
        true => String::new(),
        false => match parsed.port() {
            Some(port) => format!("{}://{host}:{port}", parsed.scheme()),
            None => format!("{}://{host}", parsed.scheme()),
        },
    };
    canonical.push_str(parsed.path());
    let mut result = CanonicalUrl::plain(Cow::Borrowed(""));
    if let Some(query) = parsed.query() {
        sort_out(query, site, keep, &mut canonical, &mut result);
    }
    if canonical.len() > MAX_URL_BYTES {
        return Err(Reason::UrlTooLong);
    }
    result.url = Cow::Owned(canonical);
    Ok(result)
}

/// Whether a path certainly is canonical as it is. Most are, and parsing costs a microsecond.
fn is_plain_path(raw: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    raw.starts_with('/') && raw.bytes().all(plain) && !raw.contains("/.")
}

fn parse(site: &str, raw: &str) -> Result<Url, ParseError> {
    // Not joined to a base: "//favicon.ico" is a path here, and would be a host there.
    if raw.starts_with('/') {
        return Url::parse(&format!("https://{site}{raw}"));
    }
    match Url::parse(raw) {
        Err(ParseError::RelativeUrlWithoutBase) => Url::parse(&format!("https://{site}/{raw}")),
        other => other,
    }
}

/// Keeps the parameters that the configuration names and reads the `utm_*` ones.
fn sort_out(query: &str, site: &str, keep: &KeepParams, url: &mut String, result: &mut CanonicalUrl<'_>) {
    let mut separator = '?';
    let mut source = None;
    for piece in query.split('&').filter(|piece| !piece.is_empty()) {
        let Some((name, value)) = form_urlencoded::parse(piece.as_bytes()).next() else { continue };
        let value = || Some(value.to_string()).filter(|value| !value.is_empty());
        match name.as_ref() {
            "utm_campaign" => result.campaign = value(),
            "utm_medium" => result.channel = value(),
            "utm_source" => source = value(),
            name if name.starts_with("utm_") => {}
            name if keep.keeps(site, name) => {
                url.push(separator);
                url.push_str(piece);
                separator = '&';
            }
            _ => {}
        }
    }
    result.channel = result.channel.take().or(source);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(raw: &str) -> Result<String, Reason> {
        url("example.com", raw, &KeepParams::default()).map(|canonical| canonical.url.into_owned())
    }

    #[test]
    fn urls_of_the_site_are_paths_and_others_stay_whole() {
        for (raw, expected) in [
            ("/a", "/a"),
            ("a/b", "/a/b"),
            ("https://example.com/a#top", "/a"),
            ("HTTP://EXAMPLE.com:80/a", "/a"),
            ("https://example.com", "/"),
            ("https://example.com:8443/a", "https://example.com:8443/a"),
            ("https://user:word@other.org/a?b=c", "https://other.org/a"),
            ("/a/../b/./c", "/b/c"),
            ("/caf\u{e9} au lait", "/caf%C3%A9%20au%20lait"),
            ("//favicon.ico", "//favicon.ico"),
            ("/%7Euser/", "/%7Euser/"),
            ("?page=2", "/"),
        ] {
            assert_eq!(canonical(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn what_is_no_url_is_rejected_with_its_reason() {
        assert_eq!(canonical(""), Err(Reason::MissingUrl));
        for raw in ["http://[::1", "mailto:a@b.c", "https://", "http://a b/"] {
            assert_eq!(canonical(raw), Err(Reason::BadUrl), "{raw}");
        }
        assert_eq!(canonical(&"/".repeat(2049)), Err(Reason::UrlTooLong));
        assert_eq!(canonical(&"/".repeat(2048)).map(|url| url.len()), Ok(2048));
        assert_eq!(canonical(&format!("/{}", "\u{e9}".repeat(1000))), Err(Reason::UrlTooLong));
    }

    #[test]
    fn utm_parameters_become_dimensions_and_others_go() {
        let raw = "/a?utm_source=news&x=1&utm_medium=e+mail&utm_campaign=spring%21&utm_term=q";
        let found = url("example.com", raw, &KeepParams::default()).unwrap();
        assert_eq!(found.url, "/a");
        assert_eq!((found.channel.as_deref(), found.campaign.as_deref()), (Some("e mail"), Some("spring!")));
        let found = url("example.com", "/a?utm_source=news", &KeepParams::default()).unwrap();
        assert_eq!(found.channel.as_deref(), Some("news"));
    }

    #[test]
    fn parameters_stay_where_the_configuration_names_them() {
        let keep = KeepParams::parse(["example.com:page", "*:id", "all.org:*"]).unwrap();
        let of = |site, raw| url(site, raw, &keep).unwrap().url.into_owned();
        assert_eq!(of("example.com", "/a?x=1&page=2&utm_source=s&id=3"), "/a?page=2&id=3");
        assert_eq!(of("other.org", "/a?page=2&id=3"), "/a?id=3");
        assert_eq!(of("all.org", "/a?b=c&utm_term=d&e"), "/a?b=c&e");
        for line in ["", "page", ":page", "example.com:"] {
            assert!(KeepParams::parse([line]).is_err(), "{line}");
        }
    }

    #[test]
    fn sites_are_host_names_in_lower_case() {
        assert_eq!(site("Example.COM").as_deref(), Ok("example.com"));
        assert_eq!(site(""), Err(Reason::MissingSite));
        for raw in ["*", "a b", "a/b", "a\n", &"a".repeat(254)] {
            assert_eq!(site(raw), Err(Reason::BadSite), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_url_is_its_own_canonical_form(raw in "[/a-z.?#&=%: é\\\\]{0,30}|/[a-zA-Z0-9/._~-]{0,30}") {
            if let Ok(once) = canonical(&raw) {
                prop_assert_eq!(canonical(&once), Ok(once.clone()));
            }
        }

        #[test]
        fn the_short_cut_for_plain_paths_agrees_with_the_parser(raw in "/[a-zA-Z0-9/._~-]{0,30}") {
            let parsed = Url::parse(&format!("https://example.com{raw}")).unwrap();
            prop_assert_eq!(canonical(&raw), Ok(parsed.path().to_owned()));
        }

        #[test]
        fn arbitrary_text_never_panics(site_text in any::<String>(), raw in any::<String>()) {
            if let Ok(site) = site(&site_text) {
                let _ = url(&site, &raw, &KeepParams::default());
            }
        }
    }
}
