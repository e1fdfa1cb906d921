//! The run: exchanges at random, a fixed number of them for each round.

use std::fmt::Write as _;

use super::client::expects;
use super::compare::{check, compare};
use super::exchange::{Exchange, Plan};
use super::explained::{Case, EXPLAINED, kind};
use super::lane::{Call, Gateways, Lane, Outcome};
use crate::support::random::{Random, seed};

/// Exchanges at a time.
const LANES: usize = 12;

/// Exchanges of a round. A plain test run has one round.
const EXCHANGES: usize = 1500;

/// How many failures are told in full.
const TOLD: usize = 30;

/// How many rounds: one, or as many as FAREBOX_ROUNDS says.
fn rounds() -> usize {
    std::env::var("FAREBOX_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// FAREBOX_EXCHANGE runs a single one, by the seed that a failure names.
fn only() -> Option<u64> {
    let set = std::env::var("FAREBOX_EXCHANGE").ok()?;
    Some(u64::from_str_radix(&set, 16).unwrap())
}

/// The most runs of an exchange. An exchange fails only if each run shows a difference without a reason, because an
/// upstream or a client may hang up just before or just after a byte, with either proxy.
const ATTEMPTS: usize = 3;

/// The results of a lane's exchanges.
#[derive(Default)]
struct Report {
    calls: usize,
    answers: usize,
    /// How many differences of each kind there were.
    explained: Vec<usize>,
    failures: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_see_what_they_would_see_of_a_bare_proxy() {
    let mut random = Random::of(seed());
    let (gateways, lanes) = Gateways::start(LANES, &mut random).await;
    let each = if only().is_some() { 1 } else { rounds() * EXCHANGES / LANES };
    let running: Vec<_> = lanes
        .into_iter()
        .take(if only().is_some() { 1 } else { LANES })
        .map(|lane| tokio::spawn(run(lane, random.fork(), each)))
        .collect();
    let mut all = Report { explained: vec![0; EXPLAINED.len()], ..Report::default() };
    for lane in running {
        let report = lane.await.unwrap();
        all.calls += report.calls;
        all.answers += report.answers;
        all.failures.extend(report.failures);
        for (all, one) in all.explained.iter_mut().zip(report.explained) {
            *all += one;
        }
    }
    eprintln!("{} calls, {} of them answered by Farebox", all.calls, all.answers);
    for (kind, count) in EXPLAINED.iter().zip(&all.explained) {
        eprintln!("{count:6} {}: {}", kind.name, kind.reason);
    }
    let count = all.failures.len();
    let told = all.failures[..count.min(TOLD)].join("\n");
    assert!(count == 0, "{count} exchanges differ without a reason:\n{told}");
    assert!(only().is_some() || all.answers > all.calls / 2, "too few calls were answered");
    gateways.stop();
}

async fn run(lane: Lane, mut random: Random, count: usize) -> Report {
    let mut report = Report { explained: vec![0; EXPLAINED.len()], ..Report::default() };
    for _ in 0..count {
        let exchange = Exchange::of(only().unwrap_or(random.below(usize::MAX) as u64));
        let mut wrong = Vec::new();
        for _ in 0..ATTEMPTS {
            let [bare, farebox] = lane.run(&exchange, Random::of(exchange.seed | 1)).await;
            report.calls += exchange.calls.len();
            report.answers += farebox.calls.iter().filter(|call| call.got.answer.is_some()).count();
            wrong = report.judge(&lane, &exchange, &bare, &farebox);
            if wrong.is_empty() {
                break;
            }
        }
        if !wrong.is_empty() {
            report.failures.push(tell(&exchange, &wrong));
        }
    }
    report
}

impl Report {
    /// The differences without a reason.
    fn judge(
        &mut self,
        lane: &Lane,
        exchange: &Exchange,
        bare: &Outcome,
        farebox: &Outcome,
    ) -> Vec<String> {
        let mut wrong = check(exchange, farebox, &lane.authority());
        for difference in compare(exchange, bare, farebox) {
            let call = difference.call;
            let case = Case {
                exchange,
                plan: &exchange.calls[call],
                difference: &difference,
                bare: &bare.calls[call],
                farebox: &farebox.calls[call],
                is_after_close: (0..call).any(|before| {
                    let plan = &exchange.calls[before];
                    has_ended(plan, &farebox.calls[before]) != has_ended(plan, &bare.calls[before])
                }),
            };
            match kind(&case) {
                Some(kind) => self.explained[kind] += 1,
                None => wrong.push(format!(
                    "call {call}, {}:\n    bare:    {}\n    Farebox: {}",
                    difference.place, difference.bare, difference.farebox
                )),
            }
        }
        wrong
    }
}

/// Whether the client was told that the connection ends with this answer, or keeps back the body that
/// it declared.
fn has_ended(plan: &Plan, call: &Call) -> bool {
    let answer = call.got.answer.as_ref();
    let is_over = answer.is_none_or(|answer| {
        answer.end.is_err() || answer.head.all("connection").contains(&"close")
    });
    is_over || expects(plan) && !call.got.interim.contains(&100)
}

fn tell(exchange: &Exchange, wrong: &[String]) -> String {
    let mut text = format!("FAREBOX_EXCHANGE={:x}\n", exchange.seed);
    for line in wrong {
        writeln!(text, "  {line}").unwrap();
    }
    let pipelined = if exchange.pipelined { ", all requests at once" } else { "" };
    writeln!(text, "  of {:?}{pipelined}:", exchange.protocol).unwrap();
    for plan in &exchange.calls {
        let (request, answer) = (&plan.request, &plan.answer);
        writeln!(
            text,
            "  - {} {} {} {:?} {:?} {} bytes, trailers {}, {:?}",
            request.method,
            request.target,
            request.version,
            request.fields,
            request.framing,
            request.body.len(),
            request.has_trailers,
            request.end
        )
        .unwrap();
        writeln!(
            text,
            "    {:?} {:?} {:?} {} bytes, early {}, cut {:?}, malformed {:?}, {:?}",
            answer.interim,
            answer.head,
            answer.framing,
            answer.body.len(),
            answer.is_early,
            answer.cut,
            answer.malformed,
            answer.then
        )
        .unwrap();
    }
    text
}
