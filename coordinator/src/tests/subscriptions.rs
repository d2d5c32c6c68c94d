//! Questions left open, in a time that only passes while everybody waits.

use super::fake_node::{Call, Mood};
use super::still::Still;
use super::world::event;
use axum::body::BodyDataStream;
use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::change::apply;
use tidemark_shell::link::Link;
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};
use v1::update::Kind;

const EVERY: Duration = Duration::from_secs(1);

fn by_url(limit: u32) -> v1::Query {
    let group_by = vec!["url".into()];
    v1::Query { site: "s.de".into(), group_by, limit, from: "-1h".into(), ..v1::Query::default() }
}

fn subscription(query: v1::Query) -> v1::Subscription {
    v1::Subscription { query: Some(query), ..v1::Subscription::default() }
}

fn views(pages: impl IntoIterator<Item = u32>) -> Vec<v1::Event> {
    pages.into_iter().map(|page| event("s.de", &format!("/{page}"), &format!("v{page}"), &[])).collect()
}

/// A subscriber, and what it has.
struct Subscriber {
    stream: Streaming<v1::Update>,
    has: Option<v1::Answer>,
    resume: String,
    updates: usize,
}

impl Subscriber {
    async fn of(still: &Still, query: v1::Query) -> Self {
        Self::at(&mut still.analytics(), subscription(query)).await.unwrap()
    }

    async fn at(client: &mut AnalyticsClient<Link>, subscription: v1::Subscription) -> Result<Self, Status> {
        let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
        let stream = client.subscribe(request).await?.into_inner();
        Ok(Self { stream, has: None, resume: String::new(), updates: 0 })
    }

    /// The next update, put into practice.
    async fn next(&mut self) -> v1::Update {
        let update = self.stream.message().await.unwrap().expect("goes on");
        match update.kind.clone().unwrap() {
            Kind::Answer(answer) => self.has = Some(answer),
            Kind::Change(change) => apply(self.has.as_mut().expect("an answer first"), change).unwrap(),
        }
        self.resume.clone_from(&update.resume);
        self.updates += 1;
        update
    }

    /// Whatever comes while nothing else happens.
    async fn settle(&mut self) {
        while timeout(2 * EVERY, self.next()).await.is_ok() {}
    }

    fn json(&self) -> Value {
        without_age(crate::answer_to_json(self.has.as_ref().unwrap()))
    }
}

/// Time goes by for the facts, but not in what they say.
fn without_age(mut answer: Value) -> Value {
    answer["facts"]["freshnessMs"].take();
    answer
}

fn run(test: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test);
}

#[tokio::test(start_paused = true)]
async fn first_comes_the_answer_and_then_what_changes() {
    let still = Still::of(3).await;
    still.feed(views([1, 1, 2]));
    let mut subscriber = Subscriber::of(&still, by_url(10)).await;
    assert!(matches!(subscriber.next().await.kind, Some(Kind::Answer(_))));
    assert_eq!(subscriber.json()["rows"], json!([["/1", 2], ["/2", 1]]));
    tokio::time::sleep(Duration::from_secs(3)).await;

    let start = Instant::now();
    still.feed(views([2, 2, 3]));
    let Some(Kind::Change(change)) = subscriber.next().await.kind else { panic!("a change") };
    assert_eq!((change.added.len(), change.changed.len(), change.gone.len()), (1, 1, 0));
    assert_eq!(subscriber.json()["rows"], json!([["/2", 3], ["/1", 2], ["/3", 1]]));
    assert!(start.elapsed() < EVERY / 10, "what comes after a pause shows at once: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn under_steady_events_updates_are_four_fifths_of_the_cadence_apart() {
    let still = Still::of(2).await;
    let mut subscriber = Subscriber::of(&still, by_url(10)).await;
    subscriber.settle().await;
    let (start, before) = (Instant::now(), subscriber.updates);
    for page in 0..100 {
        still.feed(views([page % 5]));
        let _ = timeout(Duration::from_millis(80), subscriber.next()).await;
    }
    let periods = start.elapsed().as_secs_f64() / 0.8;
    let updates = (subscriber.updates - before) as f64;
    assert!((periods - 1.5..=periods + 1.5).contains(&updates), "{updates} updates in {periods} periods");
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_the_same_share_what_is_asked_of_nodes() {
    let still = Still::of(1).await;
    let mut subscribers = Vec::new();
    for _ in 0..20 {
        subscribers.push(Subscriber::of(&still, by_url(10)).await);
    }
    for subscriber in &mut subscribers {
        subscriber.settle().await;
    }
    still.nodes[0].take_calls();
    still.feed(views([1]));
    for subscriber in &mut subscribers {
        subscriber.next().await;
    }
    let partials = still.nodes[0].take_calls().into_iter().filter(|call| *call == Call::Partial).count();
    assert_eq!(partials, 1);
    assert_eq!(still.metric("tidemark_subscriptions").await, 20);
    drop(subscribers);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(still.metric("tidemark_subscriptions").await, 0);
    // Nobody is asked for nobody.
    still.feed(views([1]));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!still.nodes[0].take_calls().contains(&Call::Partial));
}

#[tokio::test(start_paused = true)]
async fn who_reconnects_to_another_coordinator_gets_only_what_changed_meanwhile() {
    let still = Still::of(2).await;
    still.feed(views(0..100));
    let mut subscriber = Subscriber::of(&still, by_url(1_000)).await;
    subscriber.next().await;
    still.feed(views([7, 200]));

    let mut other = still.another_coordinator().await;
    let resumed = v1::Subscription { resume: subscriber.resume.clone(), ..subscription(by_url(1_000)) };
    let mut again = Subscriber::at(&mut other, resumed).await.unwrap();
    again.has = subscriber.has.take();
    let Some(Kind::Change(change)) = again.next().await.kind else { panic!("no reload") };
    assert!(change.added.len() < 20, "{} rows", change.added.len());
    let fresh = still.ask(&json!({"site": "s.de", "groupBy": ["url"], "limit": 1000})).await;
    assert_eq!(again.json(), without_age(fresh));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_question_begins_anew() {
    let still = Still::of(1).await;
    still.feed(views([1, 2]));
    let mut one = Subscriber::of(&still, by_url(10)).await;
    one.next().await;
    for resume in [one.resume.clone(), "no token".to_owned()] {
        let other = v1::Subscription { resume, ..subscription(by_url(11)) };
        let mut other = Subscriber::at(&mut still.analytics(), other).await.unwrap();
        assert!(matches!(other.next().await.kind, Some(Kind::Answer(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_goes_straight_to_the_newest_answer() {
    let still = Still::of(1).await;
    let mut quick = Subscriber::of(&still, by_url(10)).await;
    quick.settle().await;
    let mut slow = Subscriber::of(&still, by_url(10)).await;
    slow.settle().await;
    // Each answer is longer than a connection buffers.
    for round in 0..60 {
        let pages = 0..10;
        let long = |page: u32| format!("/{page}-{round}-{}", "x".repeat(1_900));
        still.feed(pages.map(|page| event("s.de", &long(page), "", &[])).collect());
        for other in 0..=round {
            still.feed((0..10).map(|page| event("s.de", &format!("/{page}-{other}"), "", &[])).collect());
        }
        quick.settle().await;
    }
    let before = slow.updates;
    slow.settle().await;
    assert_eq!(slow.json(), quick.json());
    assert!(slow.updates - before < 60, "{} updates were waiting", slow.updates - before);
}

#[tokio::test(start_paused = true)]
async fn a_partial_answer_says_so_and_is_made_up_for_by_itself() {
    let still = Still::of(2).await;
    still.feed(views(0..40));
    still.nodes.iter().for_each(|node| node.set_mood(Mood::Fails(Status::internal("broken"))));
    let mut subscriber = Subscriber::of(&still, by_url(100)).await;
    subscriber.next().await;
    assert_eq!(subscriber.json()["facts"]["complete"], false);
    still.nodes.iter().for_each(|node| node.set_mood(Mood::Well));
    timeout(Duration::from_secs(5), subscriber.next()).await.expect("tried anew");
    assert_eq!(subscriber.json()["facts"]["complete"], true);
    assert_eq!(subscriber.has.as_ref().unwrap().rows.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_happens_a_subscriber_hears_something_every_ten_seconds() {
    let still = Still::of(1).await;
    let mut subscriber = Subscriber::of(&still, by_url(10)).await;
    subscriber.next().await;
    for _ in 0..3 {
        let start = Instant::now();
        let Some(Kind::Change(change)) = subscriber.next().await.kind else { panic!("a change") };
        assert!(change.added.is_empty() && change.facts.is_some());
        assert!((9.0..11.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_be_is_refused_by_its_position_and_field() {
    let still = Still::of(1).await;
    let mut client = still.analytics();
    let good = || subscription(by_url(10));
    let with = |subscription: v1::Subscription| vec![good(), subscription];
    for (subscriptions, hint) in [
        (with(v1::Subscription { query: Some(by_url(10_001)), ..good() }), "subscriptions[1].limit"),
        (with(v1::Subscription { every_ms: 99, ..good() }), "subscriptions[1].every"),
        (with(v1::Subscription { query: None, ..good() }), "subscriptions[1].site"),
        (Vec::new(), "1 to 32"),
        (vec![good(); 33], "1 to 32"),
    ] {
        let status = client.subscribe(v1::SubscribeRequest { subscriptions }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(hint), "{}", status.message());
    }
}

#[tokio::test(start_paused = true)]
async fn more_subscriptions_than_there_are_places_are_refused() {
    let max = std::num::NonZeroUsize::new(3).unwrap();
    let still =
        Still::with(1, crate::CoordinatorConfig { max_subscriptions: max, ..super::still::still_config() })
            .await;
    let mut client = still.analytics();
    let request = |count| v1::SubscribeRequest { subscriptions: vec![subscription(by_url(10)); count] };
    let held = client.subscribe(request(2)).await.unwrap();
    assert_eq!(client.subscribe(request(2)).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(held);
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.subscribe(request(3)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_stream_carries_several_questions() {
    let still = Still::of(2).await;
    still.feed(views([1, 2]));
    let total = v1::Query { site: "s.de".into(), ..v1::Query::default() };
    let subscriptions = vec![subscription(by_url(10)), subscription(total)];
    let request = v1::SubscribeRequest { subscriptions };
    let mut stream = still.analytics().subscribe(request).await.unwrap().into_inner();
    let mut rows = [None, None];
    for _ in 0..2 {
        let update = stream.message().await.unwrap().unwrap();
        let Some(Kind::Answer(answer)) = update.kind else { panic!("an answer") };
        rows[update.subscription as usize] = Some(answer.rows.len());
    }
    assert_eq!(rows, [Some(2), Some(1)]);
}

/// The next server-sent event: name, id, data.
async fn next_event(body: &mut BodyDataStream) -> (String, String, Value) {
    let chunk = body.next().await.expect("goes on").unwrap();
    let text = String::from_utf8(chunk.to_vec()).unwrap();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.to_owned()
    };
    assert!(text.ends_with("\n\n"), "{text}");
    (field("event: "), field("id: "), serde_json::from_str(&field("data: ")).unwrap())
}

#[tokio::test(start_paused = true)]
async fn server_sent_events_have_the_answer_its_changes_and_ids_to_resume_from() {
    let still = Still::of(2).await;
    still.feed(views([1, 1, 2]));
    let path = "/v1/watch?site=s.de&measures=views&groupBy=url&every=200ms";
    let reply = still.get(path, &[]).await;
    assert_eq!(reply.headers()["content-type"], "text/event-stream");
    let mut body = reply.into_body().into_data_stream();
    let (name, id, answer) = next_event(&mut body).await;
    assert_eq!((name.as_str(), &answer["columns"]), ("answer", &json!(["url", "views"])));
    assert_eq!(answer["rows"], json!([["/1", 2], ["/2", 1]]));
    assert_eq!(answer["facts"]["complete"], true);

    still.feed(views([2]));
    let (name, _, change) = next_event(&mut body).await;
    assert_eq!((name.as_str(), &change["changed"]), ("change", &json!([{"at": 1, "row": ["/2", 2]}])));
    drop(body);

    // As a browser does by itself.
    let mut again = still.get(path, &[("last-event-id", &id)]).await.into_body().into_data_stream();
    let (name, _, change) = next_event(&mut again).await;
    assert_eq!(name, "change");
    assert_eq!(change["added"], json!([{"at": 1, "row": ["/2", 2]}]));
    assert!(change["replaced"]["of"].is_u64(), "{change}");
}

#[tokio::test(start_paused = true)]
async fn a_watched_question_that_cannot_be_is_an_error_with_its_field() {
    let still = Still::of(1).await;
    for (query, field) in
        [("every=1", "every"), ("every=50ms&site=s.de", "every"), ("site=", "site"), ("a=b", "a")]
    {
        let (status, body) =
            still.request(axum::http::Method::GET, &format!("/v1/watch?{query}"), String::new()).await;
        let error: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status.as_u16(), error["field"].as_str()), (400, Some(field)), "{query}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_stops_ends_its_streams_and_says_why() {
    let still = Still::of(1).await;
    let mut subscriber = Subscriber::of(&still, by_url(10)).await;
    subscriber.next().await;
    still.stop.cancel();
    let status = subscriber.stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("resume"), "{status}");
}

async fn follows(feeds: Vec<Vec<u32>>, limit: u32, with_time: bool) {
    let still = Still::of(3).await;
    let mut query = by_url(limit);
    query.measures = vec!["views".into(), "visitors".into()];
    if with_time {
        query.granularity = "5m".into();
    }
    let question = json!({
        "site": "s.de", "groupBy": ["url"], "limit": limit, "measures": query.measures, "from": "-1h",
        "granularity": if with_time { "5m" } else { "all" },
    });
    let mut subscriber = Subscriber::of(&still, query).await;
    subscriber.settle().await;
    for pages in feeds {
        still.feed(views(pages));
        subscriber.settle().await;
        assert_eq!(subscriber.json(), without_age(still.ask(&question).await));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn all_changes_applied_to_the_first_answer_equal_a_fresh_answer(
        feeds in prop::collection::vec(prop::collection::vec(0..40_u32, 1..30), 1..8),
        limit in 1..30_u32,
        with_time in any::<bool>(),
    ) {
        run(follows(feeds, limit, with_time));
    }
}

#[tokio::test(start_paused = true)]
async fn who_accepts_csv_gets_it_and_is_told_beside_it_whether_it_is_complete() {
    let still = Still::of(2).await;
    still.feed(views([1, 1, 2]));
    let path = "/v1/query?site=s.de&groupBy=url";
    for (mood, complete) in [(Mood::Well, "true"), (Mood::Fails(Status::internal("broken")), "false")] {
        still.nodes.iter().for_each(|node| node.set_mood(mood.clone()));
        let reply = still.get(path, &[("accept", "text/csv")]).await;
        assert_eq!(reply.headers()["x-tidemark-complete"], complete);
        assert!(reply.headers()["content-type"].to_str().unwrap().starts_with("text/csv"));
        let body = axum::body::to_bytes(reply.into_body(), usize::MAX).await.unwrap();
        let rows = if complete == "true" { "/1,2\r\n/2,1\r\n" } else { "" };
        assert_eq!(body, format!("url,views\r\n{rows}"));
    }
}
