//! The lanes of a URL that has more events than one shard should get.
//!
//! Owns: which URLs of a batch are spread over lanes, what a lane's page is called, and whose lane a page is.
//! Does not own: splitting batches (`split`), reading the lanes of a URL together (`scan`).
//!
//! A lane of `/a` is a page of its own, `/a#3`: no canonical URL has a fragment. So it has a shard as every page has, and whatever
//! keeps, moves or counts pages needs to know nothing of lanes; only answers read them as the one URL that they are. Lane 0 has the
//! shard of the URL itself. Its being there tells that shard, and whoever merges what it says, that the URL has rows elsewhere.

use crate::canonical::MAX_URL_BYTES;
use crate::dictionary::Dictionary;
use crate::sharding::ShardCount;

/// How many lanes a URL has: with 64 shards one lane of a URL with half of all events gets two shards' worth of them.
pub const LANES: u32 = 16;
/// Bytes of the longest name of a lane, `#15`.
const MAX_NAME_BYTES: usize = 3;

/// From how many events on a URL is spread. It is asked of each batch alone, so that the same batch always makes the same blocks:
/// what many producers send of a viral URL is much of what each of them sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRules {
    /// With fewer events of a URL in a batch than this, its shard is far from being a bottleneck: at a batch each 50 ms these are 20,000 a
    /// second, and a shard counts a million. A front page that has a fifth of a site's views need not have lanes.
    pub at_least_events: usize,
    /// So many times the events that a shard gets of the batch on average.
    pub times_average: usize,
}

impl Default for LaneRules {
    /// 1,024 events, and four times the average.
    fn default() -> Self {
        Self { at_least_events: 1_024, times_average: 4 }
    }
}

impl LaneRules {
    /// How many events of a batch of this many a URL must have to be spread; `None` where there is nowhere to spread it to.
    pub(crate) fn spread_from(self, batch_events: usize, shards: ShardCount) -> Option<usize> {
        let average = batch_events.div_ceil(shards.get() as usize);
        (shards.get() > 1).then(|| self.at_least_events.max(average.saturating_mul(self.times_average)))
    }
}

/// Whether a URL's lanes can be named.
pub(crate) fn can_be_spread(url: &str) -> bool {
    url.len() + MAX_NAME_BYTES <= MAX_URL_BYTES
}

/// The page of a URL's lane.
pub fn lane_of(url: &str, lane: u32) -> String {
    format!("{url}#{lane}")
}

/// All names under which events of a URL are counted: itself, and its lanes.
pub fn names_of(url: &str) -> impl Iterator<Item = String> + '_ {
    std::iter::once(url.to_owned()).chain((0..LANES).map(move |lane| lane_of(url, lane)))
}

/// The URL whose lane this page is; `None` where it is a URL itself.
pub fn spread_url(page: &str) -> Option<&str> {
    let (url, lane) = page.rsplit_once('#')?;
    let is_lane = matches!(lane.as_bytes(), [b'0'..=b'9'] | [b'1', b'0'..=b'5']);
    is_lane.then_some(url)
}

/// The URL that this page is, or is a lane of.
pub fn url_of(page: &str) -> &str {
    spread_url(page).unwrap_or(page)
}

/// The URLs that have lanes among these pages. Nearly always none, which one look at all names together shows.
pub(crate) fn spread_urls(pages: &Dictionary) -> impl Iterator<Item = &str> {
    let pages = pages.has(b'#').then(|| pages.iter().filter_map(spread_url));
    pages.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharding::page_hash;

    #[test]
    fn a_lane_is_known_by_its_name_and_nothing_else_is() {
        for lane in 0..LANES {
            assert_eq!(spread_url(&lane_of("/a", lane)), Some("/a"));
        }
        for page in ["/a", "/a#", "/a#16", "/a#00", "/a#x", "/a#1x", "/a#top"] {
            assert_eq!(url_of(page), page);
        }
        assert_eq!(names_of("/a").map(|name| url_of(&name).to_owned()).filter(|url| url == "/a").count(), 17);
    }

    #[test]
    fn lane_0_has_the_shard_of_its_url_and_the_others_are_spread() {
        let shards = ShardCount::DEFAULT;
        let shard = |page: &str| shards.shard_of(page_hash("s.de", page));
        let long = format!("/{}", "a".repeat(300));
        for url in ["/", "/a", &long] {
            assert_eq!(shard(&lane_of(url, 0)), shard(url));
            let distinct: std::collections::BTreeSet<_> = names_of(url).map(|page| shard(&page)).collect();
            assert!(distinct.len() > LANES as usize / 2, "{} shards", distinct.len());
        }
    }

    #[test]
    fn what_is_viral_depends_on_the_batch_and_the_number_of_shards() {
        let rules = LaneRules::default();
        let from = |events, shards| rules.spread_from(events, ShardCount::new(shards).unwrap());
        assert_eq!(from(200, 64), Some(1_024));
        assert_eq!(from(65_536, 64), Some(4_096));
        assert_eq!(from(8_192, 1), None, "there is one shard");
        assert_eq!(from(8_000, 4), Some(8_000), "a shard's average is a quarter already");
    }
}
