//! Properties that hold at rest, whatever happened before. They compare the upstream's log, the clients' answers and
//! the ledger, line by line.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Member, PRICE};
use crate::load::{Call, End, account_of, gateway_of};
use crate::metered::{Used, micros};
use crate::support::http::Answer;
use crate::support::process::Process;
use crate::support::token;
use crate::upstream::Served;

/// The parts of a credit.
const MICROS: i64 = 1_000_000;

/// How long the ledger may take to come to rest: to sync, and to settle what it was told.
const REST_WITHIN: Duration = Duration::from_secs(20);

/// The figures of an examination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub calls: usize,
    pub entries: usize,
    /// Calls that a killed gateway was just settling.
    pub in_flight_at_kills: usize,
}

/// Differences that are allowed, besides those that kills of gateways excuse.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excuse {
    /// Redis and a gateway were lost at once: so many captures may be missing.
    pub lost: usize,
    /// The number of calls that may be charged although the upstream did not read them: their clients left as soon as
    /// the requests were sent, and the connection was closed.
    pub unread: usize,
}

impl Cluster {
    /// Expects every invariant to hold, now or soon: the ledger needs a moment to come to rest.
    #[track_caller]
    pub fn check(&self, calls: &[Call]) -> impl Future<Output = Checked> {
        self.check_with(calls, Excuse::default())
    }

    /// Like [`Self::check`], after a fault that may lose something.
    #[track_caller]
    pub fn check_with(&self, calls: &[Call], excuse: Excuse) -> impl Future<Output = Checked> {
        let caller = std::panic::Location::caller();
        let limit = Instant::now() + REST_WITHIN;
        async move {
            self.answers_make_sense(calls);
            loop {
                let differences = match self.at_rest(calls, excuse).await {
                    Ok(checked) => {
                        eprintln!("{checked:?}");
                        return checked;
                    }
                    Err(differences) => differences,
                };
                let logs = || {
                    let logs = self.members.iter().map(|member| tail(&member.process.stderr()));
                    logs.collect::<Vec<_>>().join("\n--- next gateway\n")
                };
                assert!(Instant::now() < limit, "{caller}: {differences}\n{}", logs());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Checks the clients' answers. An account that has credits is never refused for lack of credits, and a failure
    /// of Farebox's own is 503. A connection breaks only when its gateway ends.
    fn answers_make_sense(&self, calls: &[Call]) {
        for call in calls {
            match &call.end {
                End::Paid | End::CutShort(_) | End::Unreachable => {}
                End::Refused(status, code) => {
                    assert_eq!((*status, code.as_str()), (503, "LEDGER_UNAVAILABLE"), "{call:?}");
                }
                End::Broken(_) => {
                    let mut gone = self.kills.iter().chain(&self.stops);
                    let gone = gone.any(|gone| {
                        let then = call.began <= gone.to && gone.from <= call.ended;
                        gone.gateway == call.gateway && then
                    });
                    assert!(gone, "{call:?}");
                }
            }
        }
    }

    async fn at_rest(&self, calls: &[Call], excuse: Excuse) -> Result<Checked, String> {
        let served = self.upstream.served();
        let asked = self.alive();
        let mut entries = 0;
        let mut captures: HashMap<String, (&str, Value)> = HashMap::new();
        for (account, granted) in &self.granted {
            let lines = transactions(asked, account).await?;
            entries += lines.len();
            let balance = lines_add_up(account, &lines)?;
            self.everybody_says(account, balance).await?;
            for line in lines.iter().filter(|line| line["kind"] == "capture") {
                let id = line["request_id"].as_str().unwrap().to_owned();
                if let Some((twice, _)) = captures.insert(id, (account, line.clone())) {
                    return Err(format!("captured twice, of {twice} and {account}: {line}"));
                }
            }
            let its = captures.values().filter(|(of, _)| of == account);
            let captured: i64 = its.map(|(_, line)| -micros(&line["amount"])).sum();
            if balance != granted * MICROS - captured {
                let grants = lines.iter().filter(|line| line["kind"] == "grant").count();
                let how = format!("{grants} grants of {granted} and captures of {captured} micros");
                return Err(format!("{account} has {balance} after {how}"));
            }
        }
        let in_flight_at_kills = self.join(&served, &captures, calls, excuse)?;
        self.nothing_is_held(&served).await?;
        self.postgres_adds_up()?;
        self.reconciles().await?;
        Ok(Checked { calls: calls.len(), entries, in_flight_at_kills })
    }

    /// Compares the upstream's log with the captures and the clients' answers. Returns how many
    /// calls have no capture because their gateway was killed just then.
    fn join(
        &self,
        served: &[Served],
        captures: &HashMap<String, (&str, Value)>,
        calls: &[Call],
        excuse: Excuse,
    ) -> Result<usize, String> {
        let cut_short = calls.iter().filter_map(|call| match call.end {
            End::CutShort(cost) => Some((call.request_id.as_str(), cost)),
            _ => None,
        });
        let cut_short: HashMap<&str, i64> = cut_short.collect();
        let mut by_id = HashMap::new();
        for request in served {
            if let Some(twice) = by_id.insert(request.request_id.as_str(), request) {
                return Err(format!("sent twice: {twice:?} {request:?}"));
            }
        }
        let mut unread = 0;
        for (id, (account, line)) in captures {
            match by_id.get(id.as_str()) {
                None if unread < excuse.unread => unread += 1,
                None => return Err(format!("{id} of {account} was captured; nobody served it")),
                Some(request) if request.account != *account => {
                    return Err(format!("{account} paid for {request:?}"));
                }
                Some(request) => {
                    let cut = cut_short.get(id.as_str()).copied();
                    is_exact(line, request.used, cut).map_err(|wrong| {
                        format!("{wrong}: {line}\n{}", self.story_of(request, calls))
                    })?;
                }
            }
        }
        for call in calls {
            let request = by_id.get(call.request_id.as_str());
            match (&call.end, request) {
                (End::Paid | End::CutShort(_), Some(_))
                | (End::Unreachable | End::Broken(_), _) => {}
                (End::Refused(..), None) => {}
                _ => return Err(format!("answer and upstream differ: {call:?} {request:?}")),
            }
        }
        let missing: Vec<_> =
            served.iter().filter(|request| !captures.contains_key(&request.request_id)).collect();
        let (excused, lost): (Vec<&Served>, Vec<_>) =
            missing.into_iter().partition(|request| self.was_in_flight_at_a_kill(request, served));
        if lost.len() > excuse.lost {
            let some: Vec<_> =
                lost.iter().take(3).map(|request| self.story_of(request, calls)).collect();
            let some = some.join("\n");
            return Err(format!("{} calls were served and never captured:\n{some}", lost.len()));
        }
        Ok(excused.len())
    }

    /// Whether the call was in flight when its gateway was killed. A client's call is captured
    /// before its next call is held, in one queue. So a kill can lose only the last call of each
    /// client.
    fn was_in_flight_at_a_kill(&self, request: &Served, served: &[Served]) -> bool {
        let gateway = gateway_of(request.client, self.members.len());
        let mut kills = self.kills.iter().filter(|kill| kill.gateway == gateway);
        kills.any(|kill| {
            let its_next = |other: &Served| {
                other.client == request.client && other.at > request.at && other.at <= kill.to
            };
            request.at <= kill.to && !served.iter().any(its_next)
        })
    }

    /// All that is known of a call that was served.
    fn story_of(&self, request: &Served, calls: &[Call]) -> String {
        let ago = |then: Instant| format!("{:.3} s", (then - request.at).as_secs_f64());
        let since = |then: Instant| then.checked_duration_since(request.at).map(|_| ago(then));
        let its = calls.iter().find(|call| call.request_id == request.request_id);
        let answered = its.map(|call| (&call.end, ago(call.ended)));
        let later = calls.iter().filter(|call| call.client == request.client);
        let later = later.filter(|call| call.began > request.at).take(2);
        let later: Vec<_> =
            later.map(|call| (&call.end, ago(call.began), ago(call.ended))).collect();
        let kills = self.kills.iter().map(|gone| (gone.gateway, since(gone.from), since(gone.to)));
        let kills: Vec<_> = kills.collect();
        let sql = format!("SELECT * FROM farebox.holds WHERE id = '{}'", request.request_id);
        let hold = self.postgres.try_sql(&self.database, &sql);
        format!(
            "{request:?}\n answered {answered:?}, then {later:?}\n kills {kills:?}\n hold {hold:?}"
        )
    }

    /// Checks that nothing is held, except for calls of a killed gateway, whose holds live until
    /// they expire.
    async fn nothing_is_held(&self, served: &[Served]) -> Result<(), String> {
        let clients = served.iter().map(|request| request.client).filter(|n| *n != usize::MAX);
        let clients = clients.max().map_or(0, |last| last + 1);
        for account in self.granted.keys() {
            let may_hold = |client: &usize| {
                let gateway = gateway_of(*client, self.members.len());
                account_of(*client, self.members.len()) == account
                    && self.kills.iter().any(|kill| kill.gateway == gateway)
            };
            let kills = self.kills.len() as i64;
            let limit = MICROS * PRICE * (0..clients).filter(may_hold).count() as i64 * kills;
            let shown = show(self.alive(), account).await?;
            let held = micros(&shown["held"]);
            if held > limit {
                return Err(format!("{held} held, {limit} may be: {shown}"));
            }
        }
        Ok(())
    }

    /// Checks that every gateway shows this balance to the operator and, from Redis, to the
    /// account.
    async fn everybody_says(&self, account: &str, balance: i64) -> Result<(), String> {
        for Member { process, .. } in &self.members {
            let own = process.client.get(process.url("/credits/balance"));
            let own = answered(Answer::of(own.bearer_auth(token(account))).await)?;
            for shown in [own, show(process, account).await?] {
                if micros(&shown["balance"]) != balance {
                    return Err(format!("{account}: the entries say {balance}, a gateway {shown}"));
                }
            }
        }
        Ok(())
    }

    /// Checks Postgres by itself: balances are sums, and no number of a sequence is missing.
    fn postgres_adds_up(&self) -> Result<(), String> {
        const WRONG: &str = "SELECT id, balance, seq, sum, last, count FROM farebox.accounts \
             LEFT JOIN (SELECT account, sum(amount), max(seq) AS last, count(*) \
             FROM farebox.entries GROUP BY account) AS e ON account = id \
             WHERE balance <> coalesce(sum, 0) OR seq <> coalesce(last, 0) \
             OR coalesce(last, 0) <> coalesce(count, 0)";
        match self.postgres.try_sql(&self.database, WRONG)? {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(format!("account|balance|seq|sum|last|count:\n{wrong}")),
        }
    }

    /// The product's own report on its ledger.
    async fn reconciles(&self) -> Result<(), String> {
        let report = ask(self.alive(), "/admin/reconcile").await?;
        if report["clean"] != true {
            return Err(report.to_string());
        }
        self.run(0, &["reconcile"]).map(|_| ())
    }

    /// A gateway to ask.
    fn alive(&self) -> &Process {
        self.gateway(0)
    }
}

/// The body of an answer that is 200. After a fault, a gateway may refuse for a moment, until it notices that an old
/// connection is gone.
fn answered(answer: Answer) -> Result<Value, String> {
    if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text) }
}

/// Reads a path of the admin listener, as an operator does.
async fn ask(process: &Process, path: &str) -> Result<Value, String> {
    answered(process.admin(http::Method::GET, path, "").await)
}

async fn show(process: &Process, account: &str) -> Result<Value, String> {
    ask(process, &format!("/admin/accounts/{account}")).await
}

/// Every transaction of an account, newest first.
async fn transactions(process: &Process, account: &str) -> Result<Vec<Value>, String> {
    let first = format!("/admin/accounts/{account}/transactions?limit=200");
    let mut page = ask(process, &first).await?;
    let mut lines = Vec::new();
    loop {
        lines.extend(page["transactions"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else { return Ok(lines) };
        page = ask(process, &format!("{first}&cursor={cursor}")).await?;
    }
}

/// Checks that an entry charges what its call cost: by its usage, or by the delivered part of a stream that was cut
/// short.
fn is_exact(line: &Value, used: Option<Used>, cut_short: Option<i64>) -> Result<(), String> {
    let Some(used) = used else {
        let is_fixed = micros(&line["amount"]) == -PRICE * MICROS;
        return if is_fixed { Ok(()) } else { Err(format!("not {PRICE}")) };
    };
    if line["model"] != "m" {
        return Err("no model".to_owned());
    }
    let cost = cut_short.unwrap_or(used.micros());
    if micros(&line["amount"]) != -cost {
        return Err(format!("not {cost} micro-credits"));
    }
    if cut_short.is_none() && line["usage"] != used.entry() {
        return Err(format!("not {}", used.entry()));
    }
    Ok(())
}

/// Checks that each line's balance is the balance before it plus its amount. `lines` has the newest
/// first. Returns the newest balance, in micro-credits.
fn lines_add_up(account: &str, lines: &[Value]) -> Result<i64, String> {
    let mut balance = 0;
    for line in lines.iter().rev() {
        balance += micros(&line["amount"]);
        if micros(&line["balance_after"]) != balance {
            return Err(format!("{account} should have {balance}: {line}"));
        }
    }
    Ok(balance)
}

/// A log's end, without the line of each paid call.
fn tail(text: &str) -> String {
    let is_noise = |line: &str| line.contains("farebox::usage") || line.contains("reusable stream");
    let lines = text.lines().filter(|line| !is_noise(line));
    let lines: Vec<&str> = lines.collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
