//! What a URL tells: its page, the campaign in its query, and the host of a referrer.
//!
//! Owns: the rules that both formats share. Does not own: canonical URLs, which nodes make.

use super::LogEvent;
use regex::bytes::Regex;
use std::borrow::Cow;
use tidemark_rollup::enrich;

/// Compiles a pattern that this crate wrote.
pub(super) fn constant_pattern(pattern: &str) -> Regex {
    match Regex::new(pattern) {
        Ok(regex) => regex,
        Err(error) => unreachable!("the pattern is a constant: {error}"),
    }
}

/// Splits at the first `?`; the second half is what follows it, if there is one.
pub(super) fn split_query(url: &[u8]) -> (&[u8], Option<&[u8]>) {
    match url.iter().position(|&byte| byte == b'?') {
        Some(at) => (&url[..at], Some(&url[at + 1..])),
        None => (url, None),
    }
}

/// Whether `url` begins with a scheme and `://`.
pub(super) fn is_absolute(url: &[u8]) -> bool {
    let scheme_end = url.iter().position(|&byte| !(byte.is_ascii_alphanumeric() || b"+.-".contains(&byte)));
    url.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme_end.is_some_and(|at| url[at..].starts_with(b"://"))
}

/// The campaign parameters of a query string, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Campaign {
    name: Option<String>,
    medium: Option<String>,
    source: Option<String>,
}

impl Campaign {
    /// Reads a query string. Of a repeated parameter the last counts, and an empty one is absent: as nodes have it.
    pub(super) fn in_query(query: &[u8]) -> Self {
        let mut campaign = Self::default();
        // Most queries have no campaign; looking first spares them the decoding.
        if !query.windows(4).any(|four| four == b"utm_") {
            return campaign;
        }
        let end = query.iter().position(|&byte| byte == b'#').unwrap_or(query.len());
        for (key, value) in url::form_urlencoded::parse(&query[..end]) {
            let slot = match key.as_ref() {
                "utm_campaign" => &mut campaign.name,
                "utm_medium" => &mut campaign.medium,
                "utm_source" => &mut campaign.source,
                _ => continue,
            };
            *slot = Some(value.into_owned()).filter(|value| !value.is_empty());
        }
        campaign
    }
}

/// Adds `referrer`, `channel` and `campaign`. What the link says about itself (`utm_medium`, else `utm_source`)
/// outranks what the referrer's host suggests.
pub(super) fn set_origin<'a>(
    event: &mut LogEvent<'a>,
    referrer: Option<Cow<'a, [u8]>>,
    campaign: Campaign,
    site: &str,
) {
    let guessed = enrich::channel(referrer.as_deref(), site);
    if let Some(host) = referrer {
        event.set("referrer", host);
    }
    match campaign.medium.or(campaign.source) {
        Some(stated) => event.set("channel", stated.into_bytes()),
        None => event.set("channel", guessed.as_bytes()),
    }
    if let Some(name) = campaign.name {
        event.set("campaign", name.into_bytes());
    }
}

/// Adds `device` and `browser`.
pub(super) fn set_agent(event: &mut LogEvent<'_>, user_agent: &[u8]) {
    let agent = enrich::agent(user_agent);
    event.set("device", agent.device.as_bytes());
    event.set("browser", agent.browser.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_absolute_when_a_scheme_and_two_slashes_open_it() {
        for url in ["http://x/", "HTTPS://x", "a+b.c-d://"] {
            assert!(is_absolute(url.as_bytes()), "{url}");
        }
        for url in ["/x", "*", "", "://x", "x.example:443", "1a://x", "a_b://x"] {
            assert!(!is_absolute(url.as_bytes()), "{url}");
        }
    }

    #[test]
    fn of_campaign_parameters_the_last_counts_and_an_empty_one_is_absent() {
        let campaign = Campaign::in_query(
            b"a=1&utm_campaign=x&utm_campaign=spring+s%C3%A4le&utm_medium=&utm_source=letter#utm_medium=x",
        );
        assert_eq!(campaign.name.as_deref(), Some("spring säle"));
        assert_eq!(campaign.medium, None);
        assert_eq!(campaign.source.as_deref(), Some("letter"));
        assert_eq!(Campaign::in_query(b"q=1"), Campaign::default());
    }

    #[test]
    fn the_first_question_mark_ends_the_page() {
        assert_eq!(split_query(b"/a?b?c"), (&b"/a"[..], Some(&b"b?c"[..])));
        assert_eq!(split_query(b"/a"), (&b"/a"[..], None));
        assert_eq!(split_query(b"/a?"), (&b"/a"[..], Some(&b""[..])));
    }
}
