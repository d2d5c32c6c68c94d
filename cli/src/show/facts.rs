//! The facts about an answer, in words.
//!
//! Owns: one line that says how complete, how fresh and how exact an answer is.
//! Does not own: finding that out (the coordinator).

use super::grid::clean;
use super::number::{age, percentage, thousands};
use tidemark_proto::v1;

/// The facts in one line, without a line feed.
pub(crate) fn line(facts: &v1::Facts) -> String {
    let mut parts = vec![completeness(facts), freshness(facts)];
    parts.push(format!("{} late, {} rejected", thousands(facts.late), thousands(facts.rejected)));
    parts.extend(exactness(facts));
    if !facts.capped.is_empty() {
        parts.push(format!("{} beyond the limit: rare values are in (other)", facts.capped.join(", ")));
    }
    let mut line = parts.join(" · ");
    clean(&mut line);
    line
}

/// Whether all is there; loudly, where it is not.
pub(crate) fn completeness(facts: &v1::Facts) -> String {
    if facts.complete {
        return "complete".to_owned();
    }
    let lost = facts.shards_asked.saturating_sub(facts.shards_answered);
    let share = f64::from(lost) / f64::from(facts.shards_asked.max(1));
    let who: Vec<String> =
        facts.missing.iter().map(|missing| format!("{} {}", missing.node, missing.reason)).collect();
    let who = if who.is_empty() { "nobody says why".to_owned() } else { who.join("; ") };
    format!(
        "PARTIAL ANSWER: {} of all URLs missing ({lost} of {} shards): {who}",
        percentage(share),
        facts.shards_asked
    )
}

fn freshness(facts: &v1::Facts) -> String {
    facts.freshness_ms.map_or_else(|| "no events".to_owned(), |ms| format!("newest event {} ago", age(ms)))
}

fn exactness(facts: &v1::Facts) -> Option<String> {
    let mut errors: Vec<(&String, &f64)> = facts.errors.iter().collect();
    errors.sort_by_key(|(name, _)| name.as_str());
    let errors = errors.into_iter().map(|(name, &error)| match error > 0.0 {
        true => format!("{name} ±{}", percentage(error)),
        false => format!("{name} exact"),
    });
    let errors: Vec<String> = errors.collect();
    (!errors.is_empty()).then(|| errors.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_answer_says_how_fresh_and_how_exact_it_is() {
        let facts = v1::Facts {
            complete: true,
            shards_asked: 64,
            shards_answered: 64,
            freshness_ms: Some(1_234),
            late: 1_500,
            errors: [("visitors".into(), 0.0081), ("load_ms".into(), 0.01), ("members".into(), 0.0)].into(),
            ..v1::Facts::default()
        };
        assert_eq!(
            line(&facts),
            "complete · newest event 1.2 s ago · 1,500 late, 0 rejected · load_ms ±1 %, members exact, visitors ±0.81 %"
        );
    }

    #[test]
    fn a_partial_answer_says_so_first_and_who_is_to_blame() {
        let missing = v1::Missing {
            node: "n2 (10.0.0.2:7100)".into(),
            shards: 21,
            share: 0.328,
            reason: "did not answer within 2s".into(),
        };
        let facts = v1::Facts {
            shards_asked: 64,
            shards_answered: 43,
            missing: vec![missing],
            capped: vec!["referrer".into()],
            ..v1::Facts::default()
        };
        assert_eq!(
            line(&facts),
            "PARTIAL ANSWER: 33 % of all URLs missing (21 of 64 shards): n2 (10.0.0.2:7100) did not answer within 2s \
             · no events · 0 late, 0 rejected · referrer beyond the limit: rare values are in (other)"
        );
    }
}
