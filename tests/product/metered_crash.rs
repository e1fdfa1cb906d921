//! kill -9 in the middle of calls that are priced by usage, streamed and whole. Afterwards the entries agree with the
//! upstream's log to the micro-credit, and the calls that were cut off are charged as `[ledger] after_crash` says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::http::{pages, plain_client};
use crate::process::{Process, config_on_ports};
use crate::support::ai::{
    Ai, Asked, DONE, Reply, Step, chat, chat_chunk, chat_usage, chat_usage_chunk,
};
use crate::support::metered::{CHAT, CHAT_TABLES, INPUT, OUTPUT};
use crate::support::random::Random;
use crate::support::{eventually, token};

/// The whole credits that each account gets.
const GRANT: i64 = 100_000;

const MICROS: i64 = 1_000_000;

/// The bytes of text in each event of a stream: 20 tokens.
const EVENT: usize = 40;

fn config(ai: &Ai, durability: &str, after_crash: &str) -> String {
    let ledger =
        format!("[ledger]\ndurability = \"{durability}\"\nafter_crash = \"{after_crash}\"");
    config_on_ports(ai.address, CHAT_TABLES).replace("[ledger]", &ledger)
}

/// The answer that a call must get. A header passes it to the upstream.
#[derive(Clone, Copy, Debug)]
struct Plan {
    client: usize,
    prompt: u64,
    completion: u64,
    /// The events with text; 0 for an answer that does not stream.
    events: usize,
    /// Milliseconds before each event.
    pause: u64,
    /// Whether it ends.
    ends: bool,
}

impl Plan {
    fn header(self) -> String {
        let Self { client, prompt, completion, events, pause, ends } = self;
        format!("{client} {prompt} {completion} {events} {pause} {ends}")
    }

    fn of(asked: &Asked) -> Self {
        let text = asked.header("x-plan").unwrap();
        let parts: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| parts[at].parse::<u64>().unwrap();
        Self {
            client: number(0) as usize,
            prompt: number(1),
            completion: number(2),
            events: number(3) as usize,
            pause: number(4),
            ends: parts[5] == "true",
        }
    }

    /// The cost of the call by its usage, in micro-credits.
    fn cost(self) -> i64 {
        INPUT * self.prompt as i64 + OUTPUT * self.completion as i64
    }

    fn reply(self) -> Reply {
        let usage = chat_usage(self.prompt, self.completion);
        let pause = Step::Pause(Duration::from_millis(self.pause));
        if self.events == 0 {
            let mut reply = Reply(vec![pause]);
            reply.0.extend(if self.ends {
                Reply::json(&chat("ok", &usage)).0
            } else {
                vec![Step::Hang]
            });
            return reply;
        }
        let mut reply = Reply::chunked("text/event-stream");
        for _ in 0..self.events {
            reply
                .0
                .extend([pause.clone(), Step::Chunk(chat_chunk(&"Q".repeat(EVENT)).into_bytes())]);
        }
        if !self.ends {
            return reply.then(Step::Hang);
        }
        let last = [chat_usage_chunk(&usage), DONE.to_owned()].concat();
        reply.then(Step::Chunk(last.into_bytes())).then(Step::End)
    }

    /// The call, by `account`.
    fn request(
        self,
        client: &reqwest::Client,
        url: &str,
        account: &str,
    ) -> reqwest::RequestBuilder {
        let message = json!({ "role": "user", "content": "x".repeat(300) });
        let body = json!({ "model": "m", "messages": [message], "stream": self.events > 0 });
        let request = client.post(url).bearer_auth(token(account));
        request.header("x-plan", self.header()).body(body.to_string())
    }
}

async fn upstream() -> Ai {
    Ai::start(|asked| Plan::of(asked).reply()).await
}

/// The upstream's log: what each call was to be, by its request id.
fn log(ai: &Ai) -> BTreeMap<String, Plan> {
    let asked = ai.asked();
    let log =
        asked.iter().map(|one| (one.header("x-request-id").unwrap().to_owned(), Plan::of(one)));
    let log: BTreeMap<String, Plan> = log.collect();
    assert_eq!(log.len(), asked.len(), "a call was sent twice");
    log
}

fn micros(credits: &Value) -> i64 {
    credits.to_string().parse::<farebox::credits::SignedCredits>().unwrap().micros()
}

/// The captures of an account, by request id.
async fn captures(gateway: &Process, account: &str) -> BTreeMap<String, Value> {
    let lines = gateway.transactions(account).await;
    let captures = lines.into_iter().filter(|line| line["kind"] == "capture");
    let mut all = BTreeMap::new();
    for line in captures {
        let id = line["request_id"].as_str().unwrap().to_owned();
        assert!(all.insert(id, line.clone()).is_none(), "charged twice: {line}");
    }
    all
}

/// Expects that an entry by usage has exactly the usage that the upstream reported.
fn assert_by_usage(line: &Value, plan: Plan) {
    assert_eq!(micros(&line["amount"]), -plan.cost(), "{line} {plan:?}");
    assert_eq!(line["usage"], json!({ "input": plan.prompt, "output": plan.completion }), "{line}");
    assert_eq!(line["model"], "m", "{line}");
    assert!(line["reason"].is_null(), "{line}");
}

async fn killed_in_the_middle(durability: &str, after_crash: &str) {
    let folder = tempfile::tempdir().unwrap();
    let ai = upstream().await;
    let text = config(&ai, durability, after_crash);
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", GRANT as u64, "gift").await;
    // Calls that end before the crash.
    let url = gateway.url(CHAT);
    let ended = (0..12).map(|n| {
        let plan = Plan {
            client: n,
            prompt: 100 + n as u64,
            completion: 7 * n as u64 + 1,
            events: n % 4,
            pause: 0,
            ends: true,
        };
        let call = plan.request(&gateway.client, &url, "alice").send();
        async move { call.await.unwrap().text().await.unwrap() }
    });
    futures_util::future::join_all(ended).await;
    assert!(eventually(async || gateway.account("alice").await["held"] == 0).await);
    // Calls that the crash cuts off: streams that have sent one to twelve events, and answers that have not begun.
    let mut open = Vec::new();
    for n in 0..16 {
        let events = if n < 12 { n + 1 } else { 0 };
        let plan = Plan { client: n, prompt: 100, completion: 9, events, pause: 0, ends: false };
        let call = plan.request(&gateway.client, &url, "alice").send();
        open.push(tokio::spawn(async move {
            // The crash ends a call that nobody has answered.
            let mut answer = call.await.ok()?;
            let mut read = 0;
            while read < events * EVENT {
                let part = answer.chunk().await.unwrap().unwrap();
                read += part.iter().filter(|byte| **byte == b'Q').count();
            }
            Some(answer)
        }));
    }
    let mut answers = Vec::new();
    for (n, call) in open.into_iter().enumerate() {
        if n < 12 {
            answers.push(call.await.unwrap().expect("the stream has begun"));
        }
    }
    assert!(eventually(async || ai.asked().len() == 28).await);
    // By now each hold has grown as much as the delivered text requires.
    let mut held = Value::Null;
    let has_grown = eventually(async || {
        let before = held.clone();
        held = gateway.account("alice").await["held"].clone();
        tokio::time::sleep(Duration::from_millis(50)).await;
        before == held
    });
    assert!(has_grown.await, "{held}");
    // In `relaxed` what is younger than 50 ms may be lost; this is on disk after it.
    gateway.grant("bob", 1, "flush").await;
    gateway.kill();
    drop(answers);

    let gateway = Process::serve(folder.path(), &text);
    gateway.assert_reconciled().await;
    let (log, captures) = (log(&ai), captures(&gateway, "alice").await);
    let mut paid = 0;
    let (mut cut, mut crash_captures) = (BTreeSet::new(), 0);
    for (id, plan) in &log {
        match captures.get(id) {
            Some(line) if plan.ends => {
                assert_by_usage(line, *plan);
                paid += plan.cost();
            }
            Some(line) => {
                assert_eq!((after_crash, &line["reason"]), ("charge", &"crash".into()), "{line}");
                let amount = -micros(&line["amount"]);
                // The charge of a stream covers the text that was delivered, and less than two steps of growth more.
                let output = if plan.events == 0 { 2000 } else { 20 * plan.events as i64 };
                let more = amount - 1000 * output;
                assert!((45_000..260_000).contains(&more), "{line} {plan:?}");
                (paid, crash_captures) = (paid + amount, crash_captures + amount);
                cut.insert(id.clone());
            }
            None => {
                assert!(!plan.ends && after_crash == "release", "{id} {plan:?} was not charged");
                cut.insert(id.clone());
            }
        }
    }
    assert_eq!(captures.len(), if after_crash == "charge" { 28 } else { 12 });
    assert_eq!(crash_captures, if after_crash == "charge" { micros(&held) } else { 0 });
    let shown = gateway.account("alice").await;
    assert_eq!((micros(&shown["balance"]), micros(&shown["held"])), (GRANT * MICROS - paid, 0));
    let page = async |cursor: Option<String>| {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/admin/crashed?limit=9{cursor}");
        gateway.admin(Method::GET, &path, "").await.expect(200)
    };
    let listed = pages(page, "crashed").await;
    let outcome = if after_crash == "charge" { "charged" } else { "released" };
    assert!(listed.iter().all(|call| call["outcome"] == outcome), "{listed:?}");
    let ids = listed.iter().map(|call| call["request_id"].as_str().unwrap().to_owned());
    assert_eq!(ids.collect::<BTreeSet<_>>(), cut);
    let amounts: i64 = listed.iter().map(|call| micros(&call["amount"])).sum();
    assert_eq!(amounts, micros(&held), "each hold, whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metered_calls_of_a_crash_are_given_back_and_those_before_it_are_exact() {
    for durability in ["strict", "relaxed"] {
        killed_in_the_middle(durability, "release").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metered_calls_of_a_crash_are_charged_whole_where_the_config_says_so() {
    for durability in ["strict", "relaxed"] {
        killed_in_the_middle(durability, "charge").await;
    }
}

/// Calls of its own plans, one after the other, until the gateway is gone.
async fn client(number: usize, url: String, mut random: Random) {
    let http = plain_client().build().unwrap();
    loop {
        let plan = Plan {
            client: number,
            prompt: 1 + random.below(400) as u64,
            completion: 1 + random.below(1500) as u64,
            events: random.below(9),
            pause: random.below(4) as u64,
            ends: true,
        };
        let Ok(answer) = plan.request(&http, &url, "alice").send().await else { return };
        let status = answer.status();
        let Ok(text) = answer.text().await else { return };
        assert_eq!(status, 200, "{text}");
    }
}

/// Kills the gateway under load. Each client's calls have entries up to some call without a gap, exactly as the
/// upstream reported their usage. In `strict` only the one call in flight may lack its entry, and with `charge` its
/// hold is captured instead.
async fn killed_under_load(durability: &str, after_crash: &str) {
    const CLIENTS: usize = 12;
    let mut random = Random::seeded();
    let folder = tempfile::tempdir().unwrap();
    let ai = upstream().await;
    let text = config(&ai, durability, after_crash);
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", GRANT as u64, "gift").await;
    let mut seen = 0;
    for round in 0..3 {
        let url = gateway.url(CHAT);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| tokio::spawn(client(number, url.clone(), random.fork())))
            .collect();
        let calls = seen + 60 + random.below(120);
        let enough = async || {
            tokio::time::sleep(Duration::from_micros(100 + random.below(900) as u64)).await;
            ai.asked().len() >= calls
        };
        assert!(eventually(enough).await, "{}", gateway.stderr());
        gateway.kill();
        for client in clients {
            client.await.unwrap();
        }
        gateway = Process::serve(folder.path(), &text);
        gateway.assert_reconciled().await;
        let captures = captures(&gateway, "alice").await;
        let asked = ai.asked();
        let id = |asked: &Asked| asked.header("x-request-id").unwrap().to_owned();
        for number in 0..CLIENTS {
            let its: Vec<_> =
                asked[seen..].iter().filter(|a| Plan::of(a).client == number).collect();
            let by_usage = |asked: &&&Asked| {
                captures.get(&id(asked)).is_some_and(|line| line["reason"].is_null())
            };
            let kept = its.iter().take_while(by_usage).count();
            for asked in &its[..kept] {
                assert_by_usage(&captures[&id(asked)], Plan::of(asked));
            }
            let end = &its[kept..];
            assert!(durability == "relaxed" || end.len() <= 1, "{} calls of one client", end.len());
            for asked in end {
                let crash = captures.get(&id(asked)).map(|line| line["reason"].clone());
                match after_crash {
                    "charge" if durability == "strict" => assert_eq!(crash, Some("crash".into())),
                    "charge" => assert!(crash.is_none_or(|reason| reason == "crash")),
                    _ => assert_eq!(crash, None, "a gap before it"),
                }
            }
        }
        let ids: BTreeSet<String> = asked.iter().map(id).collect();
        // A call is held before it is forwarded: `charge` may charge one that the upstream has not seen.
        let unseen: Vec<_> = captures.iter().filter(|(id, _)| !ids.contains(*id)).collect();
        assert!(unseen.iter().all(|(_, line)| line["reason"] == "crash"), "{unseen:?}");
        assert!(unseen.len() <= if after_crash == "charge" { CLIENTS * (round + 1) } else { 0 });
        let paid: i64 = captures.values().map(|line| micros(&line["amount"])).sum();
        let shown = gateway.account("alice").await;
        assert_eq!((micros(&shown["balance"]), micros(&shown["held"])), (GRANT * MICROS + paid, 0));
        seen = asked.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metered_streams_and_the_upstreams_log_agree_after_kill_9() {
    killed_under_load("strict", "release").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metered_streams_agree_after_kill_9_where_the_calls_of_a_crash_are_charged() {
    killed_under_load("strict", "charge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_loses_the_last_moments_of_metered_calls_and_nothing_else() {
    killed_under_load("relaxed", "release").await;
    killed_under_load("relaxed", "charge").await;
}
