//! Calls that are priced by usage, through the gateways of a cluster. Each costs what its upstream's report of usage
//! says, and the ledger that all gateways share is exact to the micro-credit.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::kills::GIVEN_UP_WITHIN;
use crate::load::{Call, End};
use crate::support::ai::{chat, chat_events, chat_usage, event};
use crate::support::metered::{CHAT, INPUT, OUTPUT};
use crate::support::random::Random;
use crate::support::token;

in_both_modes!(
    the_last_credits_are_spent_once_where_each_call_has_a_price_of_its_own,
    what_a_call_does_not_use_is_there_for_the_next_one,
);

/// The bytes of each request, and the tokens of input that are held for them.
const BODY_BYTES: usize = 400;
const INPUT_TOKENS: u64 = BODY_BYTES as u64 / 2;

/// The usage that an answer must report, and the text that a stream must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub prompt: u64,
    pub completion: u64,
    /// The events with text of a stream; 0 for an answer that does not stream.
    pub chunks: u64,
    /// The bytes of text in each of them.
    pub bytes: u64,
}

/// The names of the headers that tell the upstream.
const HEADERS: [&str; 4] = ["x-prompt", "x-completion", "x-chunks", "x-bytes"];

impl Used {
    /// Reads the usage from the numbers in the request's headers.
    pub fn of(number: impl Fn(&str) -> Option<u64>) -> Self {
        let [prompt, completion, chunks, bytes] = HEADERS.map(|name| number(name).unwrap());
        Self { prompt, completion, chunks, bytes }
    }

    /// `POST url` with a body of [`BODY_BYTES`]. If `limit` is true, the body limits the output.
    pub fn request(
        self,
        client: &reqwest::Client,
        url: &str,
        account: &str,
        limit: Option<u64>,
    ) -> reqwest::RequestBuilder {
        let mut request = client.post(url).bearer_auth(token(account));
        for (name, value) in
            HEADERS.iter().zip([self.prompt, self.completion, self.chunks, self.bytes])
        {
            request = request.header(*name, value);
        }
        let body = |text: &str| {
            let message = json!({ "role": "user", "content": text });
            let mut body =
                json!({ "model": "m", "messages": [message], "stream": self.chunks > 0 });
            if let Some(limit) = limit {
                body["max_tokens"] = limit.into();
            }
            body.to_string()
        };
        let text = "x".repeat(BODY_BYTES - body("").len());
        request.header("content-type", "application/json").body(body(&text))
    }

    /// The price of this usage, in micro-credits.
    pub fn micros(self) -> i64 {
        INPUT * self.prompt as i64 + OUTPUT * self.completion as i64
    }

    /// The usage, as a ledger entry has it.
    pub fn entry(self) -> Value {
        json!({ "input": self.prompt, "output": self.completion })
    }

    /// The answer that does not stream.
    pub fn answer(self) -> Value {
        chat("fine", &chat_usage(self.prompt, self.completion))
    }

    /// The events of the answer that streams.
    pub fn events(self) -> Vec<String> {
        let text = "Q".repeat(self.bytes as usize);
        let texts: Vec<&str> = (0..self.chunks).map(|_| text.as_str()).collect();
        chat_events(&texts, &chat_usage(self.prompt, self.completion))
    }
}

/// The price of a stream that ended before its usage, after this number of bytes of text.
pub fn estimate(text_bytes: u64) -> i64 {
    INPUT * INPUT_TOKENS as i64 + OUTPUT * text_bytes.div_ceil(2) as i64
}

/// The end of a stream for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The stream's last event came.
    Whole,
    /// An error event came in the middle, after this number of bytes of text.
    CutShort { text_bytes: u64, why: String },
    /// The stream ended without either.
    Broken,
}

impl StreamEnd {
    pub fn of(text: &str) -> Self {
        let text_bytes = text.bytes().filter(|byte| *byte == b'Q').count() as u64;
        if text.ends_with("data: [DONE]\n\n") {
            return Self::Whole;
        }
        let last = text.trim_end().rsplit("data: ").next().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_default();
        match error["error"]["code"].as_str() {
            Some(code) => Self::CutShort { text_bytes, why: code.to_owned() },
            None => Self::Broken,
        }
    }
}

/// A number of credits in JSON, in micro-credits.
pub fn micros(credits: &Value) -> i64 {
    let credits: farebox::credits::SignedCredits = credits.to_string().parse().unwrap();
    credits.micros()
}

/// The outcome of one call of a rush: its cost and its gateway if it was served, else the credits
/// that it needed.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Charged { cost: i64, is_cut: bool },
    Refused { needed: i64 },
}

/// Makes all of these calls at once, spread over the gateways. Returns the outcomes by request id.
async fn rush(cluster: &Cluster, account: &str, calls: &[(Used, u64)]) -> HashMap<String, Outcome> {
    let calls = calls.iter().enumerate().map(|(number, (used, limit))| {
        let gateway = cluster.gateway(number % cluster.members.len());
        let request = used.request(&gateway.client, &gateway.url(CHAT), account, Some(*limit));
        let (used, limit) = (*used, *limit);
        tokio::spawn(async move {
            let answer = request.send().await.unwrap();
            let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
            let cost = answer.headers().get("x-credits-cost").cloned();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            let outcome = match (status, used.chunks) {
                (402, _) => {
                    let problem: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(problem["code"], "INSUFFICIENT_CREDITS", "{problem}");
                    // If no credits are left at all, the refusal does not wait for the body, so it names no price.
                    let required = Some(&problem["required"]).filter(|needed| !needed.is_null());
                    Outcome::Refused { needed: required.map_or(estimate(2 * limit), micros) }
                }
                (200, 0) => {
                    let told = cost.unwrap().to_str().unwrap().parse::<farebox::credits::Credits>();
                    assert_eq!(told.unwrap().micros() as i64, used.micros(), "{id}");
                    Outcome::Charged { cost: used.micros(), is_cut: false }
                }
                (200, _) => match StreamEnd::of(&text) {
                    StreamEnd::Whole => Outcome::Charged { cost: used.micros(), is_cut: false },
                    StreamEnd::CutShort { text_bytes, why } => {
                        assert_eq!(why, "INSUFFICIENT_CREDITS", "{text}");
                        Outcome::Charged { cost: estimate(text_bytes), is_cut: true }
                    }
                    StreamEnd::Broken => panic!("a stream broke: {text}"),
                },
                _ => panic!("{status} {text}"),
            };
            (id, outcome)
        })
    });
    let mut outcomes = HashMap::new();
    for call in calls.collect::<Vec<_>>() {
        let (id, outcome) = call.await.unwrap();
        assert!(outcomes.insert(id, outcome).is_none());
    }
    outcomes
}

/// Compares a rush with the upstream's log and with every gateway's entries. Returns the credits that are left, in
/// micro-credits.
async fn settled(
    cluster: &Cluster,
    account: &str,
    granted: i64,
    outcomes: &HashMap<String, Outcome>,
) -> i64 {
    let served = cluster.upstream.served();
    let served = served.iter().filter(|call| call.account == account).count();
    let charged =
        outcomes.values().filter(|outcome| matches!(outcome, Outcome::Charged { .. })).count();
    assert_eq!(served, charged, "a call that was refused reached no upstream");
    let at_rest = async || {
        let shown = cluster.gateway(0).account(account).await;
        shown["held"] == 0 && cluster.gateway(0).transactions(account).await.len() > charged
    };
    assert!(
        crate::support::eventually(at_rest).await,
        "{}",
        cluster.gateway(0).account(account).await
    );
    let mut left = Vec::new();
    for member in &cluster.members {
        let lines = member.process.transactions(account).await;
        let mut sum = 0;
        for line in lines.iter().filter(|line| line["kind"] == "capture") {
            let id = line["request_id"].as_str().unwrap();
            let Some(Outcome::Charged { cost, .. }) = outcomes.get(id) else { panic!("{line}") };
            assert_eq!(micros(&line["amount"]), -cost, "{line}");
            assert_eq!(line["model"], "m");
            sum += cost;
        }
        let balance = micros(&member.process.account(account).await["balance"]);
        assert_eq!(balance, granted * 1_000_000 - sum);
        left.push(balance);
    }
    assert!(left.iter().all(|balance| *balance == left[0]), "{left:?}");
    left[0]
}

/// A call of a rush, as `check.rs` looks at it.
fn call(id: &str, end: End) -> Call {
    let (now, request_id) = (Instant::now(), id.to_owned());
    Call { client: usize::MAX, gateway: 0, request_id, began: now, ended: now, end }
}

/// A thousand calls, each with a limit of its own.
fn calls(cluster: &mut Cluster, used: impl Fn(u64, &mut Random) -> Used) -> Vec<(Used, u64)> {
    let limits: Vec<u64> = (0..1000).map(|_| 50 + cluster.random.below(450) as u64).collect();
    limits.into_iter().map(|limit| (used(limit, &mut cluster.random), limit)).collect()
}

/// Each call uses its whole hold, so nothing is given back. A caller that was refused could not have paid later
/// either.
async fn the_last_credits_are_spent_once_where_each_call_has_a_price_of_its_own(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 3).await;
    for (account, granted) in [("poor-1", 1), ("poor-20", 20)] {
        cluster.grant(account, granted, account).await;
        let calls = calls(&mut cluster, |limit, _| Used {
            prompt: INPUT_TOKENS,
            completion: limit,
            chunks: 0,
            bytes: 0,
        });
        let outcomes = rush(&cluster, account, &calls).await;
        let left = settled(&cluster, account, granted, &outcomes).await;
        let refused = outcomes.values().filter_map(|outcome| match outcome {
            Outcome::Refused { needed } => Some(*needed),
            Outcome::Charged { .. } => None,
        });
        let cheapest = refused.min().unwrap();
        assert!((0..cheapest).contains(&left), "{left} are left, and {cheapest} was refused");
    }
    cluster.check(&[]).await;
}

/// Whole answers use less than their holds, and streams grow their holds until the credits run out. The balance is
/// never below zero, and the entries are what was delivered.
async fn what_a_call_does_not_use_is_there_for_the_next_one(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    let mut cut = Vec::new();
    // In most rushes some streams run dry.
    for round in 0..6 {
        if cut.is_empty() {
            cut = rush_that_uses_a_part(&mut cluster, &format!("poor-{round}")).await;
        }
    }
    assert!(!cut.is_empty(), "no stream ran dry");
    cluster.check(&cut).await;
}

/// Spends 20 credits in calls that use a part of their holds, and returns the streams that ran dry.
async fn rush_that_uses_a_part(cluster: &mut Cluster, account: &str) -> Vec<Call> {
    cluster.grant(account, 20, account).await;
    let calls = calls(cluster, |limit, random| {
        let chunks = [0, 0, 1, 5][random.below(4)];
        let bytes = (2 * limit).checked_div(chunks).unwrap_or(0);
        let completion =
            if chunks > 0 { chunks * bytes / 2 } else { 1 + random.below(limit as usize) as u64 };
        Used { prompt: INPUT_TOKENS, completion, chunks, bytes }
    });
    let outcomes = rush(cluster, account, &calls).await;
    let left = settled(cluster, account, 20, &outcomes).await;
    assert!(left >= 0, "{left}");
    let sql = format!("SELECT sum(held) FROM farebox.entries WHERE account = '{account}'");
    let set_aside: i64 = cluster.sql(&sql).parse().unwrap();
    assert!(set_aside > 20_000_000, "no more was held in all than there was: {set_aside}");
    let cut = outcomes.iter().filter_map(|(id, outcome)| match outcome {
        Outcome::Charged { cost, is_cut: true } => Some(call(id, End::CutShort(*cost))),
        _ => None,
    });
    cut.collect()
}

/// A gateway stood still for so long that the others ended the hold of its stream. The account has credits, so only the
/// gateway is to blame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_hold_was_lost_ends_with_our_failure_and_pays_for_what_it_delivered() {
    let mut cluster = Cluster::start(Durability::Strict, 2).await;
    cluster.grant("patient", 20, "patient").await;
    // Parts of 20 tokens. The first hold covers 100 tokens, and grows once more than 50 are used.
    let used = Used { prompt: INPUT_TOKENS, completion: 1000, chunks: 50, bytes: 40 };
    let gateway = cluster.gateway(0);
    let request = used.request(&gateway.client, &gateway.url(CHAT), "patient", None);
    let mut answer = request.header("x-wait-after", 2).send().await.unwrap();
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut text = String::new();
    while text.matches('Q').count() < 80 {
        text.push_str(&String::from_utf8_lossy(&answer.chunk().await.unwrap().unwrap()));
    }
    cluster.members[0].pause();
    let limit = Instant::now() + GIVEN_UP_WITHIN;
    while cluster.sql("SELECT count(*) FROM farebox.gateways") != "1" {
        assert!(Instant::now() < limit, "nobody has given it up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.members[0].resume();
    let resumed = Instant::now();
    while cluster.gateway(0).post("alice", ROUTE).await.status != 200 {
        assert!(resumed.elapsed() < BACK_WITHIN, "{}", cluster.gateway(0).stderr());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.upstream.may_go_on.add_permits(1);
    while let Ok(Some(part)) = answer.chunk().await {
        text.push_str(&String::from_utf8_lossy(&part));
    }
    let StreamEnd::CutShort { text_bytes, why } = StreamEnd::of(&text) else {
        panic!("{text}");
    };
    assert_eq!(why, "LEDGER_UNAVAILABLE", "{text}");
    let cost = estimate(text_bytes);
    let is_charged = async || {
        let lines = cluster.gateway(1).transactions("patient").await;
        let line = lines.iter().find(|line| line["request_id"] == *id);
        line.is_some_and(|line| micros(&line["amount"]) == -cost)
    };
    assert!(crate::support::eventually(is_charged).await, "{cost}: {text}");
    cluster.check(&[call(&id, End::CutShort(cost))]).await;
}

#[test]
fn an_error_event_ends_a_stream_short() {
    let event = event(&json!({ "error": { "message": "no", "code": "X" } }));
    let text = format!("data: {{\"QQQ\":1}}\n\n{event}");
    let cut = StreamEnd::CutShort { text_bytes: 3, why: "X".to_owned() };
    assert_eq!(StreamEnd::of(&text), cut);
    assert_eq!(StreamEnd::of("data: {}\n\n"), StreamEnd::Broken);
}
