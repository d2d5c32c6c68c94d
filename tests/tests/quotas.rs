//! One site that sends or asks too much, and the others.
//!
//! A process of its own for the node, so that what the test does with its cores is not what the node does with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::json;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_tests::PATIENCE;
use tidemark_tests::http::Http;
use tidemark_tests::processes::{READY_NODE, Single};
use tidemark_tests::rows::Sender;
use tokio::time::Instant;

/// The p99 of a turn's batches.
fn p99(told: &[(v1::BatchAck, Duration)]) -> Duration {
    let mut took: Vec<Duration> = told.iter().map(|(_, took)| *took).collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

fn accepted(told: &[(v1::BatchAck, Duration)]) -> u64 {
    told.iter().map(|(ack, _)| u64::from(ack.accepted)).sum()
}

/// The quota, and 20 times that is sent. Quiet and loud turns follow one another, and the middle one of each is compared: what the
/// machine does for long is in all of them, and what it does for a second or two is in few. Nobody waits for the disk here, which
/// takes from 3 ms to more than a second, flood or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_sends_twenty_times_its_quota_is_told_so_and_another_one_notices_nothing() {
    const QUOTA: u64 = 1_000;
    const TURNS: usize = 12;
    let turn = (50, Duration::from_millis(10));
    let single = Single::start(&["--site-rate", "1000", "--sync", "interval:60000ms"]).await;
    let mut calm = Sender::open(single.node(), "calm.example", 1).await;
    let mut loud = Sender::open(single.node(), "loud.example", 2).await;
    // A connection's first batches are slower than those that follow.
    let mut calm_told = calm.send(turn.0, 2, turn.1).await;
    let (mut alone, mut beside, mut floods) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    for _ in 0..TURNS {
        let quiet = calm.send(turn.0, 2, turn.1).await;
        let (both, flood) = tokio::join!(calm.send(turn.0, 2, turn.1), loud.send(turn.0, QUOTA / 5, turn.1));
        alone.push(p99(&quiet));
        beside.push(p99(&both));
        calm_told.extend(quiet.into_iter().chain(both));
        floods.extend(flood);
    }
    let took = start.elapsed();
    for (ack, _) in &calm_told {
        assert_eq!((&ack.refused, ack.accepted), (&None, 2));
    }
    let calm_events = accepted(&calm_told);
    println!("the calm site's p99 by turns: {alone:?} alone, {beside:?} beside the flood");
    let (alone, beside) = (median(alone), median(beside));
    // A machine's own hiccups are some milliseconds.
    assert!(
        beside <= 2 * alone.max(Duration::from_millis(10)),
        "{alone:?} alone, {beside:?} beside the flood"
    );

    let counted = accepted(&floods);
    // What was there already of the allowance, and a batch that is paid for afterwards, come on top.
    let at_most = QUOTA * (took.as_secs() + 1) + 2 * QUOTA + QUOTA / 5;
    assert!(counted > 0 && counted <= at_most, "{counted} were counted, of at most {at_most}");
    let refusals: Vec<&v1::Refusal> = floods.iter().filter_map(|(ack, _)| ack.refused.as_ref()).collect();
    assert!(refusals.len() > floods.len() / 2, "{} of {} are refused", refusals.len(), floods.len());
    for refusal in refusals {
        assert_eq!(refusal.reason(), RefusalReason::OverQuota);
        assert!(refusal.retry_after_ms > 0);
        let limit = refusal.limit.as_ref().unwrap();
        assert_eq!((limit.setting.as_str(), limit.limit), ("site_rate", QUOTA));
        assert!(limit.used > QUOTA, "{limit:?}");
        assert!(refusal.message.contains("loud.example"), "{}", refusal.message);
    }
    assert_eq!(single.views("calm.example").await, calm_events);
    assert_eq!(
        single.views("loud.example").await,
        counted,
        "what is refused is not counted, and nothing else is"
    );
    let metrics = Http::new(&single.process.address(READY_NODE)).get("/metrics").await.1;
    let line =
        metrics.lines().find(|line| line.contains("batches_refused") && line.contains("\"over_quota\""));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
    assert_eq!(single.process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_site_with_too_many_urls_waits_for_the_next_five_minutes_and_posts_are_told_when_to_come_back() {
    let single = Single::start(&["--site-urls", "500", "--site-times", "large.example=1000"]).await;
    let mut many = Sender::open(single.node(), "many.example", 1).await.with_distinct_urls();
    let mut large = Sender::open(single.node(), "large.example", 2).await.with_distinct_urls();
    let deadline = Instant::now() + PATIENCE;
    let refusal = loop {
        assert!(Instant::now() < deadline, "the limit is never reached");
        let batch = many.batch(200);
        many.send_one(batch);
        if let Some(refusal) = many.ack().await.refused {
            break refusal;
        }
        let batch = large.batch(200);
        large.send_one(batch);
        assert_eq!(large.ack().await.refused, None);
    };
    let limit = refusal.limit.unwrap();
    assert_eq!((limit.setting.as_str(), limit.limit), ("site_urls", 500));
    assert!(limit.used >= 500);
    assert!((1..=300_000).contains(&refusal.retry_after_ms), "{}", refusal.retry_after_ms);

    let post = |site: &str| json!([{ "site": site, "url": "/", "kind": "view" }]).to_string();
    let refused = single.http().try_post("/v1/events", post("many.example")).await.unwrap();
    assert_eq!(refused.status(), 429);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=300).contains(&seconds), "{seconds}");
    let text = refused.text().await.unwrap();
    assert!(text.contains("over_quota") && text.contains("site_urls"), "{text}");
    assert_eq!(single.http().post("/v1/events", post("other.example")).await.0, 200);
}

#[tokio::test]
async fn questions_about_a_site_that_cost_too_much_wait_and_others_are_answered() {
    let single = Single::start(&["--site-scan", "10"]).await;
    let mut sender = Sender::open(single.node(), "wide.example", 1).await.with_distinct_urls();
    sender.bring(1_000).await;
    // Looks at a thousand rows, and a hundred are possible at once.
    assert_eq!(single.views("wide.example").await, 1_000);
    let question = |site: &str| json!({ "site": site, "from": "-1h", "to": "now" }).to_string();
    let refused = single.http().try_post("/v1/query", question("wide.example")).await.unwrap();
    assert_eq!(refused.status(), 429);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((60..=100).contains(&seconds), "900 rows too many at 10 a second: {seconds} s");
    let text = refused.text().await.unwrap();
    assert!(text.contains("site_scan") && text.contains("wide.example"), "{text}");
    assert_eq!(single.http().post("/v1/query", question("other.example")).await.0, 200);
}

/// Sends batches of 200 events, each of a URL of its own, until one is refused; the limit it is told, and when to come back.
async fn until_refused(single: &Single, site: &'static str) -> (v1::Limit, Duration) {
    let mut sender = Sender::open(single.node(), site, 1).await.with_distinct_urls();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the limit is never reached");
        let batch = sender.batch(200);
        sender.send_one(batch);
        if let Some(refusal) = sender.ack().await.refused {
            assert_eq!(refusal.reason(), RefusalReason::OverQuota);
            return (refusal.limit.unwrap(), Duration::from_millis(refusal.retry_after_ms.into()));
        }
    }
}

#[tokio::test]
async fn a_site_that_sends_too_many_bytes_is_told_so() {
    let single = Single::start(&["--site-bytes", "5000B"]).await;
    let (limit, retry_after) = until_refused(&single, "wordy.example").await;
    assert_eq!((limit.setting.as_str(), limit.limit), ("site_bytes", 5_000));
    assert!(limit.used > 5_000 && retry_after < Duration::from_secs(60), "{limit:?} {retry_after:?}");
    let mut other = Sender::open(single.node(), "other.example", 2).await;
    other.bring(2).await;
}

#[tokio::test]
async fn a_site_with_too_many_rows_waits_for_the_next_five_minutes() {
    let single = Single::start(&["--site-rows", "500"]).await;
    let (limit, retry_after) = until_refused(&single, "many.example").await;
    assert_eq!((limit.setting.as_str(), limit.limit), ("site_rows", 500));
    assert!(limit.used >= 500 && retry_after <= Duration::from_secs(300), "{limit:?} {retry_after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_questions_at_a_time_about_a_site_some_are_told_to_come_back_and_others_are_answered() {
    let single = Single::start(&["--site-queries", "1"]).await;
    let mut sender = Sender::open(single.node(), "asked.example", 1).await.with_distinct_urls();
    sender.bring(5_000).await;
    let question = |site: &str| {
        json!({ "site": site, "measures": ["views"], "groupBy": ["url"], "limit": 1_000, "from": "-1h", "to": "now" })
            .to_string()
    };
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < deadline, "never two at a time");
        let http = single.http();
        let asked = (0..20).map(|_| http.try_post("/v1/query", question("asked.example")));
        let mut told: Vec<_> =
            futures::future::join_all(asked).await.into_iter().map(Result::unwrap).collect();
        assert!(told.iter().any(|reply| reply.status() == 200), "one is always answered");
        if let Some(at) = told.iter().position(|reply| reply.status() == 429) {
            break told.swap_remove(at);
        }
    };
    assert_eq!(refused.headers()["retry-after"], "1");
    let text = refused.text().await.unwrap();
    assert!(text.contains("site_queries") && text.contains("asked.example"), "{text}");
    assert_eq!(single.http().post("/v1/query", question("other.example")).await.0, 200);
}
