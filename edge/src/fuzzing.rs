//! What an edge reads of browsers and servers, for `fuzz/`: posts without a port.
//!
//! Owns: making events of a body and of a pixel's query, as a request does.
//! Does not own: reading them (`post`), what an event is made of (`event`), who may post (`http`).

use crate::event::{Making, Sender};
use crate::post::{self, Post};
use crate::visitor::{VisitorMode, Visitors};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::canonical::{self, KeepParams};
use tidemark_rollup::time::EventTime;

/// When all posts come.
const NOW: EventTime = EventTime::from_unix_ms(1_795_000_200_000);
/// Where they come from.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

/// An event, and whether nodes are certain to reject it.
pub type Made = (v1::Event, bool);

/// An edge without a port.
pub struct Collector(Making);

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

impl Default for Collector {
    /// One that knows no countries and has a key for visitors.
    fn default() -> Self {
        let mode = VisitorMode::Fixed { key: "sixteen characters".to_owned() };
        let visitors = Arc::new(Visitors::new(mode, Path::new("absent"), Arc::new(|_| Ok(()))));
        Self(Making { keep_params: KeepParams::default(), geo: None, visitors })
    }
}

impl Collector {
    /// The events of `POST /v1/collect`; `None` for what is no post.
    pub fn body(&self, body: &[u8]) -> Option<Vec<Made>> {
        self.events(post::from_json(body).ok()?)
    }

    /// The event of `GET /t.gif`.
    pub fn pixel(&self, query: &str, referer: Option<&str>) -> Option<Vec<Made>> {
        self.events(post::from_query(query, referer))
    }

    fn events(&self, post: Post<'_>) -> Option<Vec<Made>> {
        let site = canonical::site(&post.site).ok()?;
        let sender = Sender { site: &site, address: ADDRESS, agent: b"", sent_ms: post.sent_ms, now: NOW };
        let made = post.hits.into_iter().flatten().map(|hit| self.0.event(hit, &sender).ok());
        made.map(|made| made.map(|made| (made.event, made.rejected.is_some()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_send_gets_through() {
        let collector = Collector::default();
        let of_body = collector.body(br#"{"site":"A.example","events":[{"url":"/a"},7]}"#).unwrap();
        let of_pixel = collector.pixel("site=a.example&url=%2Fa", None).unwrap();
        assert_eq!((of_body.len(), &of_body), (1, &of_pixel));
        assert!(!of_body[0].1);
        assert_eq!(collector.body(b"{}"), None);
    }
}
