//! An issuer on a socket, whose JWKS the tests change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub(super) struct Issuer {
    pub(super) url: String,
    answer: Arc<Mutex<(StatusCode, String)>>,
    fetches: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Issuer {
    pub(super) async fn start(keys: &[Value]) -> Self {
        let answer = Arc::new(Mutex::new((StatusCode::OK, json!({ "keys": keys }).to_string())));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (served, counted) = (Arc::clone(&answer), Arc::clone(&fetches));
        let jwks = get(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(served.lock().unwrap().clone())
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            axum::serve(listener, Router::new().route("/jwks.json", jwks)).await.unwrap();
        });
        Self { url, answer, fetches, server }
    }

    pub(super) fn publish(&self, keys: &[Value]) {
        self.answers(StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    pub(super) fn answers(&self, status: StatusCode, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    /// How often the JWKS was fetched.
    pub(super) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
