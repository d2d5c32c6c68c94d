//! Judgements that a request does not state: the device and browser behind a user agent, the host and channel behind a referrer.
//!
//! Owns: the word lists, and the form of a referrer's host.
//! Does not own: where the texts come from (access logs in `tidemark-loadgen`, requests of browsers in `tidemark-edge`).
//!
//! These are rules of thumb, kept small on purpose: they sort the bulk of real traffic, and what they do not know
//! is `other` (or `link`), never a guess. They are pure, so that a log replayed twice is judged alike.

use regex::bytes::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

/// What stands for the host of a referrer that has none, such as `about:blank`.
pub const NO_HOST: &str = "(other)";

/// What a user agent says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// `desktop`, `mobile`, `tablet`, `bot` or `other` (televisions, consoles, unknown).
    pub device: &'static str,
    /// `Chrome`, `Firefox`, `Safari`, `Edge`, `Opera`, `Internet Explorer`, `bot` or `other`.
    pub browser: &'static str,
}

/// Words of programs that fetch pages without a person in front of them. CUBOT is a maker of telephones.
const BOT_WORDS: &str = concat!(
    r"(?i-u)(?:^|[^u]|[^c]u|^u)bot|crawl|spider|slurp|fetch|archiver|\+https?:|feed|facebookexternalhit|mediapartners",
    r"|preview|headless|phantomjs|lighthouse|pingdom|nagios|statuscake|monitoring|validator|scrapy|tiny tiny rss",
    r"|libwww|lwp-|httpclient|go-http|python|^(?:curl|wget|java|ruby|php|perl|whatsapp)\b",
);

static BOT: LazyLock<Regex> = LazyLock::new(|| constant_pattern(BOT_WORDS));

/// Scheme, user information (passed over), then the host up to port, path, query or fragment.
static REFERRER: LazyLock<Regex> = LazyLock::new(|| {
    constant_pattern(r"(?-u)^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[0-9A-Fa-f:.]+\]|[^/?#:]+)")
});

/// Compiles a pattern of this module.
fn constant_pattern(pattern: &str) -> Regex {
    match Regex::new(pattern) {
        Ok(regex) => regex,
        Err(error) => unreachable!("the pattern is a constant: {error}"),
    }
}

/// Screens that call themselves Windows, Linux or Android but stand in a living room.
const LIVING_ROOM: [&str; 9] =
    ["SmartTV", "SMART-TV", "BRAVIA", "AppleTV", "Android TV", "GoogleTV", "Xbox", "PlayStation", "Nintendo"];

/// "Tablet;" with its semicolon, because desktop Internet Explorers say "Tablet PC".
const TABLETS: [&str; 5] = ["iPad", "Tablet;", "PlayBook", "Kindle", "Silk/"];

const PHONES: [&str; 10] = [
    "Mobi",
    "iPhone",
    "iPod",
    "Android",
    "Windows Phone",
    "BlackBerry",
    "Opera Mini",
    "Symbian",
    "Nokia",
    "MIDP",
];

const DESKTOPS: [&str; 5] = ["Windows", "Macintosh", "X11", "Linux", "CrOS"];

/// Marks of browsers; the first that fits wins. Nearly everybody claims to be Safari and many claim to be Chrome, so
/// the more particular marks come first.
const BROWSERS: [(&str, &str); 20] = [
    ("Edg/", "Edge"),
    ("Edge/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("Opera", "Opera"),
    ("OPiOS/", "Opera"),
    ("MSIE ", "Internet Explorer"),
    ("Trident/", "Internet Explorer"),
    ("SamsungBrowser/", "other"),
    ("UCBrowser/", "other"),
    ("YaBrowser/", "other"),
    ("Silk/", "other"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chrome"),
    // The browser of old Androids claims to be Safari.
    ("Android", "other"),
    ("Safari/", "Safari"),
];

/// Judges a user agent. An empty one, or `-`, is `other`.
pub fn agent(user_agent: &[u8]) -> Agent {
    if BOT.is_match(user_agent) {
        return Agent { device: "bot", browser: "bot" };
    }
    let text = String::from_utf8_lossy(user_agent);
    Agent { device: device(&text), browser: browser(&text) }
}

fn device(agent: &str) -> &'static str {
    let says_any = |words: &[&str]| words.iter().any(|word| agent.contains(word));
    // An Android that is no telephone leaves out "Mobile".
    let android_tablet = agent.contains("Android") && !agent.contains("Mobi");
    if says_any(&LIVING_ROOM) {
        "other"
    } else if says_any(&TABLETS) || (android_tablet && !agent.contains("Opera Mini")) {
        "tablet"
    } else if says_any(&PHONES) {
        "mobile"
    } else if says_any(&DESKTOPS) {
        "desktop"
    } else {
        "other"
    }
}

fn browser(agent: &str) -> &'static str {
    BROWSERS.iter().find(|(mark, _)| agent.contains(mark)).map_or("other", |&(_, name)| name)
}

/// The host of a referrer, in lower case, without port and user information; [`NO_HOST`] where it has none.
pub fn referrer_host(referrer: &[u8]) -> Cow<'_, [u8]> {
    let Some(host) = REFERRER.captures(referrer).and_then(|captures| captures.get(1)) else {
        return Cow::Borrowed(NO_HOST.as_bytes());
    };
    lower_case(host.as_bytes())
}

/// Lower-cases what is UTF-8 and leaves other bytes alone.
fn lower_case(text: &[u8]) -> Cow<'_, [u8]> {
    if text.is_ascii() && !text.iter().any(u8::is_ascii_uppercase) {
        return Cow::Borrowed(text);
    }
    let mut lower = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        lower.extend_from_slice(chunk.valid().to_lowercase().as_bytes());
        lower.extend_from_slice(chunk.invalid());
    }
    Cow::Owned(lower)
}

/// Names that search engines use under many top-level domains.
const SEARCH_BRANDS: [&str; 3] = ["google.", "yandex.", "bing."];

/// Hosts of those brands that search; `mail.google.com` and `docs.google.com` do not.
const SEARCH_PREFIXES: [&str; 8] = ["", "www.", "m.", "images.", "news.", "encrypted.", "scholar.", "cse."];

const SEARCH: [&str; 12] = [
    "duckduckgo.com",
    "baidu.com",
    "ecosia.org",
    "qwant.com",
    "startpage.com",
    "ask.com",
    "sogou.com",
    "so.com",
    "kagi.com",
    "search.yahoo.com",
    "search.naver.com",
    "googlequicksearchbox",
];

const SOCIAL: [&str; 25] = [
    "facebook.com",
    "fb.com",
    "t.co",
    "twitter.com",
    "x.com",
    "instagram.com",
    "linkedin.com",
    "lnkd.in",
    "reddit.com",
    "redd.it",
    "youtube.com",
    "youtu.be",
    "pinterest.com",
    "tumblr.com",
    "tiktok.com",
    "threads.net",
    "bsky.app",
    "mastodon.social",
    "news.ycombinator.com",
    "vk.com",
    "weibo.com",
    "t.me",
    "plus.google.com",
    "plus.url.google.com",
    "com.facebook.katana",
];

const EMAIL: [&str; 6] = [
    "outlook.live.com",
    "outlook.office.com",
    "outlook.office365.com",
    "e.mail.ru",
    "com.google.android.gm",
    "com.microsoft.office.outlook",
];

/// The category of a referrer's host (in lower case) for a page of `site`.
///
/// `direct` without a referrer; `internal` for the site itself, with or without `www.`; then `email`, `social` or
/// `search` for hosts known as such, and `link` for all others.
pub fn channel(referrer_host: Option<&[u8]>, site: &str) -> &'static str {
    let Some(host) = referrer_host else {
        return "direct";
    };
    // A host that is not UTF-8 can be nothing but a link.
    let host = std::str::from_utf8(host).unwrap_or("");
    let is_any = |domains: &[&str]| domains.iter().any(|domain| is_or_is_under(host, domain));
    if is_internal(host, site) {
        "internal"
    } else if is_webmail(host) || is_any(&EMAIL) {
        "email"
    } else if is_any(&SOCIAL) {
        "social"
    } else if is_search_brand(host) || is_any(&SEARCH) || host.starts_with("search.") {
        "search"
    } else {
        "link"
    }
}

fn is_internal(host: &str, site: &str) -> bool {
    let bare = host.strip_prefix("www.").unwrap_or(host);
    host.eq_ignore_ascii_case(site) || bare.eq_ignore_ascii_case(site)
}

fn is_or_is_under(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// `mail.example.com`, `us2.mail.example.com` and `webmail.example.com`, but not the domain `mail.com` itself.
fn is_webmail(host: &str) -> bool {
    let mut labels = host.rsplit('.').skip(2);
    labels.any(|label| label == "mail" || label.starts_with("webmail"))
}

fn is_search_brand(host: &str) -> bool {
    SEARCH_BRANDS.iter().any(|brand| {
        let parts = host.split_once(brand);
        // "co.uk" and "com.au" are the longest endings.
        parts.is_some_and(|(before, ending)| {
            SEARCH_PREFIXES.contains(&before) && (2..=6).contains(&ending.len())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                          Chrome/122.0.0.0 Safari/537.36";

    #[track_caller]
    fn is(user_agent: &str, device: &str, browser: &str) {
        let agent = agent(user_agent.as_bytes());
        assert_eq!((agent.device, agent.browser), (device, browser), "{user_agent}");
    }

    #[test]
    fn desktop_browsers_are_told_apart() {
        is(CHROME, "desktop", "Chrome");
        is(&format!("{CHROME} Edg/122.0.2365.80"), "desktop", "Edge");
        is(&format!("{CHROME} OPR/108.0.0.0"), "desktop", "Opera");
        is("Opera/9.80 (Windows NT 6.1; U; en) Presto/2.10.289 Version/12.02", "desktop", "Opera");
        is("Mozilla/5.0 (X11; Linux x86_64; rv:123.0) Gecko/20100101 Firefox/123.0", "desktop", "Firefox");
        is(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.3 \
             Safari/605.1.15",
            "desktop",
            "Safari",
        );
        is(
            "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
            "desktop",
            "Internet Explorer",
        );
        is(
            "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0; SLCC2; .NET CLR 2.0.50727; Tablet PC 2.0)",
            "desktop",
            "Internet Explorer",
        );
    }

    #[test]
    fn telephones_and_tablets_are_told_apart() {
        is(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
             Version/17.3 Mobile/15E148 Safari/604.1",
            "mobile",
            "Safari",
        );
        is(
            "Mozilla/5.0 (iPad; CPU OS 6_0 like Mac OS X) AppleWebKit/536.26 (KHTML, like Gecko) Version/6.0 \
             Mobile/10A403 Safari/8536.25",
            "tablet",
            "Safari",
        );
        is(
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Mobile \
             Safari/537.36",
            "mobile",
            "Chrome",
        );
        is(
            "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 \
             Safari/537.36",
            "tablet",
            "Chrome",
        );
        is("Mozilla/5.0 (Android 14; Tablet; rv:123.0) Gecko/123.0 Firefox/123.0", "tablet", "Firefox");
        is(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
             CriOS/122.0.6261.89 Mobile/15E148 Safari/604.1",
            "mobile",
            "Chrome",
        );
        is(
            "Mozilla/5.0 (Linux; U; Android 2.3.5; en-us; HTC Vision) AppleWebKit/533.1 (KHTML, like Gecko) \
             Version/4.0 Mobile Safari/533.1",
            "mobile",
            "other",
        );
        is(
            "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/88.0.4324.181 \
             Mobile Safari/537.36",
            "mobile",
            "Chrome",
        );
    }

    #[test]
    fn programs_are_bots_whatever_browser_they_claim_to_be() {
        for program in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 6_0 like Mac OS X) AppleWebKit/536.26 (KHTML, like Gecko) Version/6.0 \
             Mobile/10A5376e Safari/8536.25 (compatible; Googlebot-Mobile/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
            "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "UniversalFeedParser/4.2-pre-314-svn +http://feedparser.org/",
            "Tiny Tiny RSS/1.11 (http://tt-rss.org/)",
            "curl/8.5.0",
            "Wget/1.13.4 (linux-gnu)",
            "python-requests/2.31.0",
            "Go-http-client/1.1",
        ] {
            is(program, "bot", "bot");
        }
    }

    #[test]
    fn what_nobody_knows_is_other() {
        for unknown in ["", "-", "\u{fffd}", "something 1.0"] {
            is(unknown, "other", "other");
        }
        assert_eq!(agent(b"\xff\xfe"), Agent { device: "other", browser: "other" });
        is("Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) Version/6.0 TV Safari/537.36", "other", "Safari");
    }

    #[track_caller]
    fn comes_by(host: &str, expected: &str) {
        assert_eq!(channel(Some(host.as_bytes()), "example.com"), expected, "{host}");
    }

    #[test]
    fn referrers_fall_into_channels() {
        for host in [
            "www.google.com",
            "google.de",
            "www.google.co.uk",
            "m.yandex.ru",
            "search.yahoo.com",
            "www.bing.com",
        ] {
            comes_by(host, "search");
        }
        for host in
            ["t.co", "m.facebook.com", "l.facebook.com", "x.com", "old.reddit.com", "plus.url.google.com"]
        {
            comes_by(host, "social");
        }
        for host in ["mail.google.com", "us-mg5.mail.yahoo.com", "webmail.example.net", "outlook.live.com"] {
            comes_by(host, "email");
        }
        for host in [
            "docs.google.com",
            "notgoogle.com",
            "linux.com",
            "mail.com",
            "(other)",
            "www.googlewatch.example",
        ] {
            comes_by(host, "link");
        }
        assert_eq!(channel(None, "example.com"), "direct");
        assert_eq!(channel(Some(b"\xff.com"), "example.com"), "link");
    }

    #[test]
    fn the_site_itself_is_internal_with_or_without_www() {
        for host in ["example.com", "www.example.com"] {
            comes_by(host, "internal");
            assert_eq!(channel(Some(host.as_bytes()), "Example.COM"), "internal");
        }
        comes_by("blog.example.com", "link");
        // A site may be a host that other sites would count as social.
        assert_eq!(channel(Some(b"www.reddit.com"), "reddit.com"), "internal");
    }

    #[test]
    fn a_referrer_host_is_lower_case_without_port_and_user() {
        for (referrer, host) in [
            ("http://Example.COM:8080/a?b#c", "example.com"),
            ("https://user:secret@example.com/", "example.com"),
            ("http://a@/x", "a@"),
            ("http://[2001:DB8::1]:80/", "[2001:db8::1]"),
            ("android-app://com.example.reader/", "com.example.reader"),
            ("http://BÜCHER.example", "bücher.example"),
            ("about:blank", "(other)"),
            ("example.com", "(other)"),
            ("http:///path", "(other)"),
            ("1http://example.com", "(other)"),
        ] {
            assert_eq!(String::from_utf8_lossy(&referrer_host(referrer.as_bytes())), host, "{referrer}");
        }
        assert_eq!(referrer_host(b"http://A\xffB/").as_ref(), b"a\xffb");
    }
}
