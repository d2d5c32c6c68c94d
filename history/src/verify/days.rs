//! A day's rows against the rows that they were made from.
//!
//! Owns: comparing rows of days with five-minute rows; where these are no longer kept, with what raw events make.
//! Does not own: how rows of days are made (`compact`).
//!
//! Five-minute rows are compared with raw events each bucket for itself, so that equal rows of days are right, too.

use super::compare::{BySite, Sides, compare_facts};
use super::report::{At, Difference, Differs, Report};
use super::{Verifier, VerifyError, note, shards_of};
use crate::catalog::Day;
use crate::compact::CompactError;
use crate::compact::layout;
use crate::compact::load::{Group, Raw};
use crate::compact::make::{Tasks, first_bucket};
use crate::replacement::DayCoverage;
use std::sync::Arc;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::scan::Folds;
use tidemark_rollup::time::BucketStart;
use tidemark_shell::work;

impl Verifier {
    /// Compares a day's rows with those that `five_minutes` make.
    pub(super) async fn days(
        &self,
        day: &Day,
        five_minutes: Vec<Group>,
        coverage: &DayCoverage,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let at = At::Day(day.start());
        let compared = self.compare_days(day, five_minutes, coverage, report).await;
        compared.or_else(|error| note(at, error, report))
    }

    async fn compare_days(
        &self,
        day: &Day,
        five_minutes: Vec<Group>,
        coverage: &DayCoverage,
        report: &mut Report,
    ) -> Result<(), CompactError> {
        let Some(holds) = day.replacement() else { return Ok(()) };
        let mut days = self.groups(&holds.day.days, true).await?;
        let is_expired = five_minutes.is_empty();
        let inputs = if is_expired { from_raw(day, &days, coverage) } else { five_minutes };
        if inputs.is_empty() {
            return Ok(());
        }
        report.days += 1;
        // Each group of inputs became rows of its schema.
        let mut pairs: Vec<(Group, Group)> = Vec::new();
        for input in inputs {
            let same = days.iter().position(|of| *of.schema == *input.schema);
            let of = same.map_or_else(|| Group::new(Arc::clone(&input.schema)), |at| days.swap_remove(at));
            pairs.push((input, of));
        }
        for extra in days {
            let what = format!("rows of {} segments", extra.rollups.len());
            report.add(Difference::of(At::Day(day.start()), Differs::Object, what, "none of their schema"));
        }
        let (inputs, days): (Vec<Group>, Vec<Group>) = pairs.into_iter().unzip();
        let mut tasks = Tasks::new(&self.loader, &inputs, self.rows_at_once);
        let folds = Arc::new(tasks.folds().await?);
        for at in 0..tasks.len() {
            let (loaded, schema, shards) = tasks.get(at).await?;
            let of = &days[tasks.task(at).group];
            let stored = self.loader.load(of, &tasks.task(at).shards).await?;
            let (folds, count) = (Arc::clone(&folds), self.loader.objects.shards);
            let Some(&shard) = shards.first() else { continue };
            let place = (first_bucket(day.start()), shard, count);
            let at = At::Day(day.start());
            let found = work::run_apart(move || {
                let recomputed = layout::days(&schema, &loaded, &folds, place);
                let stored = layout::days(&schema, &stored, &Folds::default(), place);
                let mut report = Report::default();
                Sides { at, stored: &stored, recomputed: &recomputed, sites: None }.compare(&mut report);
                // Raw events know nothing of repeated ones.
                compare_facts(at, &by_site(&stored), &by_site(&recomputed), !is_expired, &mut report);
                report
            })
            .await;
            report.merge(found);
        }
        Ok(())
    }
}

/// What raw events make of a day, where all of them are there and its rows have one schema.
fn from_raw(day: &Day, days: &[Group], coverage: &DayCoverage) -> Vec<Group> {
    let ([of], Some(holds)) = (days, day.replacement()) else { return Vec::new() };
    if holds.day.buckets.iter().any(|bucket| bucket.raw.is_empty()) {
        return Vec::new();
    }
    let mut group = Group::new(Arc::clone(&of.schema));
    group.raw_rows = of.rollups.iter().map(|rollup| rollup.rows).sum();
    for bucket in &holds.day.buckets {
        let Some(start) = BucketStart::from_unix_seconds(bucket.bucket_start_s) else { continue };
        let coverage = shards_of(coverage, start);
        group.raw.push(Raw { bucket: start, segments: bucket.raw.clone(), coverage, site: None });
    }
    vec![group]
}

fn by_site(rows: &SegmentRows) -> BySite {
    let mut by_site = BySite::new();
    for facts in &rows.facts {
        by_site.entry(rows.sites[facts.site as usize].clone()).or_default().merge(&facts.facts);
    }
    by_site
}
