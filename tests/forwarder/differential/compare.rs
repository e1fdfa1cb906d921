//! The differences between the two outcomes of an exchange.

use std::collections::{BTreeMap, BTreeSet};

use super::exchange::{End, Exchange, Plan, Protocol, UNASKED};
use super::lane::{Call, Outcome};
use super::upstream::Arrival;
use crate::support::message::{Framing, Stop};

/// A difference at one place of one call.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Which call of the exchange.
    pub call: usize,
    /// For example `request field te`, `answer status`, `arrivals`.
    pub place: String,
    pub bare: String,
    pub farebox: String,
}

/// Fields of requests that differ each time, or that Farebox sets itself.
const OWN_REQUEST_FIELDS: [&str; 7] = [
    "host",
    "authorization",
    "x-request-id",
    "x-farebox-account",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Fields of answers that differ each time.
const OWN_ANSWER_FIELDS: [&str; 2] = ["date", "x-request-id"];

/// Everything that differs.
pub fn compare(exchange: &Exchange, bare: &Outcome, farebox: &Outcome) -> Vec<Difference> {
    let mut found = Vec::new();
    for (call, plan) in exchange.calls.iter().enumerate() {
        let mut note = |place: String, bare: String, farebox: String| {
            if bare != farebox {
                found.push(Difference { call, place, bare, farebox });
            }
        };
        let (bare, farebox) = (&bare.calls[call], &farebox.calls[call]);
        requests(exchange, plan, bare, farebox, &mut note);
        answers(plan, bare, farebox, &mut note);
    }
    found
}

type Note<'a> = dyn FnMut(String, String, String) + 'a;

fn requests(exchange: &Exchange, plan: &Plan, bare: &Call, farebox: &Call, note: &mut Note<'_>) {
    let count = |call: &Call| call.arrivals.len().to_string();
    note("arrivals".into(), count(bare), count(farebox));
    let (Some(bare), Some(farebox)) = (bare.arrivals.last(), farebox.arrivals.last()) else {
        return;
    };
    note("request line".into(), bare.head.line.clone(), farebox.head.line.clone());
    fields("request", &OWN_REQUEST_FIELDS, &bare.head.fields, &farebox.head.fields, note);
    note("request framing".into(), kind(bare.framing), kind(farebox.framing));
    if exchange.protocol == Protocol::Http1 {
        let is_reused = |arrival: &Arrival| arrival.is_reused.to_string();
        note("reused".into(), is_reused(bare), is_reused(farebox));
    }
    // How much goes up before an early answer, or before a client leaves, is a matter of time.
    if !plan.answer.is_early && matches!(plan.request.end, End::Reads | End::LeavesInAnswer(_)) {
        note("request body".into(), text(&bare.body), text(&farebox.body));
        note("request end".into(), end(&bare.end), end(&farebox.end));
    }
}

fn answers(plan: &Plan, bare: &Call, farebox: &Call, note: &mut Note<'_>) {
    let (bare, farebox) = (&bare.got, &farebox.got);
    note("interim".into(), format!("{:?}", bare.interim), format!("{:?}", farebox.interim));
    let has_answer = |answer: bool| if answer { "an answer" } else { "no answer" }.to_owned();
    let (is_bare, is_farebox) = (bare.answer.is_some(), farebox.answer.is_some());
    note("answer".into(), has_answer(is_bare), has_answer(is_farebox));
    if plan.request.end == End::Reads && !is_bare && !is_farebox {
        note("stop".into(), stop(bare.stop.as_ref()), stop(farebox.stop.as_ref()));
    }
    let (Some(bare), Some(farebox)) = (&bare.answer, &farebox.answer) else { return };
    note("answer status".into(), bare.status.to_string(), farebox.status.to_string());
    note("answer line".into(), bare.head.line.clone(), farebox.head.line.clone());
    fields("answer", &OWN_ANSWER_FIELDS, &bare.head.fields, &farebox.head.fields, note);
    note("answer framing".into(), kind(bare.framing), kind(farebox.framing));
    note("answer body".into(), text(&bare.body), text(&farebox.body));
    note("answer end".into(), end(&bare.end), end(&farebox.end));
}

type Fields = [(String, String)];

/// The fields of the same name must come in the same order; others may change places.
fn fields(what: &str, own: &[&str], bare: &Fields, farebox: &Fields, note: &mut Note<'_>) {
    let [bare, farebox] = [bare, farebox].map(|fields| {
        let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in fields.iter().filter(|(name, _)| !own.contains(&&**name)) {
            by_name.entry(name).or_default().push(value);
        }
        by_name
    });
    let names: BTreeSet<&&str> = bare.keys().chain(farebox.keys()).collect();
    for name in names {
        let told = |fields: &BTreeMap<&str, Vec<&str>>| {
            fields.get(*name).map_or_else(|| "absent".to_owned(), |values| format!("{values:?}"))
        };
        note(format!("{what} field {name}"), told(&bare), told(&farebox));
    }
}

fn kind(framing: Framing) -> String {
    format!("{framing:?}")
}

/// A body, short enough to be read.
fn text(body: &[u8]) -> String {
    let hash = body.iter().fold(7_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
    let start = String::from_utf8_lossy(&body[..body.len().min(400)]);
    format!("{} bytes ({hash:x}): {start}", body.len())
}

fn end(end: &Result<(), Stop>) -> String {
    match end {
        Ok(()) => "whole".into(),
        Err(stop) => self::stop(Some(stop)),
    }
}

/// A stop as text. Connections that are closed, reset or no longer used have the same text, because only timing tells
/// them apart.
fn stop(stop: Option<&Stop>) -> String {
    match stop {
        None | Some(Stop::Closed | Stop::Cut) => "the connection ended".into(),
        Some(Stop::Silent) => "silence".into(),
        Some(Stop::Malformed(why)) => format!("malformed: {why}"),
    }
}

/// The rules that Farebox broke in an exchange, whatever the bare proxy does.
pub fn check(exchange: &Exchange, farebox: &Outcome, authority: &str) -> Vec<String> {
    let mut found = farebox.faults.clone();
    let mut expect = |holds: bool, why: &str, plan: &Plan| {
        if !holds {
            found.push(format!("{}: {why}", plan.nonce));
        }
    };
    for (plan, call) in exchange.calls.iter().zip(&farebox.calls) {
        expect(call.arrivals.len() <= 1, "it was sent twice", plan);
        for arrival in &call.arrivals {
            let head = &arrival.head;
            expect(head.one("host") == Some(authority), "the host is not the upstream's", plan);
            expect(head.one("x-farebox-account") == Some("alice"), "not alice's", plan);
            expect(head.one("x-request-id").is_some_and(|id| id != "mine"), "it has no id", plan);
            expect(head.all("authorization").is_empty(), "the credentials went on", plan);
            expect(head.one("x-forwarded-for") == Some("127.0.0.1"), "another address", plan);
            expect(plan.request.body.starts_with(&arrival.body), "another body", plan);
            let leaves = matches!(plan.request.end, End::LeavesInRequest(_));
            let is_whole = arrival.end.is_ok() && arrival.body.len() == plan.request.body.len();
            expect(!leaves || arrival.end.is_err(), "a body that was cut was ended", plan);
            let must_be_whole = !leaves && !plan.answer.is_early;
            expect(!must_be_whole || is_whole, "the body is not whole", plan);
        }
        let Some(answer) = &call.got.answer else { continue };
        let is_unasked = plan.answer.malformed == Some(UNASKED);
        expect(!is_unasked || answer.status >= 400, "a tunnel that nobody asked for", plan);
        let is_upstreams = answer.head.all("x-echo");
        if !is_upstreams.is_empty() {
            expect(is_upstreams == [&plan.nonce], "the answer of another call", plan);
            expect(answer.status == plan.answer.status, "another status", plan);
            expect(plan.answer.body.starts_with(&answer.body), "another body of the answer", plan);
            let has_body = plan.request.method != "HEAD" && plan.request.end == End::Reads;
            let is_whole = answer.body.len() == plan.answer.body.len();
            // An answer whose length nobody told cannot be seen to be cut.
            let may_be_cut = plan.answer.cut.is_some()
                && (plan.answer.framing == Framing::UntilClose
                    || answer.framing == Framing::UntilClose);
            expect(
                !has_body || answer.end.is_err() || is_whole || may_be_cut,
                "an answer that was cut was ended",
                plan,
            );
        } else {
            let is_refusal = answer.head.one("content-type") == Some("application/problem+json");
            let may_be_anything = answer.status == 101 || plan.answer.malformed.is_some();
            expect(is_refusal || may_be_anything, "whose answer is it?", plan);
            expect(!plan.is_valid() || plan.is_refused(), "it was refused", plan);
        }
        let has_id = answer.head.one("x-request-id").is_some_and(|id| id != "theirs");
        expect(has_id, "the answer has no id", plan);
    }
    // Each good call has its whole answer, as long as its connection lives.
    for (plan, call) in exchange.calls.iter().zip(&farebox.calls) {
        let is_good = plan.is_valid() && !plan.is_refused();
        let is_whole = call.got.answer.as_ref().is_some_and(|answer| answer.end.is_ok());
        expect(!is_good || is_whole || plan.answer.is_early, "no whole answer", plan);
        if exchange.protocol == Protocol::Http1 && (!is_good || plan.may_end_connection()) {
            break;
        }
    }
    found
}
