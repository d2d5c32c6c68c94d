//! A made-up site's access log: lines in Combined Log Format with the request time in seconds at the end.
//!
//! Owns: who asks for what, how often, and with which outcome. Does not own: when (an argument), or sending.
//!
//! The traffic has the traits that make real logs awkward: a few pages get most hits, most pages almost none,
//! programs mix with people, lines come out of order, some requests fail, and query strings carry campaigns.
//! Addresses are from ranges that are reserved for benchmarks and documentation: they are nobody's.

mod people;
mod site;

use jiff::Timestamp;
use people::Visitor;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal, Zipf};
use site::{Page, PageKind};
use std::fmt::Write;

/// Exponent of the pages' popularity: the second page gets 2^-1.1 of the first one's hits.
const PAGE_EXPONENT: f64 = 1.1;

/// Exponent of the visitors' activity. Flatter than the pages': nobody reads as much as a front page is read.
const VISITOR_EXPONENT: f64 = 0.6;

/// Share of hits by programs.
const BOT_SHARE: f64 = 0.12;

/// Share of lines that are written late, as servers do for slow requests, and by how much at most.
const LATE_SHARE: f64 = 0.15;
const MAX_LATE_MS: i64 = 59_000;

/// A generator of log lines. The same seed, site and times give the same lines.
pub struct SampleLog {
    random: StdRng,
    site: String,
    pages: Vec<Page>,
    people: Vec<Visitor>,
    bots: Vec<Visitor>,
    page_ranks: Zipf<f64>,
    people_ranks: Zipf<f64>,
    /// Variation of sizes and durations around what is usual for a page.
    variation: LogNormal<f64>,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    NotModified,
    Moved,
    NotFound,
    Failed,
}

impl SampleLog {
    /// A site's traffic. `seed` decides its pages, its visitors and all that they do.
    pub fn new(seed: u64, site: impl Into<String>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let pages = site::pages(&mut random);
        let people = people::people(&mut random);
        let bots = people::bots(&mut random);
        Self {
            page_ranks: zipf(pages.len(), PAGE_EXPONENT),
            people_ranks: zipf(people.len(), VISITOR_EXPONENT),
            variation: log_normal(0.5),
            random,
            site: site.into(),
            pages,
            people,
            bots,
        }
    }

    /// One more line, without a line feed, written at `time_ms` (milliseconds since the Unix epoch).
    ///
    /// The time in the line is that, or up to 59 seconds before it.
    pub fn line(&mut self, time_ms: i64) -> String {
        let mut line = String::with_capacity(256);
        self.write_line(&mut line, time_ms);
        line
    }

    /// Appends what [`line`](Self::line) returns to `out`.
    pub fn write_line(&mut self, out: &mut String, time_ms: i64) {
        let (visitor, is_bot) = self.pick_visitor();
        let page = self.pages[rank(&self.page_ranks, &mut self.random)].clone();
        let outcome = self.pick_outcome(page.kind);
        let target = self.target(&page, outcome, is_bot);
        let referrer = self.referrer(&page, &target, is_bot);
        let bytes = self.bytes(&page, outcome);
        let seconds = self.seconds(&page, outcome);
        let time = self.printed_time(time_ms);
        let protocol = if is_bot { "HTTP/1.1" } else { "HTTP/2.0" };
        let (address, agent, status) = (&visitor.address, visitor.agent, outcome.status());
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"{address} - - [{time}] "GET {target} {protocol}" {status} {bytes} "{referrer}" "{agent}" {seconds:.3}"#
        );
    }

    fn pick_visitor(&mut self) -> (Visitor, bool) {
        let is_bot = self.random.random_bool(BOT_SHARE);
        let visitor = if is_bot {
            &self.bots[self.random.random_range(0..self.bots.len())]
        } else {
            &self.people[rank(&self.people_ranks, &mut self.random)]
        };
        (visitor.clone(), is_bot)
    }

    fn pick_outcome(&mut self, kind: PageKind) -> Outcome {
        let percent = self.random.random_range(0.0..100.0);
        match kind {
            PageKind::Static if percent < 22.0 => Outcome::NotModified,
            PageKind::Feed if percent < 40.0 => Outcome::NotModified,
            _ if percent > 99.6 => Outcome::Failed,
            _ if percent > 97.5 => Outcome::NotFound,
            _ if percent > 96.0 => Outcome::Moved,
            _ => Outcome::Ok,
        }
    }

    fn target(&mut self, page: &Page, outcome: Outcome, is_bot: bool) -> String {
        match outcome {
            Outcome::NotFound => self.choose(&site::MISSING).to_owned(),
            // Moved pages are those asked for without the slash or suffix they have now.
            Outcome::Moved => format!("/old{}", page.path),
            _ if is_bot => page.path.clone(),
            _ => match self.query(page.kind) {
                Some(query) => format!("{}?{query}", page.path),
                None => page.path.clone(),
            },
        }
    }

    fn query(&mut self, kind: PageKind) -> Option<String> {
        let percent = self.random.random_range(0..100);
        match kind {
            PageKind::Search => Some(format!("q={}", self.choose(&site::SEARCHES))),
            PageKind::Static => (percent < 30).then(|| "v=20240226".to_owned()),
            PageKind::Article | PageKind::Front if percent < 6 => {
                let (source, medium) = self.choose(&site::CAMPAIGN_SOURCES);
                let campaign = self.choose(&site::CAMPAIGNS);
                Some(format!("utm_source={source}&utm_medium={medium}&utm_campaign={campaign}"))
            }
            PageKind::Tag if percent < 20 => Some(format!("page={}", self.random.random_range(2..9))),
            PageKind::Article if percent < 9 => Some(format!("ref={}", self.random.random_range(100..999))),
            _ => None,
        }
    }

    fn referrer(&mut self, page: &Page, target: &str, is_bot: bool) -> String {
        let percent = self.random.random_range(0..100);
        match page.kind {
            _ if is_bot => "-".to_owned(),
            PageKind::Feed => "-".to_owned(),
            // An address with a campaign comes from a letter or a post; often nothing says which.
            _ if target.contains("utm_") && percent < 70 => "-".to_owned(),
            PageKind::Static if percent < 92 => self.internal_referrer(),
            PageKind::Static => "-".to_owned(),
            _ if percent < 36 => self.internal_referrer(),
            _ if percent < 58 => self.choose(&site::SEARCH_ENGINES).to_owned(),
            _ if percent < 72 => self.choose(&site::SOCIAL).to_owned(),
            _ if percent < 78 => self.choose(&site::LINKS).to_owned(),
            _ => "-".to_owned(),
        }
    }

    fn internal_referrer(&mut self) -> String {
        let from = &self.pages[rank(&self.page_ranks, &mut self.random)];
        // Style sheets and feeds lead nowhere.
        let path = if matches!(from.kind, PageKind::Static | PageKind::Feed) { "/" } else { &from.path };
        format!("https://{}{path}", self.site)
    }

    fn bytes(&mut self, page: &Page, outcome: Outcome) -> String {
        match outcome {
            Outcome::NotModified => "-".to_owned(),
            Outcome::Moved => "162".to_owned(),
            Outcome::NotFound => "5120".to_owned(),
            Outcome::Failed => "176".to_owned(),
            // The length of a file does not vary.
            Outcome::Ok if page.kind == PageKind::Static => format!("{:.0}", page.usual_bytes),
            Outcome::Ok => format!("{:.0}", page.usual_bytes * self.vary().clamp(0.8, 1.25)),
        }
    }

    fn seconds(&mut self, page: &Page, outcome: Outcome) -> f64 {
        let usual = match outcome {
            Outcome::Ok | Outcome::NotFound => page.usual_seconds,
            Outcome::NotModified | Outcome::Moved => page.usual_seconds / 5.0,
            // Most failures are something behind the server that did not answer in time.
            Outcome::Failed => 2.0,
        };
        usual * self.vary()
    }

    fn printed_time(&mut self, time_ms: i64) -> impl std::fmt::Display + use<> {
        let late_ms =
            if self.random.random_bool(LATE_SHARE) { self.random.random_range(0..=MAX_LATE_MS) } else { 0 };
        // A time beyond the calendar is printed as its beginning.
        let time = Timestamp::from_millisecond(time_ms.saturating_sub(late_ms)).unwrap_or_default();
        time.strftime("%d/%b/%Y:%H:%M:%S +0000")
    }

    fn vary(&mut self) -> f64 {
        self.variation.sample(&mut self.random)
    }

    fn choose<T: Copy>(&mut self, among: &'static [T]) -> T {
        among[self.random.random_range(0..among.len())]
    }
}

impl Outcome {
    fn status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::NotModified => 304,
            Self::Moved => 301,
            Self::NotFound => 404,
            Self::Failed => 500,
        }
    }
}

fn zipf(count: usize, exponent: f64) -> Zipf<f64> {
    match Zipf::new(count as f64, exponent) {
        Ok(zipf) => zipf,
        Err(error) => unreachable!("there is somebody and something: {error}"),
    }
}

/// Around 1 (the median), with the given spread.
fn log_normal(spread: f64) -> LogNormal<f64> {
    match LogNormal::new(0.0, spread) {
        Ok(distribution) => distribution,
        Err(error) => unreachable!("the spread is a positive constant: {error}"),
    }
}

/// A position drawn by popularity, 0 being the most popular.
fn rank(ranks: &Zipf<f64>, random: &mut StdRng) -> usize {
    ranks.sample(random) as usize - 1
}

#[cfg(test)]
mod tests;
