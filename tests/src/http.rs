//! Asking a coordinator as a user does.

use serde_json::Value;

/// A coordinator's HTTP side.
#[derive(Clone, Debug)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

impl Http {
    /// The coordinator at this address, `host:port`.
    pub fn new(address: &str) -> Self {
        // Never through a proxy of the machine that runs the tests.
        // The program's S3 client makes reqwest ask for one; plain HTTP needs none. Somebody else's is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { base: format!("http://{address}"), client }
    }

    /// Status and body of a GET.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let reply = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    /// Status and JSON of a POST.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let reply = self.client.post(format!("{}{path}", self.base)).body(body).send().await.unwrap();
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

/// The rows of an answer.
pub fn rows_of(answer: &Value) -> Vec<Vec<Value>> {
    let rows = answer["rows"].as_array().expect("an answer has rows");
    rows.iter().map(|row| row.as_array().expect("a row is an array").clone()).collect()
}
