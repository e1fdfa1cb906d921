//! A stand-in for the part of Stripe that Farebox uses, on a socket. It has an API as strict as
//! Stripe's own, actions of buyers and banks, and the events that follow from them. It can be slow,
//! fail and break off.

pub mod books;
pub mod buyer;
pub mod event;
mod form;
mod operations;
mod reply;
pub mod rules;
pub mod signature;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use http::HeaderMap;
use serde_json::Value;

use books::Books;
use buyer::Payment;
use event::Event;
use reply::Reply;

/// The secret key that this Stripe accepts.
pub const SECRET_KEY: &str = "sk_test_theKeyOfTheTests";

/// The secret with which this Stripe signs events.
pub const WEBHOOK_SECRET: &str = "whsec_theSecretOfTheTests";

/// A request that Stripe received.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// The form or query, decoded into nested JSON. Every value is a text.
    pub parameters: Value,
    /// The form or query before it was decoded.
    pub form: String,
    pub headers: HeaderMap,
    /// The status of the answer; 0 if the connection was cut before it.
    pub status: u16,
    /// The answer's body.
    pub answer: Value,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A fault that happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The answer comes after this time.
    Slow(Duration),
    /// The answer has this status and Stripe's error body. 402 is a declined card.
    Status(u16),
    /// The answer breaks off, and the request had no effect.
    CutBefore,
    /// The answer breaks off, and the request had its effect.
    CutAfter,
    /// The answer is an HTML page that is not Stripe's, such as a proxy's.
    Page,
}

/// A Stripe with one account.
#[derive(Clone, Debug)]
pub struct Stripe {
    pub address: SocketAddr,
    state: Arc<Mutex<Account>>,
}

#[derive(Debug, Default)]
struct Account {
    books: Books,
    asked: Vec<Asked>,
    /// The first answer to each idempotency key, with the request that got it.
    answers: HashMap<String, (String, Reply)>,
    /// The faults, each with the beginning of the paths that it affects and the number of requests
    /// left.
    faults: Vec<(String, Fault, usize)>,
}

impl Stripe {
    /// Serves until the runtime ends.
    pub async fn start() -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::new(Mutex::new(Account::default()));
        let router = Router::new().fallback(serve).with_state(state.clone());
        tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        Self { address, state }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.state.lock().unwrap()
    }

    /// The address for `[stripe] api_base`.
    pub fn api_base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The table `[stripe]` of gateway.toml for a seller who sells through this Stripe, with more
    /// `lines` in it. If `lines` have a `webhook_secret`, it takes the place of the usual one.
    pub fn section(&self, lines: &str) -> String {
        let base = self.api_base();
        let secret = if lines.contains("webhook_secret") {
            String::new()
        } else {
            format!("webhook_secret = \"{WEBHOOK_SECRET}\"")
        };
        format!(
            r#"
[stripe]
secret_key = "{SECRET_KEY}"
{secret}
api_base = "{base}"
success_url = "https://app.example.com/credits?paid=1"
cancel_url = "https://app.example.com/credits"
{lines}
"#
        )
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// The requests with this method and path.
    pub fn asked_for(&self, method: &str, path: &str) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.method == method && asked.path == path);
        asked
    }

    /// Makes requests whose path begins with `path` fail, until `heal`.
    pub fn fail(&self, path: &str, fault: Fault) {
        self.fail_next(path, fault, usize::MAX);
    }

    /// Makes the next `times` requests whose path begins with `path` fail.
    pub fn fail_next(&self, path: &str, fault: Fault, times: usize) {
        self.lock().faults.push((path.to_owned(), fault, times));
    }

    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// An object by its id, in its present state.
    #[track_caller]
    pub fn get(&self, id: &str) -> Value {
        self.lock().books.get(id)
    }

    /// All objects of a kind, newest first.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        self.lock().books.all(kind).cloned().collect()
    }

    /// The line items of a session.
    pub fn line_items(&self, session: &str) -> Vec<Value> {
        self.lock().books.line_items[session].clone()
    }

    /// Changes an object, such as its `created`, without an event.
    pub fn change(&self, id: &str, changes: Value) {
        let mut account = self.lock();
        let mut object = account.books.get(id);
        books::change(&mut object, changes);
        account.books.put(object);
    }

    /// Sends a request as another program with the same account would.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, form: &str) -> Value {
        let parameters = form::decode(form).unwrap();
        let reply = operations::answer(&mut self.lock().books, method, path, &parameters);
        reply.unwrap_or_else(|refused| panic!("{method} {path}: {}", refused.body)).body
    }

    /// The buyer pays by card, which is paid at once.
    pub fn pay(&self, session: &str) -> Vec<Event> {
        self.pay_with(session, Payment::default())
    }

    /// The buyer pays by a debit or transfer: the session completes unpaid. Call `settle`
    /// afterwards.
    pub fn pay_later(&self, session: &str) -> Vec<Event> {
        self.pay_with(session, Payment { later: true, ..Payment::default() })
    }

    pub fn pay_with(&self, session: &str, payment: Payment) -> Vec<Event> {
        buyer::pay(&mut self.lock().books, session, payment)
    }

    /// A debit or transfer that was under way succeeds or fails.
    pub fn settle(&self, session: &str, success: bool) -> Vec<Event> {
        buyer::settle(&mut self.lock().books, session, success)
    }

    pub fn expire(&self, session: &str) -> Vec<Event> {
        buyer::expire(&mut self.lock().books, session)
    }

    /// The charge of a session that was paid.
    pub fn charge_of(&self, session: &str) -> Value {
        buyer::charge_of(&self.lock().books, session)
    }

    /// Refunds `amount` of a session's payment. Returns the refund's id and the events:
    /// refund.created, charge.refunded, refund.updated.
    pub fn refund(&self, session: &str, amount: i64) -> (String, Vec<Event>) {
        let mut account = self.lock();
        let charge = buyer::charge_of(&account.books, session);
        let (refund, events) = buyer::refund_charge(&mut account.books, charge, amount);
        (refund["id"].as_str().unwrap().to_owned(), events)
    }

    /// The bank returns a refund.
    pub fn fail_refund(&self, refund: &str) -> Vec<Event> {
        buyer::fail_refund(&mut self.lock().books, refund)
    }

    /// The bank takes `amount` back. Returns the dispute's id and the events:
    /// charge.dispute.created and funds_withdrawn.
    pub fn dispute(&self, session: &str, amount: i64) -> (String, Vec<Event>) {
        let (dispute, events) = buyer::dispute(&mut self.lock().books, session, amount, false);
        (dispute["id"].as_str().unwrap().to_owned(), events)
    }

    /// The bank inquires about a payment; no money moves.
    pub fn inquire(&self, session: &str, amount: i64) -> (String, Vec<Event>) {
        let (dispute, events) = buyer::dispute(&mut self.lock().books, session, amount, true);
        (dispute["id"].as_str().unwrap().to_owned(), events)
    }

    /// The seller wins a dispute: charge.dispute.closed and funds_reinstated.
    pub fn win(&self, dispute: &str) -> Vec<Event> {
        buyer::close(&mut self.lock().books, dispute, "won")
    }

    /// The seller loses a dispute: charge.dispute.closed.
    pub fn lose(&self, dispute: &str) -> Vec<Event> {
        buyer::close(&mut self.lock().books, dispute, "lost")
    }

    /// The seller loses a dispute but gets `amount` of it back: charge.dispute.closed, and
    /// funds_reinstated.
    pub fn win_part(&self, dispute: &str, amount: i64) -> Vec<Event> {
        buyer::win_part(&mut self.lock().books, dispute, amount)
    }

    /// The bank closes an inquiry: charge.dispute.closed.
    pub fn close_inquiry(&self, dispute: &str) -> Vec<Event> {
        buyer::close(&mut self.lock().books, dispute, "warning_closed")
    }

    /// An event of any type about any object.
    pub fn event(&self, kind: &str, object: Value) -> Event {
        event::of(&mut self.lock().books, kind, object)
    }
}

async fn serve(State(state): State<Arc<Mutex<Account>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let path = head.uri.path().to_owned();
    let get = head.method == http::Method::GET;
    let form = if get { head.uri.query().unwrap_or_default().as_bytes() } else { &body };
    let form = String::from_utf8_lossy(form).into_owned();
    let mut asked = Asked {
        method: head.method.to_string(),
        path,
        parameters: Value::Null,
        form,
        headers: head.headers,
        status: 0,
        answer: Value::Null,
    };
    let fault = state.lock().unwrap().fault(&asked.path);
    if let Some(Fault::Slow(time)) = fault {
        tokio::time::sleep(time).await;
    }
    let mut account = state.lock().unwrap();
    let reply = match fault {
        Some(Fault::Status(status)) => Some(account.keep(&asked, Reply::failure(status))),
        Some(Fault::CutBefore | Fault::Page) => None,
        _ => Some(account.answer(&mut asked)),
    };
    if let Some(reply) = &reply {
        asked.status = reply.status;
        asked.answer = reply.body.clone();
    }
    account.asked.push(asked);
    match (fault, reply) {
        (Some(Fault::CutAfter), _) => cut(),
        (Some(Fault::Page), _) => (http::StatusCode::OK, "<html>Hello</html>").into_response(),
        (_, Some(reply)) => reply.into_response(),
        (_, None) => cut(),
    }
}

/// An answer in whose middle the connection ends.
fn cut() -> Response {
    let broken =
        futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    Response::builder().header("content-length", "100").body(Body::from_stream(broken)).unwrap()
}

impl Account {
    fn fault(&mut self, path: &str) -> Option<Fault> {
        let meets = |(prefix, _, left): &&mut (String, Fault, usize)| {
            path.starts_with(prefix.as_str()) && *left > 0
        };
        let (_, fault, left) = self.faults.iter_mut().find(meets)?;
        *left = left.saturating_sub(1);
        Some(*fault)
    }

    fn answer(&mut self, asked: &mut Asked) -> Reply {
        if !authenticated(&asked.headers) {
            return Reply::failure(401);
        }
        let form = "application/x-www-form-urlencoded";
        let is_form = asked.header("content-type").is_some_and(|kind| kind.starts_with(form));
        if asked.method == "POST" && !asked.form.is_empty() && !is_form {
            let message = format!("Invalid request (is its content type {form}?)");
            return Reply::invalid(&message, "");
        }
        asked.parameters = match form::decode(&asked.form) {
            Ok(parameters) => parameters,
            Err(message) => return Reply::invalid(&message, ""),
        };
        if let Some(kept) = self.kept(asked) {
            return kept;
        }
        match operations::answer(&mut self.books, &asked.method, &asked.path, &asked.parameters) {
            Ok(reply) => self.keep(asked, reply),
            // A request that was refused before it had an effect is not stored, so its key can be
            // used again.
            Err(refused) => refused,
        }
    }

    /// The earlier answer to this request's idempotency key.
    fn kept(&self, asked: &Asked) -> Option<Reply> {
        let key = asked.header("idempotency-key").filter(|_| asked.method == "POST")?;
        if key.len() > 255 {
            return Some(Reply::invalid("Idempotency keys have at most 255 characters", ""));
        }
        let (before, reply) = self.answers.get(key)?;
        if *before == said(asked) {
            return Some(Reply { replayed: true, ..reply.clone() });
        }
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were \
             first used with. Try using a key other than '{key}' if you meant to execute a \
             different request."
        );
        let mut refused = Reply::invalid(&message, "");
        refused.body["error"]["type"] = "idempotency_error".into();
        Some(refused)
    }

    /// Stores an answer under its idempotency key. Stripe stores failures too.
    fn keep(&mut self, asked: &Asked, reply: Reply) -> Reply {
        let limited = reply.status == 429 || reply.status == 401;
        if let Some(key) = asked.header("idempotency-key").filter(|_| !limited) {
            self.answers.entry(key.to_owned()).or_insert((said(asked), reply.clone()));
        }
        reply
    }
}

/// The parts in which two requests with the same idempotency key must agree.
fn said(asked: &Asked) -> String {
    format!("{} {} {}", asked.method, asked.path, asked.form)
}

/// Whether the request has the secret key, as `Bearer` or as the user name of `Basic`.
fn authenticated(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get("authorization").and_then(|value| value.to_str().ok()) else {
        return false;
    };
    if let Some(encoded) = given.strip_prefix("Basic ") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
        return decoded == format!("{SECRET_KEY}:").into_bytes();
    }
    given.strip_prefix("Bearer ") == Some(SECRET_KEY)
}
