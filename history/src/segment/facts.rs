//! Facts: what happened to a site's events beside the rows.
//!
//! Owns: reading them, and the text of the reasons.
//! Does not own: rows (`read`).

use super::column::{read_integers, read_texts};
use super::error::{Flaw, SegmentError};
use super::layout::{Fact, Kind};
use super::page::NULL;
use super::plan::GroupPlan;
use super::read::{Reading, ranges};
use std::collections::BTreeMap;
use tidemark_proto::v1::Reason;
use tidemark_rollup::dictionary::Dictionary;
use tidemark_rollup::rows::FactsRow;
use tidemark_rollup::table::SiteFacts;

/// Reads the facts of a row group.
pub(super) fn read(reading: &mut Reading<'_>, group: &GroupPlan) -> Result<(), SegmentError> {
    let times = reading.times(group.group, &group.facts)?;
    let columns = Columns::read(reading, group)?;
    let spans = group.facts.iter().flat_map(|span| span.rows.clone().map(|_| span.site));
    for (at, (site, bucket)) in spans.zip(times).enumerate() {
        if !reading.plan.selection.includes_time(bucket) {
            continue;
        }
        let (shard, facts) = columns.row(at).map_err(|flaw| reading.unreadable(flaw))?;
        let shard = reading.plan.segment.head.shards.shard(shard);
        let shard = shard.ok_or_else(|| reading.unreadable("facts are of no shard".into()))?;
        let site = reading.site(group.group, site);
        reading.rows.facts.push(FactsRow { site, bucket, shard, facts });
    }
    Ok(())
}

struct Columns {
    shard: Vec<Option<u64>>,
    counted: Vec<Option<u64>>,
    late: Vec<Option<u64>>,
    duplicate: Vec<Option<u64>>,
    newest: Vec<Option<u64>>,
    reasons: Vec<u32>,
    texts: Dictionary,
}

impl Columns {
    fn read(reading: &Reading<'_>, group: &GroupPlan) -> Result<Self, SegmentError> {
        let wanted = ranges(&group.facts);
        let integers = |fact: Fact, width: usize| {
            let chunk = reading.chunk(group.group, Kind::Fact(fact))?;
            let mut values = Vec::new();
            let read = read_integers(&chunk, width, &wanted, |value| values.push(value));
            read.map(|()| values).map_err(|flaw| reading.unreadable(flaw))
        };
        let mut texts = Dictionary::default();
        let chunk = reading.chunk(group.group, Kind::Fact(Fact::Reasons))?;
        let reasons = read_texts(&chunk, &wanted, &mut texts, NULL);
        Ok(Self {
            shard: integers(Fact::Shard, 4)?,
            counted: integers(Fact::Counted, 8)?,
            late: integers(Fact::Late, 8)?,
            duplicate: integers(Fact::Duplicate, 8)?,
            newest: integers(Fact::Newest, 8)?,
            reasons: reasons.map_err(|flaw| reading.unreadable(flaw))?,
            texts,
        })
    }

    /// A row's shard and facts.
    fn row(&self, at: usize) -> Result<(u32, SiteFacts), Flaw> {
        let get = |column: &[Option<u64>]| column.get(at).copied().flatten().ok_or("facts have no number");
        let reasons = match *self.reasons.get(at).ok_or("facts end early")? {
            NULL => "",
            text => self.texts.get(text),
        };
        let facts = SiteFacts {
            counted: get(&self.counted)?,
            late: get(&self.late)?,
            newest_event_ms: self.newest.get(at).copied().flatten().map(|time| time as i64),
            rejected: parse_reasons(reasons).ok_or_else(|| format!("{reasons:?} are no reasons"))?,
            duplicate: get(&self.duplicate)?,
        };
        let shard = u32::try_from(get(&self.shard)?).map_err(|_| "facts are of no shard")?;
        Ok((shard, facts))
    }
}

/// How many events were rejected for which reason, as text: `bad_url=3,too_late=1`, by name; none where none were.
pub(super) fn format_reasons(rejected: &BTreeMap<Reason, u64>) -> Option<String> {
    let mut parts: Vec<(String, u64)> =
        rejected.iter().map(|(reason, &events)| (reason.name(), events)).collect();
    parts.sort_unstable();
    let parts: Vec<String> = parts.iter().map(|(name, events)| format!("{name}={events}")).collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

/// Reads what [`format_reasons`] wrote.
fn parse_reasons(text: &str) -> Option<BTreeMap<Reason, u64>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let parts = parts.map(|part| {
        let (name, events) = part.split_once('=')?;
        let reason =
            Reason::ALL.into_iter().chain([Reason::Unspecified]).find(|reason| reason.name() == name)?;
        Some((reason, events.parse().ok()?))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_spelled_by_name_and_read_back() {
        let rejected = BTreeMap::from([(Reason::TooLate, 1), (Reason::BadUrl, 3)]);
        let text = format_reasons(&rejected).unwrap();
        assert_eq!(text, "bad_url=3,too_late=1");
        assert_eq!(parse_reasons(&text), Some(rejected));
        assert_eq!(format_reasons(&BTreeMap::new()), None);
        for bad in ["bad_url", "bad_url=x", "no_reason=1", "bad_url=-1"] {
            assert_eq!(parse_reasons(bad), None, "{bad}");
        }
    }
}
