//! Clients that call, one call after the other, until they are stopped.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::cluster::{ACCOUNTS, ROUTE};
use crate::metered::{StreamEnd, Used};
use crate::support::http::plain_client;
use crate::support::metered::CHAT;
use crate::support::random::Random;
use crate::support::token;

/// How long a client waits for an answer; a gateway may be stopped for a while.
const PATIENCE: Duration = Duration::from_secs(40);

/// How a call ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// 200, and an answer that was whole.
    Paid,
    /// A stream that ended with an error event, because the ledger could not be asked for more credits. The client
    /// pays this number of micro-credits.
    CutShort(i64),
    /// Another status, with the code of its problem.
    Refused(u16, String),
    /// The connection was refused: nothing was asked.
    Unreachable,
    /// The connection broke, or no answer came, so the outcome is unknown.
    Broken(String),
}

/// One call of the load.
#[derive(Clone, Debug)]
pub struct Call {
    pub client: usize,
    pub gateway: usize,
    pub request_id: String,
    pub began: Instant,
    pub ended: Instant,
    pub end: End,
}

/// The kind of calls that a load makes.
#[derive(Clone, Debug)]
pub struct Shape {
    pub clients: usize,
    /// The longest time, in milliseconds, that the upstream takes for an answer.
    pub delay_ms: u64,
    /// The longest time, in milliseconds, that a client waits before its next call.
    pub pause_ms: u64,
    /// A connection for each call, so that none is closed under a call that was already sent.
    pub fresh_connections: bool,
    /// Half of the calls are priced by usage, and half of these stream.
    pub metered: bool,
}

impl Default for Shape {
    /// Some hundred calls a second: at each moment calls are in every step of their way, and the machine has time for
    /// the tests beside this one.
    fn default() -> Self {
        Self { clients: 24, delay_ms: 20, pause_ms: 80, fresh_connections: false, metered: false }
    }
}

impl Shape {
    /// One client for each account at each of two gateways, for tests that take long.
    pub fn light() -> Self {
        Self { clients: 8, ..Self::default() }
    }

    /// As many calls as the machine has time for.
    pub fn dense() -> Self {
        Self { pause_ms: 10, ..Self::default() }
    }
}

/// The gateway that a client calls. It is always the same, so that the client's calls are in one
/// order.
pub fn gateway_of(client: usize, gateways: usize) -> usize {
    client % gateways
}

/// The account that a client calls for. Each account has clients on every gateway.
pub fn account_of(client: usize, gateways: usize) -> &'static str {
    ACCOUNTS[(client / gateways) % ACCOUNTS.len()]
}

/// A running load.
pub struct Load {
    clients: Vec<JoinHandle<()>>,
    calls: Arc<Mutex<Vec<Call>>>,
    stopped: Arc<AtomicBool>,
}

impl Load {
    pub fn start(gateways: &[SocketAddr], shape: &Shape, random: &mut Random) -> Self {
        let calls = Arc::default();
        let stopped = Arc::default();
        let client = |number| {
            let gateway = gateway_of(number, gateways.len());
            let mut client = plain_client().timeout(PATIENCE);
            if shape.fresh_connections {
                client = client.pool_max_idle_per_host(0);
            }
            let client = Client {
                number,
                gateway,
                url: format!("http://{}", gateways[gateway]),
                account: account_of(number, gateways.len()),
                http: client.build().unwrap(),
                delay_ms: shape.delay_ms,
                pause_ms: shape.pause_ms,
                metered: shape.metered,
                random: random.fork(),
            };
            tokio::spawn(client.run(Arc::clone(&calls), Arc::clone(&stopped)))
        };
        let clients = (0..shape.clients).map(client).collect();
        Self { clients, calls, stopped }
    }

    /// Waits until every client has been served a call that it began after now, and returns how
    /// long that took; fails after `limit`.
    #[track_caller]
    pub fn serves_within(&self, limit: Duration) -> impl Future<Output = Duration> {
        let everybody: Vec<usize> = (0..self.clients.len()).collect();
        self.served_within(everybody, limit)
    }

    /// Like [`Self::serves_within`], for the clients of one gateway.
    #[track_caller]
    pub fn gateway_serves_within(
        &self,
        gateway: usize,
        gateways: usize,
        limit: Duration,
    ) -> impl Future<Output = Duration> {
        let its = |client: &usize| gateway_of(*client, gateways) == gateway;
        let its = (0..self.clients.len()).filter(its).collect();
        self.served_within(its, limit)
    }

    #[track_caller]
    fn served_within(
        &self,
        mut waiting: Vec<usize>,
        limit: Duration,
    ) -> impl Future<Output = Duration> {
        let caller = std::panic::Location::caller();
        let began = Instant::now();
        let calls = Arc::clone(&self.calls);
        let mut read = calls.lock().unwrap().len();
        async move {
            loop {
                let last = {
                    let calls = calls.lock().unwrap();
                    for call in &calls[read..] {
                        if call.end == End::Paid && call.began >= began {
                            waiting.retain(|client| *client != call.client);
                        }
                    }
                    read = calls.len();
                    calls.last().cloned()
                };
                if waiting.is_empty() {
                    return began.elapsed();
                }
                assert!(
                    began.elapsed() < limit,
                    "{caller}: not served after {limit:?}: clients {waiting:?}; last: {last:?}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// The calls so far.
    pub fn so_far(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits for the calls in flight, and returns all.
    pub async fn stop(self) -> Vec<Call> {
        self.stopped.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

/// The longest time after `from` in which no call ended paid.
pub fn longest_gap(calls: &[Call], from: Instant) -> Duration {
    let paid = calls.iter().filter(|call| call.end == End::Paid && call.ended > from);
    let mut ends: Vec<Instant> = paid.map(|call| call.ended).collect();
    ends.sort_unstable();
    let starts = std::iter::once(from).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| *end - start).max().unwrap_or(Duration::MAX)
}

struct Client {
    number: usize,
    gateway: usize,
    url: String,
    account: &'static str,
    http: reqwest::Client,
    delay_ms: u64,
    pause_ms: u64,
    metered: bool,
    random: Random,
}

impl Client {
    async fn run(mut self, calls: Arc<Mutex<Vec<Call>>>, stopped: Arc<AtomicBool>) {
        while !stopped.load(Ordering::Relaxed) {
            let call = self.call().await;
            let paid = matches!(call.end, End::Paid | End::CutShort(_));
            calls.lock().unwrap().push(call);
            // A refused client does not hammer.
            let least = if paid { 0 } else { 20 };
            let pause = self.random.millis(least, least.max(self.pause_ms) + 1);
            tokio::time::sleep(pause).await;
        }
    }

    async fn call(&mut self) -> Call {
        let delay = self.random.millis(0, self.delay_ms + 1).as_millis() as u64;
        let used = if self.metered { self.metered_call() } else { None };
        let request = match used {
            Some(used) => {
                used.request(&self.http, &format!("{}{CHAT}", self.url), self.account, None)
            }
            None => {
                let request = self.http.post(format!("{}{ROUTE}", self.url));
                request.bearer_auth(token(self.account)).body("{}")
            }
        };
        let request = request.header("x-client", self.number).header("x-delay-ms", delay);
        let began = Instant::now();
        let (request_id, end) = match request.send().await {
            Ok(answer) => read(answer, used).await,
            Err(error) if error.is_connect() => (String::new(), End::Unreachable),
            Err(error) => (String::new(), End::Broken(format!("{error:?}"))),
        };
        let (client, gateway) = (self.number, self.gateway);
        Call { client, gateway, request_id, began, ended: Instant::now(), end }
    }

    /// The usage of the next call, if the call is priced by usage.
    fn metered_call(&mut self) -> Option<Used> {
        let streams = match self.random.below(4) {
            0 | 1 => return None,
            kind => kind == 2,
        };
        let mut up_to = |most: usize| 1 + self.random.below(most) as u64;
        // The texts of a stream are longer than what its hold covers at first.
        let (chunks, bytes) = if streams { (up_to(6), up_to(400)) } else { (0, 0) };
        Some(Used { prompt: up_to(400), completion: up_to(1500), chunks, bytes })
    }
}

/// Reads an answer to its end. `used` is the usage that it must report, if its price depends on
/// usage.
async fn read(answer: reqwest::Response, used: Option<Used>) -> (String, End) {
    let status = answer.status().as_u16();
    let id = answer.headers().get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
    let id = id.unwrap_or_default();
    let told = answer.headers().get("x-credits-cost").map(|cost| cost.to_str().unwrap().to_owned());
    match answer.text().await {
        Err(error) => (id, End::Broken(format!("{error:?}"))),
        Ok(text) if status == 200 && used.is_some_and(|used| used.chunks > 0) => {
            let end = match StreamEnd::of(&text) {
                StreamEnd::Whole => End::Paid,
                StreamEnd::CutShort { text_bytes, why } if why == "LEDGER_UNAVAILABLE" => {
                    End::CutShort(crate::metered::estimate(text_bytes))
                }
                _ => End::Broken(text),
            };
            (id, end)
        }
        Ok(_) if status == 200 && used.is_some() => {
            let told = told.map(|told| crate::metered::micros(&told.parse().unwrap()));
            assert_eq!(told, used.map(Used::micros), "{id}");
            (id, End::Paid)
        }
        Ok(_) if status == 200 => (id, End::Paid),
        Ok(text) => {
            let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let code = problem["code"].as_str().unwrap_or(&text).to_owned();
            (id, End::Refused(status, code))
        }
    }
}
