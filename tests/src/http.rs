//! Asking a coordinator as a user does.

use crate::secured::{self, SECURED};
use serde_json::Value;
use std::time::Duration;

/// A coordinator's HTTP side.
#[derive(Clone, Debug)]
pub struct Http {
    base: String,
    token: bool,
    client: reqwest::Client,
}

impl Http {
    /// The coordinator at this address, `host:port`.
    pub fn new(address: &str) -> Self {
        Self { base: secured::url(address), token: secured::is_secured(address), client: client(address) }
    }

    fn shown(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if self.token { request.bearer_auth(SECURED.token()) } else { request }
    }

    /// Status and body of a GET.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let reply = self.shown(self.client.get(format!("{}{path}", self.base))).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    /// The reply to a POST, where there is one.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn try_post(&self, path: &str, body: String) -> reqwest::Result<reqwest::Response> {
        self.shown(self.client.post(format!("{}{path}", self.base)).body(body)).send().await
    }

    /// Status and body of a GET; `None` where nobody answers within a second.
    pub async fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let request = self.client.get(format!("{}{path}", self.base)).timeout(Duration::from_secs(1));
        let reply = self.shown(request).send().await.ok()?;
        Some((reply.status().as_u16(), reply.text().await.ok()?))
    }

    /// Status and JSON of a POST.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).body(body);
        let reply = self.shown(request).send().await.unwrap();
        let status = reply.status().as_u16();
        let text = reply.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The answer to a query that is fine.
    pub async fn query(&self, query: Value) -> Value {
        let (status, answer) = self.post("/v1/query", query.to_string()).await;
        assert_eq!(status, 200, "{query}: {answer}");
        answer
    }

    /// The rows of an answer that must be complete.
    pub async fn rows(&self, query: Value) -> Vec<Vec<Value>> {
        let answer = self.query(query).await;
        assert_eq!(answer["facts"]["complete"], true, "{}", answer["facts"]);
        rows_of(&answer)
    }
}

/// Somebody else's is as good. The program's S3 client makes reqwest ask for one.
pub(crate) fn with_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client for a member at this address. Never through a proxy of the machine that runs the tests.
pub fn client(address: &str) -> reqwest::Client {
    if secured::is_secured(address) {
        return SECURED.http();
    }
    with_provider();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The rows of an answer.
pub fn rows_of(answer: &Value) -> Vec<Vec<Value>> {
    let rows = answer["rows"].as_array().expect("an answer has rows");
    rows.iter().map(|row| row.as_array().expect("a row is an array").clone()).collect()
}
