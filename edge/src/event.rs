//! An event, of what was sent and what the edge knows of the sender.
//!
//! Owns: canonical URLs, times by the edge's clock, device, browser, channel, referrer and country of an event.
//! Does not own: the judgements themselves (`tidemark_rollup::enrich`), the hash of a visitor (`visitor`).
//!
//! What an event says itself goes before what the edge finds out.

use crate::address;
use crate::geo::Geo;
use crate::post::Hit;
use crate::visitor::Visitors;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;
use tidemark_proto::v1::event::{DimensionsEntry, ValuesEntry};
use tidemark_rollup::canonical::{self, KeepParams};
use tidemark_rollup::enrich;
use tidemark_rollup::event::{MAX_KIND_BYTES, MAX_VALUE};
use tidemark_rollup::time::EventTime;

/// What is known of a request beside its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The site, in canonical form.
    pub(crate) site: &'a str,
    pub(crate) address: IpAddr,
    pub(crate) agent: &'a [u8],
    /// When it sent the post, by its own clock.
    pub(crate) sent_ms: Option<i64>,
    /// When the post came.
    pub(crate) now: EventTime,
}

/// What events are made with.
pub(crate) struct Making {
    pub(crate) keep_params: KeepParams,
    pub(crate) geo: Option<Geo>,
    pub(crate) visitors: Arc<Visitors>,
}

/// An event, and why nodes will reject it, where that is certain. It is sent all the same: so receipts show it.
#[derive(Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) event: v1::Event,
    pub(crate) rejected: Option<Reason>,
}

impl Making {
    /// Makes an event.
    ///
    /// # Errors
    /// Where the system has no randomness for the day's salt.
    pub(crate) fn event(&self, hit: Hit<'_>, sender: &Sender<'_>) -> io::Result<Made> {
        let agent = if hit.user_agent.is_empty() { sender.agent } else { hit.user_agent.as_bytes() };
        let address = address::parse(&hit.address).unwrap_or(sender.address);
        let url = canonical::url(sender.site, &hit.url, &self.keep_params);
        let rejected = url.as_ref().err().copied().or_else(|| reason(&hit));
        let judged = enrich::agent(agent);
        let mut dimensions = hit.dimensions;
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|_| !dimensions.contains_key(name)) {
                dimensions.insert(name.to_owned(), value);
            }
        };
        set("device", Some(judged.device.to_owned()));
        set("browser", Some(judged.browser.to_owned()));
        set("country", self.geo.as_ref().and_then(|geo| geo.country(address)));
        let referrer = (!hit.referrer.is_empty()).then(|| enrich::referrer_host(hit.referrer.as_bytes()));
        let channel = enrich::channel(referrer.as_deref(), sender.site);
        let (mut stated, mut campaign) = (None, None);
        let url = match url {
            Ok(canonical) => {
                (stated, campaign) = (canonical.channel, canonical.campaign);
                canonical.url.into_owned()
            }
            Err(_) => hit.url.into_owned(),
        };
        set("channel", Some(stated.unwrap_or_else(|| channel.to_owned())));
        set("campaign", campaign);
        set("referrer", referrer.map(|host| String::from_utf8_lossy(&host).into_owned()));
        let visitor_hash = match hit.visitor.is_empty() {
            true => self.visitors.hash(sender.site, address, agent, sender.now)?,
            false => 0,
        };
        let event = v1::Event {
            site: sender.site.to_owned().into(),
            url: url.into(),
            time_ms: time_ms(hit.time_ms, sender),
            kind: hit.kind.into_owned().into(),
            visitor: hit.visitor.into_owned().into(),
            visitor_hash,
            dimensions: dimensions
                .into_iter()
                .map(|(key, value)| DimensionsEntry { key: key.into(), value: value.into() })
                .collect(),
            values: hit
                .values
                .into_iter()
                .map(|(key, value)| ValuesEntry { key: key.into(), value })
                .collect(),
        };
        Ok(Made { event, rejected })
    }
}

/// When it happened by the edge's clock: so long before now as it was before the post was sent, by the sender's clock, which may
/// be wrong. Without that moment the sender's time is believed.
fn time_ms(time_ms: Option<i64>, sender: &Sender<'_>) -> i64 {
    let now_ms = sender.now.as_unix_ms();
    let ms = match (time_ms, sender.sent_ms) {
        (None, _) => now_ms,
        (Some(ms), None) => ms,
        (Some(ms), Some(sent_ms)) => now_ms.saturating_sub(sent_ms.saturating_sub(ms).max(0)),
    };
    // 0 is "not set" on the wire; a millisecond later is in the same bucket.
    if ms == 0 { 1 } else { ms }
}

/// Why an event cannot count whatever its URL.
fn reason(hit: &Hit<'_>) -> Option<Reason> {
    if hit.kind.len() > MAX_KIND_BYTES {
        return Some(Reason::KindTooLong);
    }
    hit.values.values().find_map(|value| match value {
        ..0 => Some(Reason::NegativeValue),
        0..=MAX_VALUE => None,
        _ => Some(Reason::ValueTooLarge),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::visitor::VisitorMode;
    use std::borrow::Cow;
    use std::collections::BTreeMap;
    use std::path::Path;

    const CHROME: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Mobile Safari/537.36";
    const NOW: EventTime = EventTime::from_unix_ms(1_700_000_000_000);

    fn making() -> Making {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/countries.mmdb");
        let mode = VisitorMode::Fixed { key: "sixteen characters".to_owned() };
        let visitors = Arc::new(Visitors::new(mode, Path::new("absent"), Arc::new(|_| Ok(()))));
        Making { keep_params: KeepParams::default(), geo: Some(Geo::open(&file).unwrap()), visitors }
    }

    fn sender() -> Sender<'static> {
        Sender {
            site: "a.example",
            address: "203.0.113.7".parse().unwrap(),
            agent: CHROME.as_bytes(),
            sent_ms: None,
            now: NOW,
        }
    }

    fn hit(url: &str) -> Hit<'_> {
        Hit { url: Cow::Borrowed(url), ..Hit::default() }
    }

    fn dimensions(event: &v1::Event) -> BTreeMap<&str, &str> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        event.dimensions.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
    }

    #[test]
    fn an_event_is_canonical_and_has_what_its_request_and_its_url_tell() {
        let hit = Hit {
            referrer: "https://www.Google.com/search?q=x".into(),
            ..hit("https://a.example/p/../a?utm_campaign=spring&utm_medium=letter&x=1#top")
        };
        let made = making().event(hit, &sender()).unwrap();
        assert_eq!((&made.event.url[..], made.rejected), (&b"/a"[..], None));
        let expected = [
            ("browser", "Chrome"),
            ("campaign", "spring"),
            ("channel", "letter"),
            ("country", "DE"),
            ("device", "mobile"),
            ("referrer", "www.google.com"),
        ];
        assert_eq!(dimensions(&made.event), expected.into());
        assert_eq!(made.event.time_ms, NOW.as_unix_ms());
        assert_ne!(made.event.visitor_hash, 0);
    }

    #[test]
    fn without_a_campaign_the_channel_is_of_the_referrer() {
        let channel = |referrer: &str| {
            let made =
                making().event(Hit { referrer: referrer.to_owned().into(), ..hit("/a") }, &sender()).unwrap();
            dimensions(&made.event)["channel"].to_owned()
        };
        assert_eq!(channel(""), "direct");
        assert_eq!(channel("https://www.google.com/"), "search");
        assert_eq!(channel("https://www.a.example/b"), "internal");
    }

    #[test]
    fn what_an_event_says_itself_goes_before_what_the_edge_finds_out() {
        let said =
            [("device", "fridge"), ("country", "XX")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let hit = Hit { visitor: "ann".into(), dimensions: said.into(), ..hit("/a") };
        let made = making().event(hit, &sender()).unwrap();
        assert_eq!((dimensions(&made.event)["device"], dimensions(&made.event)["country"]), ("fridge", "XX"));
        assert_eq!((&made.event.visitor[..], made.event.visitor_hash), (&b"ann"[..], 0));
    }

    #[test]
    fn a_server_that_speaks_for_a_visitor_gives_what_the_visitor_would() {
        let making = making();
        let direct = making.event(hit("/a"), &sender()).unwrap();
        let server = Sender { address: "10.0.0.1".parse().unwrap(), agent: b"curl/8", ..sender() };
        let spoken = Hit { user_agent: CHROME.into(), address: "203.0.113.7".into(), ..hit("/a") };
        assert_eq!(making.event(spoken, &server).unwrap(), direct);
        assert_ne!(making.event(hit("/a"), &server).unwrap(), direct);
    }

    #[test]
    fn times_are_by_the_edges_clock_whatever_the_senders_says() {
        let time = |time_ms, sent_ms| {
            let made = making().event(Hit { time_ms, ..hit("/a") }, &Sender { sent_ms, ..sender() });
            made.unwrap().event.time_ms - NOW.as_unix_ms()
        };
        // A clock that is a year ahead: it happened 5 s before it was sent.
        let ahead = NOW.as_unix_ms() + 31_536_000_000;
        assert_eq!(time(Some(ahead - 5_000), Some(ahead)), -5_000);
        assert_eq!(time(Some(ahead + 5_000), Some(ahead)), 0, "nothing happens after it was told");
        assert_eq!(time(None, Some(ahead)), 0);
        assert_eq!(time(Some(NOW.as_unix_ms() - 7), None), -7);
        assert_eq!(time(Some(i64::MIN), Some(i64::MAX)), -i64::MAX, "rejected as too late");
    }

    #[test]
    fn what_cannot_count_says_why_and_is_made_all_the_same() {
        let rejected = |hit: Hit<'_>| making().event(hit, &sender()).unwrap().rejected;
        assert_eq!(rejected(hit("")), Some(Reason::MissingUrl));
        assert_eq!(rejected(hit("http://[::1")), Some(Reason::BadUrl));
        assert_eq!(rejected(Hit { kind: "k".repeat(65).into(), ..hit("/") }), Some(Reason::KindTooLong));
        assert_eq!(
            rejected(Hit { values: [("x".to_owned(), -1)].into(), ..hit("/") }),
            Some(Reason::NegativeValue)
        );
        assert_eq!(
            rejected(Hit { values: [("x".to_owned(), i64::MAX)].into(), ..hit("/") }),
            Some(Reason::ValueTooLarge)
        );
    }
}
