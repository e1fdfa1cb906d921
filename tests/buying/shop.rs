//! A seller: `farebox serve` in a process of its own, an upstream, and a Stripe account.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::{Backend, Place};
use crate::http::Answer;
use crate::process::{Process, config_on_ports};
use crate::support::packs::TWO_PACKS;
pub use crate::support::stripe::WEBHOOK_SECRET;
use crate::support::stripe::event::{Event, VERSION};
use crate::support::stripe::{SECRET_KEY, Stripe};
use crate::support::{Upstream, eventually, token};

/// The price of pack-500, in cents.
pub const PRICE: i64 = 7900;

pub struct Shop {
    pub stripe: Stripe,
    pub upstream: Upstream,
    pub folder: TempDir,
    /// gateway.toml.
    pub text: String,
    pub gateway: Process,
    // Ends after the gateway.
    pub place: Place,
}

/// A gateway.toml with packs and `[stripe]`, which also has `lines`. Its ledger is the embedded
/// one; [`Shop::open_on`] puts another in its place.
pub fn config(upstream: &Upstream, stripe: &Stripe, lines: &str) -> String {
    let more = [TWO_PACKS, &stripe.section(lines)].concat();
    config_on_ports(upstream.address, &more)
}

impl Shop {
    pub async fn open(backend: Backend) -> Self {
        Self::open_with(backend, "").await
    }

    /// Opens a shop with more lines in `[stripe]`, which tables may follow.
    pub async fn open_with(backend: Backend, lines: &str) -> Self {
        Self::open_at(backend, Stripe::start().await, lines).await
    }

    /// Opens a shop with this Stripe account and a new ledger.
    pub async fn open_at(backend: Backend, stripe: Stripe, lines: &str) -> Self {
        let upstream = Upstream::canned().await;
        let text = config(&upstream, &stripe, lines);
        Self::open_on(backend, stripe, upstream, text)
    }

    /// Opens a shop with a gateway.toml that [`config`] has made.
    pub fn open_on(backend: Backend, stripe: Stripe, upstream: Upstream, text: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(backend);
        let text = text.replace(&Place::Embedded.lines(), &place.lines());
        let gateway = serve(&folder, &text);
        Self { stripe, upstream, folder, text, gateway, place }
    }

    /// From here on the ledger can write nothing.
    pub fn fail_writes(&self) {
        self.place.fail(&self.gateway);
    }

    /// The disk can be written again, a moment later.
    pub fn mend_writes(&self) {
        self.place.mend(&self.gateway);
    }

    /// Copies the ledger, and returns the copy's name.
    pub fn back_up(&self) -> String {
        self.place.back_up(self.folder.path())
    }

    /// kill -9, and a new start on a copy of the ledger. Everything that is not in the copy is
    /// lost.
    pub fn crash_back_to(&mut self, copy: &str) {
        self.gateway.kill();
        let before = self.place.lines();
        self.place.restore(self.folder.path(), copy);
        self.text = self.text.replace(&before, &self.place.lines());
        self.restart();
    }

    /// kill -9, and a new start.
    pub fn crash(&mut self) {
        self.gateway.kill();
        self.restart();
    }

    /// Like [`Self::crash`], but Redis also loses its memory.
    pub fn crash_and_forget(&mut self) {
        self.gateway.kill();
        self.place.forget();
        self.restart();
    }

    /// A new start, after the end.
    pub fn restart(&mut self) {
        self.gateway = serve(&self.folder, &self.text);
    }

    /// `POST /credits/buy` by `account`.
    pub async fn try_buy(&self, account: &str, pack: &str) -> Answer {
        let request = self.gateway.client.post(self.gateway.url("/credits/buy"));
        let request =
            request.bearer_auth(token(account)).header("content-type", "application/json");
        Answer::of(request.body(json!({ "pack": pack }).to_string())).await
    }

    /// Buys a pack as far as Stripe's page, and returns the session's id.
    pub async fn buy(&self, account: &str, pack: &str) -> String {
        let bought = self.try_buy(account, pack).await.expect(200);
        bought["session_id"].as_str().unwrap().to_owned()
    }

    /// Buys and pays pack-500, waits for its credits, and returns the session's id.
    pub async fn bought(&self, account: &str) -> String {
        let before = self.balance(account).await;
        let session = self.buy(account, "pack-500").await;
        self.deliver_all(&self.stripe.pay(&session)).await;
        self.expect_balance(account, before + 500).await;
        session
    }

    /// Sends bytes with this signature to the webhook.
    pub async fn send(&self, body: &str, signature: &str) -> Answer {
        let request = self.gateway.client.post(self.gateway.url("/webhooks/stripe"));
        let request = request.header("stripe-signature", signature);
        let request = request.header("content-type", "application/json; charset=utf-8");
        Answer::of(request.body(body.to_owned())).await
    }

    /// Sends an event as Stripe would, once.
    pub async fn deliver(&self, event: &Event) -> Answer {
        self.deliver_as(event, VERSION).await
    }

    /// Stripe's request for an event, to an endpoint of this API version.
    pub fn request(&self, event: &Event, version: &str) -> reqwest::RequestBuilder {
        event.request(&self.gateway.client, self.gateway.url("/webhooks/stripe"), version)
    }

    /// Sends an event once, written for an endpoint of this API version.
    pub async fn deliver_as(&self, event: &Event, version: &str) -> Answer {
        Answer::of(self.request(event, version)).await
    }

    /// Whether an event sent once is answered with 200: the gateway may be killed meanwhile.
    pub async fn takes(&self, event: &Event, version: &str) -> bool {
        let sent = self.request(event, version).send().await;
        sent.is_ok_and(|answer| answer.status() == 200)
    }

    /// Sends events in their order; each must be taken.
    pub async fn deliver_all<'a>(&self, events: impl IntoIterator<Item = &'a Event>) {
        for event in events {
            let answer = self.deliver(event).await;
            assert_eq!(answer.status, 200, "{}: {}", event.kind, answer.text);
        }
    }

    /// The balance in whole credits; 0 for an account that is not there.
    pub async fn balance(&self, account: &str) -> i64 {
        let shown = self.shown(account).await;
        balance_in(&shown).unwrap_or_else(|| panic!("{account}: {} {}", shown.status, shown.text))
    }

    async fn shown(&self, account: &str) -> Answer {
        self.gateway.admin(Method::GET, &format!("/admin/accounts/{account}"), "").await
    }

    /// Waits until the balance is `expected`. A stored event may be applied a moment later, and a
    /// ledger that was away may need a moment to return.
    #[track_caller]
    pub fn expect_balance(&self, account: &str, expected: i64) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut last = None;
            let reached = eventually(async || {
                last = balance_in(&self.shown(account).await);
                last == Some(expected)
            });
            if !reached.await {
                let lines = self.kinds(account).await;
                panic!("{caller}: {account} has {last:?}, not {expected}: {lines:?}");
            }
        }
    }

    /// The account's lines, oldest first: what kind, and how many credits.
    pub async fn kinds(&self, account: &str) -> Vec<(String, f64)> {
        let lines = self.gateway.transactions(account).await;
        let short = |line: &Value| {
            (line["kind"].as_str().unwrap().to_owned(), line["amount"].as_f64().unwrap())
        };
        lines.iter().rev().map(short).collect()
    }

    /// Like [`Self::kinds`]; empty for an account that does not exist.
    pub async fn kinds_or_none(&self, account: &str) -> Vec<(String, f64)> {
        let path = format!("/admin/accounts/{account}");
        if self.gateway.admin(Method::GET, &path, "").await.status == 404 {
            return Vec::new();
        }
        self.kinds(account).await
    }

    /// The lines that Stripe caused must be these, once it has quieted down.
    #[track_caller]
    pub fn expect_lines(
        &self,
        account: &str,
        expected: &[(&str, f64)],
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let expected: Vec<_> = expected.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        async move {
            let total: f64 = expected.iter().map(|(_, credits)| credits).sum();
            self.expect_balance(account, total as i64).await;
            assert_eq!(self.kinds(account).await, expected, "{caller}");
        }
    }

    /// A call on the priced route: 5 credits.
    pub async fn call(&self, account: &str) -> Answer {
        self.gateway.post(account, "/api/ai/generate").await
    }

    /// `/metrics`: the value of a series, 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let found = self.metrics(series).await;
        found.into_iter().filter(|(name, _)| name == series).map(|(_, value)| value).sum()
    }

    /// Every series whose name begins so.
    pub async fn metrics(&self, prefix: &str) -> Vec<(String, f64)> {
        let url = format!("http://{}/metrics", self.gateway.admin);
        let text = self.gateway.client.get(url).send().await.unwrap().text().await.unwrap();
        let series = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        text.lines().filter(|line| line.starts_with(prefix)).map(series).collect()
    }

    /// Expects that the ledger's invariants hold, that the gateway stops when it is asked to, and
    /// that its output has no secret in it.
    pub async fn close(mut self) {
        self.gateway.assert_reconciled().await;
        assert!(self.gateway.terminate().success());
        self.gateway.wait_for_logs();
        let said = self.gateway.stdout() + &self.gateway.stderr();
        for secret in [SECRET_KEY, WEBHOOK_SECRET] {
            assert!(!said.contains(secret), "a secret was logged: {said}");
        }
    }
}

/// The whole credits of an account; `None` if the answer does not tell them.
fn balance_in(shown: &Answer) -> Option<i64> {
    match shown.status.as_u16() {
        200 => shown.json()["balance"].as_i64(),
        404 => Some(0),
        _ => None,
    }
}

/// Runs a command that must end by itself. Returns its exit code and its output. A command that
/// goes on is killed.
pub fn ends(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    let mut ended = child.try_wait().unwrap();
    while ended.is_none() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(10));
        ended = child.try_wait().unwrap();
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (ended.and_then(|ended| ended.code()), said)
}

fn serve(folder: &TempDir, text: &str) -> Process {
    Process::serve_with(folder.path(), text, &["--log-format", "json"])
}
