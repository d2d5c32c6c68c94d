//! What the made-up site consists of, and where its visitors come from.
//!
//! Owns: the pages in the order of their popularity, and the word lists. Does not own: who asks for what.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// One thing that can be asked for.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) path: String,
    pub(super) kind: PageKind,
    /// Median size of its answer.
    pub(super) usual_bytes: f64,
    /// Median time its answer takes.
    pub(super) usual_seconds: f64,
}

/// What a page is, which decides how it is visited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    /// The front page, and those of sections.
    Front,
    Article,
    Tag,
    Search,
    /// For readers' programs.
    Feed,
    /// Style sheets, scripts and pictures.
    Static,
}

const SECTIONS: [&str; 8] =
    ["news", "politics", "business", "sport", "culture", "science", "travel", "opinion"];
const ARTICLES: usize = 460;
const TAGS: usize = 64;
const PICTURES: usize = 54;

/// The first pages in popularity; what else there is follows in random order.
const POPULAR: [(&str, PageKind); 13] = [
    ("/", PageKind::Front),
    ("/assets/site.css", PageKind::Static),
    ("/news/", PageKind::Front),
    ("/assets/app.js", PageKind::Static),
    ("/favicon.ico", PageKind::Static),
    ("/sport/", PageKind::Front),
    ("/assets/logo.svg", PageKind::Static),
    ("/feed.xml", PageKind::Feed),
    ("/politics/", PageKind::Front),
    ("/search", PageKind::Search),
    ("/assets/serif.woff2", PageKind::Static),
    ("/robots.txt", PageKind::Feed),
    ("/culture/", PageKind::Front),
];

const FIRST_WORDS: [&str; 24] = [
    "harbour", "council", "river", "winter", "budget", "coastal", "railway", "museum", "school", "market",
    "island", "night", "energy", "weather", "city", "football", "garden", "bridge", "festival", "housing",
    "ferry", "library", "forest", "local",
];

const SECOND_WORDS: [&str; 24] = [
    "plan",
    "vote",
    "report",
    "strike",
    "record",
    "opening",
    "guide",
    "storm",
    "prices",
    "review",
    "future",
    "team",
    "fund",
    "debate",
    "map",
    "tour",
    "inquiry",
    "exhibition",
    "repair",
    "season",
    "deal",
    "return",
    "survey",
    "crew",
];

/// Addresses that lead nowhere: mistyped, gone, or tried by those who look for open doors.
pub(super) const MISSING: [&str; 8] = [
    "/wp-login.php",
    "/.env",
    "/admin/",
    "/news/2019/",
    "/index.php",
    "/images/old-banner.gif",
    "/apple-touch-icon-precomposed.png",
    "/tag/",
];

pub(super) const SEARCHES: [&str; 8] = [
    "ferry+times",
    "weather",
    "council+vote",
    "caf%C3%A9",
    "school+holidays",
    "football",
    "%22night+bus%22",
    "jobs",
];

/// (`utm_source`, `utm_medium`)
pub(super) const CAMPAIGN_SOURCES: [(&str, &str); 4] =
    [("newsletter", "email"), ("facebook", "social"), ("x", "social"), ("partner-site", "referral")];

pub(super) const CAMPAIGNS: [&str; 4] =
    ["morning-briefing", "spring-offer", "weekend%20reads", "election-2024"];

pub(super) const SEARCH_ENGINES: [&str; 8] = [
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.google.de/",
    "https://www.google.co.uk/",
    "https://www.bing.com/",
    "https://duckduckgo.com/",
    "https://search.yahoo.com/",
];

pub(super) const SOCIAL: [&str; 8] = [
    "https://t.co/Qx8bT2kLmN",
    "https://www.facebook.com/",
    "https://l.facebook.com/",
    "https://m.facebook.com/",
    "https://www.reddit.com/",
    "https://www.linkedin.com/",
    "https://www.instagram.com/",
    "https://news.ycombinator.com/item?id=39674521",
];

/// Other sites and mailboxes; of one of them only an address without a host is left.
pub(super) const LINKS: [&str; 6] = [
    "https://blog.example.org/2024/03/what-we-read",
    "https://Forum.Example.NET:8443/t/4711",
    "http://neighbour.example/links.html",
    "https://mail.google.com/mail/u/0/",
    "android-app://com.google.android.gm/",
    "about:blank",
];

/// All pages, the most popular first: 600 of them.
pub(super) fn pages(random: &mut StdRng) -> Vec<Page> {
    let mut others = articles(random);
    others.extend((1..=TAGS).map(|nth| (format!("/tag/{}", tag(nth)), PageKind::Tag)));
    others.extend((1..=PICTURES).map(|nth| (format!("/images/{nth:03}.jpg"), PageKind::Static)));
    let popular = POPULAR.map(|(path, kind)| (path.to_owned(), kind));
    let more_fronts = SECTIONS.map(|section| (format!("/{section}/"), PageKind::Front));
    others.extend(more_fronts.into_iter().filter(|front| !popular.contains(front)));
    others.extend(
        ["/about", "/contact", "/imprint", "/privacy", "/jobs"].map(|path| (path.to_owned(), PageKind::Tag)),
    );
    others.shuffle(random);
    popular.into_iter().chain(others).map(|(path, kind)| page(path, kind, random)).collect()
}

fn articles(random: &mut StdRng) -> Vec<(String, PageKind)> {
    let article = |nth: usize| {
        let section = SECTIONS[random.random_range(0..SECTIONS.len())];
        let first = FIRST_WORDS[random.random_range(0..FIRST_WORDS.len())];
        let second = SECOND_WORDS[random.random_range(0..SECOND_WORDS.len())];
        // The number makes it unique, as in many real sites.
        (format!("/{section}/2024/{first}-{second}-{}", 10_000 + nth * 7), PageKind::Article)
    };
    (0..ARTICLES).map(article).collect()
}

/// A different one for each number up to 24 * 24.
fn tag(nth: usize) -> String {
    let (first, second) = (nth % FIRST_WORDS.len(), nth / FIRST_WORDS.len());
    match second {
        0 => FIRST_WORDS[first].to_owned(),
        _ => format!("{}-{}", FIRST_WORDS[first], SECOND_WORDS[second]),
    }
}

fn page(path: String, kind: PageKind, random: &mut StdRng) -> Page {
    let (bytes, milliseconds) = match kind {
        PageKind::Front => (60_000.0..120_000.0, 60.0..150.0),
        PageKind::Article => (18_000.0..70_000.0, 40.0..220.0),
        PageKind::Tag => (12_000.0..30_000.0, 50.0..180.0),
        PageKind::Search => (9_000.0..20_000.0, 250.0..450.0),
        PageKind::Feed => (4_000.0..40_000.0, 5.0..30.0),
        PageKind::Static => (1_500.0..180_000.0, 1.0..8.0),
    };
    let (bytes, milliseconds): (f64, f64) = (random.random_range(bytes), random.random_range(milliseconds));
    Page { path, kind, usual_bytes: bytes, usual_seconds: milliseconds / 1_000.0 }
}
