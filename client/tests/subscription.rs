//! A subscription before coordinators that do what a script says.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_client::{ClientError, Event, Subscription};
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_server::{Analytics, AnalyticsServer};
use tidemark_rollup::change::diff;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use v1::update::Kind;
use v1::value;

const PATIENCE: Duration = Duration::from_secs(20);

/// What comes on a stream, after which it ends or stays open.
struct Script {
    updates: Vec<Result<v1::Update, Status>>,
    stays_open: bool,
}

/// A coordinator that follows scripts, one for each stream.
#[derive(Clone, Default)]
struct Coordinator {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    asked: Arc<Mutex<Vec<v1::SubscribeRequest>>>,
}

impl Coordinator {
    /// It, and where it is.
    async fn start(scripts: Vec<Script>) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let coordinator = Self { scripts: Arc::new(Mutex::new(scripts.into())), ..Self::default() };
        let server = Server::builder().add_service(AnalyticsServer::new(coordinator.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (coordinator, at)
    }
}

#[tonic::async_trait]
impl Analytics for Coordinator {
    type SubscribeStream = BoxStream<'static, Result<v1::Update, Status>>;
    type WatchFlowStream = BoxStream<'static, Result<v1::Flow, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        let script = self.scripts.lock().unwrap().pop_front();
        let Script { updates, stays_open } = script.ok_or_else(|| Status::unavailable("no more scripts"))?;
        let updates = stream::iter(updates);
        Ok(Response::new(match stays_open {
            true => updates.chain(stream::pending()).boxed(),
            false => updates.boxed(),
        }))
    }

    async fn query(&self, _: Request<v1::Query>) -> Result<Response<v1::Answer>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn sites(&self, _: Request<v1::SitesRequest>) -> Result<Response<v1::SitesReply>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::Description>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn watch_flow(
        &self,
        _: Request<v1::FlowRequest>,
    ) -> Result<Response<Self::WatchFlowStream>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }
}

fn answer(rows: &[(&str, u64)]) -> v1::Answer {
    let value = |kind| v1::Value { kind: Some(kind) };
    let row = |&(url, views): &(&str, u64)| v1::Row {
        values: vec![value(value::Kind::Text(url.to_owned())), value(value::Kind::Integer(views))],
    };
    v1::Answer {
        columns: vec!["url".into(), "views".into()],
        rows: rows.iter().map(row).collect(),
        facts: Some(v1::Facts::default()),
    }
}

fn update(kind: Kind, resume: &str) -> Result<v1::Update, Status> {
    Ok(v1::Update { subscription: 0, kind: Some(kind), resume: resume.to_owned() })
}

fn subscription(at: &[&str]) -> Subscription {
    let at = at.iter().map(|&at| at.to_owned()).collect();
    let query = v1::Query { site: "s.de".into(), ..v1::Query::default() };
    Subscription::new(at, vec![query], Duration::from_millis(200), 7).unwrap()
}

async fn next(subscription: &mut Subscription) -> Event {
    timeout(PATIENCE, subscription.next()).await.unwrap().unwrap()
}

/// Waits for the next answer.
async fn next_answer(subscription: &mut Subscription) -> Event {
    loop {
        let event = next(subscription).await;
        if matches!(event, Event::Answer { .. }) {
            return event;
        }
    }
}

#[tokio::test]
async fn changes_are_put_into_practice_and_a_break_goes_on_with_the_token_at_the_next_coordinator() {
    let answers = [answer(&[("/a", 3), ("/b", 2)]), answer(&[("/b", 5), ("/a", 3)]), answer(&[("/b", 6)])];
    let first = Script {
        updates: vec![
            update(Kind::Answer(answers[0].clone()), "one"),
            update(Kind::Change(diff(&answers[0], &answers[1])), "two"),
        ],
        stays_open: false,
    };
    let second = Script {
        updates: vec![update(Kind::Change(diff(&answers[1], &answers[2])), "three")],
        stays_open: true,
    };
    let (one, at_one) = Coordinator::start(vec![first]).await;
    let (other, at_other) = Coordinator::start(vec![second]).await;
    let mut subscription = subscription(&[&at_one, &at_other]);

    assert_eq!(next(&mut subscription).await, Event::Connected { at: at_one.clone() });
    let event = next(&mut subscription).await;
    assert_eq!(event, Event::Answer { question: 0, is_change: false, added: 2, changed: 0, gone: 0 });
    assert!(subscription.last_change().is_none());
    let event = next(&mut subscription).await;
    assert_eq!(event, Event::Answer { question: 0, is_change: true, added: 0, changed: 1, gone: 0 });
    assert_eq!(subscription.answer(0), Some(&answers[1]));
    assert!(subscription.last_change().is_some());

    assert!(matches!(next(&mut subscription).await, Event::Lost { at, .. } if at == at_one));
    assert_eq!(next(&mut subscription).await, Event::Connected { at: at_other.clone() });
    next(&mut subscription).await;
    assert_eq!(subscription.answer(0), Some(&answers[2]));
    let asked = |of: &Coordinator| of.asked.lock().unwrap()[0].subscriptions[0].clone();
    assert_eq!((asked(&one).resume.as_str(), asked(&one).every_ms), ("", 200));
    assert_eq!(asked(&other).resume, "two");
}

#[tokio::test]
async fn a_change_of_another_answer_begins_anew() {
    let rows = answer(&[("/a", 1)]);
    let wrong = v1::Change {
        added: vec![v1::PlacedRow { at: 9, row: rows.rows.first().cloned() }],
        ..v1::Change::default()
    };
    let scripts = vec![
        Script {
            updates: vec![update(Kind::Answer(rows.clone()), "one"), update(Kind::Change(wrong), "two")],
            stays_open: true,
        },
        Script { updates: vec![update(Kind::Answer(rows.clone()), "three")], stays_open: true },
    ];
    let (coordinator, at) = Coordinator::start(scripts).await;
    let mut subscription = subscription(&[&at]);
    next_answer(&mut subscription).await;
    next_answer(&mut subscription).await;
    assert_eq!(subscription.answer(0), Some(&rows));
    assert_eq!(coordinator.asked.lock().unwrap()[1].subscriptions[0].resume, "");
}

#[tokio::test]
async fn a_question_that_cannot_be_ends_it() {
    let refusal = Err(Status::invalid_argument("subscriptions[0].limit: 0 is none"));
    let (_, at) = Coordinator::start(vec![Script { updates: vec![refusal], stays_open: false }]).await;
    let mut subscription = subscription(&[&at]);
    next(&mut subscription).await;
    let error = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ClientError::InvalidQuery(message) if message.contains("limit")), "{error}");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_tried_again_and_said_to_be_away() {
    // Held, so that no other test listens there.
    let held = TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let nowhere = held.local_addr().unwrap();
    let script = Script { updates: vec![update(Kind::Answer(answer(&[])), "one")], stays_open: true };
    let (_, at) = Coordinator::start(vec![script]).await;
    let mut subscription = subscription(&[&format!("http://{nowhere}"), &at]);
    assert!(
        matches!(next(&mut subscription).await, Event::Lost { retry_in, .. } if retry_in < Duration::from_secs(1))
    );
    assert_eq!(next(&mut subscription).await, Event::Connected { at });
}

#[tokio::test]
async fn a_coordinator_that_is_silent_for_25_seconds_is_given_up_for_the_next_one() {
    let rows = answer(&[("/a", 1)]);
    let script =
        |token| Script { updates: vec![update(Kind::Answer(rows.clone()), token)], stays_open: true };
    let (_, at_silent) = Coordinator::start(vec![script("one")]).await;
    let (other, at_other) = Coordinator::start(vec![script("two")]).await;
    let mut subscription = subscription(&[&at_silent, &at_other]);
    next_answer(&mut subscription).await;

    // Time stands still but for what is said here.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(24)).await;
    assert!(futures::poll!(std::pin::pin!(subscription.next())).is_pending());
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    match next(&mut subscription).await {
        Event::Lost { at, because, .. } => {
            assert_eq!((at, because.as_str()), (at_silent, "nothing came for 25s"))
        }
        event => panic!("{event:?}"),
    }
    assert_eq!(next(&mut subscription).await, Event::Connected { at: at_other });
    assert_eq!(other.asked.lock().unwrap()[0].subscriptions[0].resume, "one");
}

#[tokio::test]
async fn waiting_that_is_cancelled_again_and_again_loses_nothing() {
    let answers = [answer(&[("/a", 1)]), answer(&[("/a", 2)])];
    let updates = vec![
        update(Kind::Answer(answers[0].clone()), "one"),
        update(Kind::Change(diff(&answers[0], &answers[1])), "two"),
    ];
    let (coordinator, at) = Coordinator::start(vec![Script { updates, stays_open: true }]).await;
    let mut subscription = subscription(&[&at]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut events = Vec::new();
    while events.len() < 3 {
        assert!(tokio::time::Instant::now() < deadline, "{events:?}");
        // Asked once and dropped.
        if let std::task::Poll::Ready(event) = futures::poll!(std::pin::pin!(subscription.next())) {
            events.push(event.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(subscription.answer(0), Some(&answers[1]));
    assert_eq!(coordinator.asked.lock().unwrap().len(), 1, "{events:?}");
}

#[tokio::test]
async fn what_is_no_address_is_said_at_once() {
    for at in
        [vec![], vec!["127.0.0.1:8100".to_owned()], vec!["http://a:1".to_owned(), "ftp://b:1".to_owned()]]
    {
        let error = Subscription::new(at, Vec::new(), Duration::from_secs(1), 1).unwrap_err();
        assert!(matches!(error, ClientError::Address { .. }), "{error}");
    }
}
