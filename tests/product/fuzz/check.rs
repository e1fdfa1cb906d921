//! The properties that hold after a run, whatever was sent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::prices::{Rule, price};
use super::side::{POOR, RICH, Side};
use super::upstream::{Outcome, Ran, Upstream};

/// An answer's head, as a client received it.
#[derive(Clone, Debug)]
pub struct Got {
    pub status: u16,
    /// `x-request-id`
    pub id: String,
    /// `x-credits-cost`
    pub cost: Option<i64>,
    /// The upstream's own header: the answer is the upstream's.
    pub echo: Option<String>,
}

/// The answers that clients of one gateway have received.
#[derive(Debug, Default)]
pub struct Received {
    pub got: Vec<Got>,
    /// Answers that were not their request's.
    pub faults: Vec<String>,
}

impl Received {
    /// Takes over what one connection received.
    pub fn add(&mut self, other: Self) {
        self.got.extend(other.got);
        self.faults.extend(other.faults);
    }

    /// Notes an answer to the request that sent `nonce`.
    pub fn answer(&mut self, got: Got, nonce: &str, body: &str) {
        if let Some(echo) = &got.echo {
            if echo != nonce {
                self.faults.push(format!("{nonce} got the answer of {echo}"));
            }
            self.body(echo, body);
        }
        self.got.push(got);
    }

    /// Expects that a body repeats the nonce of its own head.
    pub fn body(&mut self, echo: &str, body: &str) {
        // A nonce that is torn by a chunk's border, or was mutated, says nothing.
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let told = body.split("nonce=").skip(1).filter_map(|text| text.split_once(';'));
        let mut told = told.map(|(nonce, _)| nonce).filter(is_number);
        let foreign = told.find(|nonce| *nonce != echo).filter(|_| is_number(&echo));
        if let Some(foreign) = foreign {
            self.faults.push(format!("the answer of {echo} has the body of {foreign}"));
        }
    }
}

/// Whether this status is charged by default.
fn is_charged(status: u16) -> bool {
    (200..400).contains(&status)
}

/// Whether the rules on who pays leave no other way than to charge this call.
fn must_be_charged(ran: &Ran, rule: Rule) -> bool {
    let is_head_only = matches!(&*ran.method, "GET" | "HEAD" | "DELETE" | "OPTIONS");
    let is_whole = ran.is_whole || ran.is_nearly_whole || is_head_only;
    match ran.outcome {
        Outcome::Tunnel => ran.is_whole,
        Outcome::Answered(status) => is_charged(status) && is_whole && !rule.releases,
        // The client left, once its whole request had been sent, or what counts as that.
        Outcome::Left => (is_whole || ran.has_begun) && !rule.releases,
        Outcome::Broken => false,
    }
}

/// Checks one gateway and its upstream. Returns the calls that the upstream ran.
pub async fn check(side: &Side, upstream: &Upstream, received: &Received) -> Vec<Ran> {
    assert!(received.faults.is_empty(), "{:#?}", &received.faults[..received.faults.len().min(5)]);
    let mut charged = charges(side).await;
    let got: HashMap<&str, &Got> = received.got.iter().map(|got| (&*got.id, got)).collect();
    // No credits are held, so no call runs any more.
    let seen = std::mem::take(&mut *upstream.seen.lock().unwrap());
    assert!(seen.faults.is_empty(), "{:#?}", &seen.faults[..seen.faults.len().min(5)]);
    for ran in &seen.ran {
        let got = got.get(&*ran.id);
        let told = || format!("{ran:?} {got:?} {}", side.told(&ran.id));
        let rule = price(&ran.method, &ran.path);
        let rule = rule.unwrap_or_else(|| panic!("it has no price, and was run: {}", told()));
        let (payer, taken) = charged.remove(&ran.id).unwrap_or((ran.account.clone(), 0));
        assert_eq!(payer, ran.account, "another account paid: {}", told());
        assert!(taken == 0 || taken == rule.credits, "{taken} taken, not {rule:?}: {}", told());
        let may_be_free = rule.credits == 0 || !must_be_charged(ran, rule);
        assert!(taken > 0 || may_be_free, "it was free: {}", told());
        let Some(got) = got else { continue };
        if got.echo.is_some() && !is_charged(got.status) && got.status != 101 {
            assert_eq!(taken, 0, "an error was charged: {}", told());
        }
        if let Some(cost) = got.cost {
            assert_eq!(cost, rule.credits, "{}", told());
            let may_be_free = rule.releases || ran.outcome == Outcome::Broken;
            assert!(taken == cost || may_be_free, "its client has the answer: {}", told());
        }
        if got.echo.is_none() {
            let is_ours = matches!(got.status, 400 | 408 | 502 | 504 | 101);
            assert!(is_ours, "it was refused, and run: {}", told());
        }
    }
    assert!(charged.is_empty(), "charged, and never run: {charged:?}");
    side.process.assert_reconciled().await;
    for log in [side.process.stdout(), side.process.stderr()] {
        assert!(!log.contains("panicked"), "{log}");
    }
    seen.ran
}

/// The payer and the price of each request, once nothing is held.
async fn charges(side: &Side) -> HashMap<String, (String, i64)> {
    let mut charged = HashMap::new();
    for account in RICH.into_iter().chain([POOR, "backend"]) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let now = side.process.account(account).await;
            if now["held"] == 0 {
                assert!(now["balance"].as_i64().unwrap() >= 0, "{now}");
                break;
            }
            assert!(Instant::now() < limit, "still held: {now}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for entry in side.process.transactions(account).await {
            if entry["kind"] != "capture" {
                continue;
            }
            let id = entry["request_id"].as_str().unwrap().to_owned();
            let taken = -entry["amount"].as_i64().unwrap();
            let before = charged.insert(id, (account.to_owned(), taken));
            assert_eq!(before, None, "taken twice: {entry}");
        }
    }
    charged
}
