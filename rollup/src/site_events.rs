//! How many events of which sites a block has.
//!
//! Owns: reading that out of a block's bytes and nothing else, for who passes blocks on and limits sites.
//! Does not own: whether the block is sound (`block`): one that is not may be told to have anything, and is refused by its owner.

use crate::block::{MAX_BLOCK_EVENTS, read_lengths};
use crate::wire::UintColumn;
use bytes::Bytes;
use prost::Message as _;
use std::ops::Range;
use tidemark_proto::v1;

/// Sites and how many events of each.
#[derive(Clone, Debug, Default)]
pub struct SiteEvents {
    dictionary: Bytes,
    sites: Vec<(Range<usize>, u32)>,
}

impl SiteEvents {
    /// Those of a block; `None` where that cannot be read.
    pub fn of(block: &v1::Block) -> Option<Self> {
        let columns = v1::Columns::decode(block.columns.clone()).ok()?;
        let events = Some(block.event_count as usize).filter(|&events| events <= MAX_BLOCK_EVENTS)?;
        let page_sites = read_lengths(&columns.page_site)?;
        let mut starts = vec![0_usize];
        for length in read_lengths(&columns.dictionary_lengths)? {
            let start = *starts.last()?;
            starts.push(start.checked_add(usize::try_from(length).ok()?)?);
        }
        let mut sites: Vec<(usize, u32)> = Vec::new();
        // Mostly all pages are of one site.
        match page_sites.first().filter(|&first| page_sites.iter().all(|site| site == first)) {
            Some(&site) => sites.push((usize::try_from(site).ok()?, block.event_count)),
            None => {
                let (mut pages, mut by_site) = (Vec::new(), vec![0_u32; starts.len()]);
                UintColumn::of(columns.page, events)?.read_ids(events, u32::MAX, &mut pages)?;
                for page in pages {
                    let site = usize::try_from(*page_sites.get(page as usize)?).ok()?;
                    *by_site.get_mut(site)? += 1;
                }
                sites.extend(by_site.into_iter().enumerate().filter(|&(_, events)| events > 0));
            }
        }
        let place = |(site, events): (usize, u32)| {
            let place = *starts.get(site)?..*starts.get(site.checked_add(1)?)?;
            (place.end <= columns.dictionary.len()).then_some((place, events))
        };
        let sites = sites.into_iter().map(place).collect::<Option<_>>()?;
        Some(Self { dictionary: columns.dictionary, sites })
    }

    /// Each site, and how many events are of it. What is no text is left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        let named = self.sites.iter().map(|(place, events)| {
            Some((std::str::from_utf8(self.dictionary.get(place.clone())?).ok()?, *events))
        });
        named.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::DecodedBlock;
    use crate::canonical::KeepParams;
    use crate::event::TimeRules;
    use crate::sharding::ShardCount;
    use crate::split::{Rules, split};
    use crate::time::EventTime;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn blocks(sites: &[u8]) -> Vec<v1::Block> {
        let event = |(at, site): (usize, &u8)| v1::Event {
            site: format!("s{site}.example").into(),
            url: format!("/{}", at % 7).into(),
            time_ms: 1_700_000_000_000,
            kind: "view".into(),
            ..v1::Event::default()
        };
        let batch = v1::EventBatch {
            producer: vec![7; 16].into(),
            seq: 1,
            sealed_at_ms: 1_700_000_000_000,
            events: sites.iter().enumerate().map(event).collect(),
        };
        let keep_params = KeepParams::default();
        let shards = ShardCount::new(2).unwrap();
        let rules = Rules { schema: None, keep_params: &keep_params, times: TimeRules::default(), shards };
        split(&batch, &rules, EventTime::from_unix_ms(1_700_000_000_000)).unwrap().blocks
    }

    fn by_site<'a>(of: impl Iterator<Item = (&'a str, u32)>) -> BTreeMap<String, u32> {
        let mut by_site = BTreeMap::new();
        of.for_each(|(site, events)| *by_site.entry(site.to_owned()).or_default() += events);
        by_site
    }

    proptest! {
        #[test]
        fn sites_and_their_events_are_those_that_the_whole_block_tells(sites in prop::collection::vec(0..4_u8, 1..60)) {
            for block in blocks(&sites) {
                let mut decoded = DecodedBlock::default();
                decoded.read(&block, ShardCount::new(2).unwrap()).unwrap();
                let events = decoded.to_events();
                let whole = events.iter().map(|event| (std::str::from_utf8(&event.site).unwrap(), 1));
                prop_assert_eq!(by_site(SiteEvents::of(&block).unwrap().iter()), by_site(whole));
            }
        }

        #[test]
        fn whatever_the_bytes_are_nothing_breaks(columns in prop::collection::vec(any::<u8>(), 0..200), event_count: u32) {
            let block = v1::Block { columns: columns.into(), event_count, ..v1::Block::default() };
            if let Some(of) = SiteEvents::of(&block) {
                prop_assert!(of.iter().count() <= block.columns.len());
            }
        }
    }
}
