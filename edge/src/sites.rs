//! The sites that events are taken for.
//!
//! Owns: which sites are known, and from which origins pages may send their events.
//! Does not own: rates (`rates`), what becomes of those that are refused (`http`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tidemark_rollup::canonical;
use url::Url;

/// Sites by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites(BTreeMap<String, Origins>);

/// Whose pages may send events of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origins {
    /// The site itself, with and without `www.`, over HTTP and HTTPS, on any port.
    Own,
    /// These.
    Named(BTreeSet<String>),
    /// Everybody's.
    Any,
}

/// A line that names no site and no origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteError(String);

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.0;
        write!(
            f,
            "{text:?} is no site: write example.com, or example.com=https://www.example.com for each origin, or =* for any"
        )
    }
}

impl std::error::Error for SiteError {}

impl Sites {
    /// Parses lines of `site` or `site=origin`; several origins of a site are several lines, and `site=*` is any.
    ///
    /// A site without origins may be sent by pages of the site itself, with or without `www.`.
    ///
    /// # Errors
    /// The line that is neither.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, SiteError> {
        let mut sites = BTreeMap::new();
        for line in lines {
            let error = || SiteError(line.to_owned());
            let (site, origin) = match line.split_once('=') {
                Some((site, origin)) => (site, Some(origin.trim())),
                None => (line, None),
            };
            let site = canonical::site(site.trim()).map_err(|_| error())?.into_owned();
            let origins = sites.entry(site).or_insert(Origins::Own);
            match (origin, &mut *origins) {
                (None, _) | (Some(_), Origins::Any) => {}
                (Some("*"), _) => *origins = Origins::Any,
                (Some(origin), named) => {
                    let origin = origin_of(origin).ok_or_else(error)?;
                    match named {
                        Origins::Named(all) => _ = all.insert(origin),
                        _ => *named = Origins::Named([origin].into()),
                    }
                }
            }
        }
        Ok(Self(sites))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether a site, in canonical form, is known.
    pub(crate) fn knows(&self, site: &str) -> bool {
        self.0.contains_key(site)
    }

    /// Whether pages of this origin, as browsers write it, may send events of the site. False where the site is not known.
    pub(crate) fn allow(&self, site: &str, origin: &str) -> bool {
        match self.0.get(site) {
            None => false,
            Some(Origins::Any) => true,
            Some(Origins::Named(all)) => all.contains(origin),
            Some(Origins::Own) => is_of(site, origin),
        }
    }

    /// Whether some site may be sent from there. A preflight does not say which one it is about.
    pub(crate) fn any_allows(&self, origin: &str) -> bool {
        self.0.keys().any(|site| self.allow(site, origin))
    }
}

/// Whether an origin is the site's own.
fn is_of(site: &str, origin: &str) -> bool {
    let Ok(url) = Url::parse(origin) else { return false };
    let web = matches!(url.scheme(), "http" | "https");
    let host = url.host_str().unwrap_or_default();
    web && (host == site
        || host.strip_prefix("www.") == Some(site)
        || site.strip_prefix("www.") == Some(host))
}

/// An origin as browsers write it: of a URL, the part before the path.
pub(crate) fn origin_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(Url::has_host)?;
    let origin = url.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_without_origins_takes_its_own_pages_with_or_without_www() {
        let sites = Sites::parse(["Example.com"]).unwrap();
        for origin in [
            "https://example.com",
            "http://example.com",
            "https://www.example.com",
            "http://example.com:8080",
        ] {
            assert!(sites.allow("example.com", origin), "{origin}");
        }
        for origin in [
            "https://example.org",
            "https://evil-example.com",
            "https://example.com.evil.org",
            "null",
            "",
            "ftp://example.com",
        ] {
            assert!(!sites.allow("example.com", origin), "{origin}");
        }
        assert!(!sites.allow("example.org", "https://example.org"), "it is not known");
        let sites = Sites::parse(["www.example.com"]).unwrap();
        assert!(sites.allow("www.example.com", "https://example.com"));
    }

    #[test]
    fn named_origins_take_the_place_of_the_sites_own_and_a_star_of_all() {
        let lines = [
            "example.com=https://shop.example",
            "example.com=http://m.example:81/",
            "b.example=*",
            "example.com",
        ];
        let sites = Sites::parse(lines).unwrap();
        assert!(sites.allow("example.com", "https://shop.example"));
        assert!(sites.allow("example.com", "http://m.example:81"));
        assert!(!sites.allow("example.com", "https://example.com"));
        assert!(sites.allow("b.example", "null"));
        assert!(sites.any_allows("https://anywhere.example"));
        assert_eq!(sites.names().collect::<Vec<_>>(), ["b.example", "example.com"]);
    }

    #[test]
    fn what_is_no_site_is_an_error_that_shows_the_form() {
        for line in
            ["", "a b", "=https://x.example", "a.example=", "a.example=x", "a.example=mailto:a@b.c", "*"]
        {
            let error = Sites::parse([line]).expect_err(line).to_string();
            assert!(error.contains("example.com=https://"), "{error}");
        }
    }
}
