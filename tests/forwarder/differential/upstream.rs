//! The upstream of a lane: it does what the exchange's plans say, and notes all that it was sent.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::exchange::{Plan, Then};
use crate::support::message::{Framing, Head, Reader, Stop, write};
use crate::support::random::Random;

/// How long the upstream waits for the rest of a request.
const PATIENCE: Duration = Duration::from_secs(8);

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Whether earlier requests were served on its connection.
    pub is_reused: bool,
    pub head: Head,
    pub framing: Framing,
    pub body: Vec<u8>,
    /// How its body ended.
    pub end: Result<(), Stop>,
    /// The upstream has nothing more to do with it.
    is_done: bool,
}

#[derive(Debug, Default)]
struct State {
    plans: HashMap<String, Arc<Plan>>,
    arrivals: HashMap<String, Vec<Arrival>>,
    faults: Vec<String>,
    /// The ids of all requests.
    ids: HashSet<String>,
}

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Changes when all connections must go. Each of them listens, so their number is known.
    epoch: Arc<watch::Sender<u64>>,
}

impl Upstream {
    /// Starts the upstream. If `wild` is given, its answers go out in pieces of random sizes.
    pub async fn start(wild: Option<Random>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let upstream =
            Self { address, state: Arc::default(), epoch: Arc::new(watch::channel(0).0) };
        let serving = upstream.clone();
        tokio::spawn(async move {
            let mut wild = wild;
            while let Ok((stream, _)) = socket.accept().await {
                let random = wild.as_mut().map(Random::fork);
                tokio::spawn(serving.clone().serve(stream, random));
            }
        });
        upstream
    }

    /// Takes the plans of an exchange. No connection of an earlier one is kept.
    pub async fn expect(&self, plans: &[Plan]) {
        self.epoch.send_modify(|epoch| *epoch += 1);
        if !self.epoch.is_closed() {
            let closed = tokio::time::timeout(PATIENCE, self.epoch.closed());
            closed.await.expect("connections of the exchange before stay open");
            // A busy kernel takes a moment to tell the other end.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let mut state = self.state.lock().unwrap();
        state.arrivals.clear();
        state.plans =
            plans.iter().map(|plan| (plan.nonce.clone(), Arc::new(plan.clone()))).collect();
    }

    /// The requests of a plan, as they arrived.
    pub fn seen(&self, nonce: &str) -> Vec<Arrival> {
        self.state.lock().unwrap().arrivals.get(nonce).cloned().unwrap_or_default()
    }

    /// Mistakes in the requests that it was sent, which no gateway may make.
    pub fn faults(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().faults)
    }

    /// Waits until the upstream is done with a plan; if nothing of it arrives, for `without`.
    pub async fn done(&self, nonce: &str, without: Duration) {
        let started = Instant::now();
        loop {
            let seen = self.seen(nonce);
            let is_over = !seen.is_empty() && seen.iter().all(|arrival| arrival.is_done);
            let limit = if seen.is_empty() { without } else { 2 * PATIENCE };
            if is_over || started.elapsed() > limit {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn note(&self, nonce: &str, place: usize, change: impl FnOnce(&mut Arrival)) {
        let mut state = self.state.lock().unwrap();
        // The exchange may be over, and another one begun.
        if let Some(arrival) = state.arrivals.get_mut(nonce).and_then(|all| all.get_mut(place)) {
            change(arrival);
        }
    }

    async fn serve(self, stream: TcpStream, wild: Option<Random>) {
        let mut epoch = self.epoch.subscribe();
        tokio::select! {
            () = self.connection(stream, wild) => {}
            _ = epoch.changed() => {}
        }
    }

    async fn connection(&self, stream: TcpStream, wild: Option<Random>) {
        stream.set_nodelay(true).unwrap();
        let (from, to) = stream.into_split();
        let mut connection =
            Connection { from: Reader::new(from, Duration::from_secs(60)), to, wild };
        let mut served = 0;
        loop {
            let head = match connection.from.head().await {
                Ok(head) => head,
                Err(stop) => {
                    if let Stop::Malformed(why) = stop {
                        self.state.lock().unwrap().faults.push(why);
                    }
                    return;
                }
            };
            let Some((plan, place)) = self.arrived(&head, served > 0) else { return };
            served += 1;
            let is_kept = connection.one(self, &head, &plan, place).await;
            if is_kept {
                self.note(&plan.nonce, place, |arrival| arrival.is_done = true);
                continue;
            }
            drop(connection);
            self.note(&plan.nonce, place, |arrival| arrival.is_done = true);
            return;
        }
    }

    /// Notes a request, and finds its plan.
    fn arrived(&self, head: &Head, is_reused: bool) -> Option<(Arc<Plan>, usize)> {
        let mut state = self.state.lock().unwrap();
        let nonce = head.one("x-nonce").unwrap_or_default();
        let framing = head.request().and_then(|_| head.request_framing());
        let plan = state.plans.get(nonce).cloned();
        let (Ok(framing), Some(plan)) = (framing, plan) else {
            state.faults.push(format!("no request of this exchange: {head:?}"));
            return None;
        };
        if let Some(id) = head.one("x-request-id").filter(|id| *id != "mine")
            && !state.ids.insert(id.to_owned())
        {
            state.faults.push(format!("two requests with one id: {head:?}"));
        }
        let all = state.arrivals.entry(nonce.to_owned()).or_default();
        all.push(Arrival {
            is_reused,
            head: head.clone(),
            framing,
            body: Vec::new(),
            end: Err(Stop::Silent),
            is_done: false,
        });
        Some((plan, all.len() - 1))
    }
}

struct Connection {
    from: Reader<OwnedReadHalf>,
    to: OwnedWriteHalf,
    wild: Option<Random>,
}

impl Connection {
    /// Serves a request; false if the connection ends with it.
    async fn one(&mut self, upstream: &Upstream, head: &Head, plan: &Plan, place: usize) -> bool {
        let answer = &plan.answer;
        if answer.is_early && !self.answer(plan).await {
            return false;
        }
        if !answer.is_early && !head.all("expect").is_empty() {
            let asks = self.to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            if asks.is_err() {
                return false;
            }
        }
        let mut body = Vec::new();
        let framing = head.request_framing().unwrap();
        let end = tokio::time::timeout(PATIENCE, self.from.body(framing, &mut body)).await;
        let end = end.unwrap_or(Err(Stop::Silent));
        let is_whole = end.is_ok();
        upstream.note(&plan.nonce, place, |arrival| {
            (arrival.body, arrival.end) = (body, end);
        });
        if !is_whole || !answer.is_early && !self.answer(plan).await {
            return false;
        }
        if answer.is_tunnel {
            let mut sent = Vec::new();
            let length = Framing::Length(plan.nonce.len());
            let _ = self.from.body(length, &mut sent).await;
            let _ = self.to.write_all(&sent).await;
        }
        let ends_with_connection = answer.framing == Framing::UntilClose
            && plan.request.method != "HEAD"
            && !matches!(answer.status, 204 | 304);
        !ends_with_connection && matches!(answer.then, Then::Keeps | Then::SaysMore)
    }

    async fn answer(&mut self, plan: &Plan) -> bool {
        let mut bytes = Vec::new();
        for status in &plan.answer.interim {
            bytes.extend(format!("HTTP/1.1 {status} Interim\r\nx-interim: yes\r\n\r\n").bytes());
        }
        bytes.extend(plan.answer_bytes());
        if plan.answer.then == Then::SaysMore {
            // Any gateway would take bytes that came after the next request for the answer to it.
            return self.to.write_all(&bytes).await.is_ok();
        }
        write(&mut self.to, &bytes, &mut self.wild).await
    }
}
