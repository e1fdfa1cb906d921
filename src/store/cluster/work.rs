//! The work on one batch, from its request to Redis until its decisions may be passed to the callers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use fred::types::Value;

use crate::ledger::LedgerError;
use crate::ledger::config::Durability;
use crate::ledger::operation::{Operation, Origin};
use crate::store::cluster::lease::Sent;
use crate::store::cluster::postgres::NumberedBatch;
use crate::store::cluster::redis::connection::{ScriptError, arg};
use crate::store::cluster::redis::reply::{Changes, Decision, Needs, Reply, Verdict};
use crate::store::cluster::redis::request::{BatchItem, Request};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::{HoldsToAskFor, Shared};
use crate::store::cluster::sync::{self, AGAIN_AFTER, WRITTEN_WITHIN};
use crate::store::cluster::undo::{Sending, Undo, release_of};
use crate::store::cluster::warm;

/// The largest batch of one call of `decide.lua`.
pub(crate) const MAX_BATCH: usize = 1024;

/// The most requests for a small batch. Each request after the first one follows a cache miss, and
/// decides more of the batch.
const MAX_ROUNDS: usize = 64;

/// After how many cache misses all items with a claim are set aside. The script finds out one by one that it does not know
/// how the holds of claims ended, and a batch may have a thousand of them.
const MAX_MISSES: usize = 8;

/// How a batch continues after a cache miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnMiss {
    /// The batch waits until Redis has the data that it needs.
    Warm,
    /// The batch waits for accounts and claims. Items that need to know how a hold ended stay undecided, because Postgres
    /// may have to catch up first.
    WarmAccounts,
    /// The items that need the data stay undecided, so that the others do not wait: see [`DecidedBatch::cold`].
    SetAside,
}

/// A batch, from its first request to its decisions.
#[derive(Debug)]
struct Work<'a> {
    items: &'a [BatchItem<'a>],
    /// The places of the items that are not decided yet, in order.
    waiting: Vec<usize>,
    /// The places of the items that were set aside after a cache miss, in order.
    cold: Vec<usize>,
    /// The places of the items for which a reply was lost, so that they may or may not have been
    /// decided.
    uncertain: Vec<usize>,
    decisions: Vec<Decision>,
    /// The batches that the requests added to the stream.
    batches: Vec<NumberedBatch>,
    /// The newest batch on which the decisions depend.
    seq: i64,
    /// The places of decisions that repeat the outcome of an earlier batch, because Redis had decided that operation
    /// before.
    repeated: Vec<usize>,
}

/// A batch that Redis has decided, and that is not known to be durable yet.
#[derive(Debug)]
pub(crate) struct DecidedBatch {
    /// The time at which the batch was sent, and the scripts that decided it; `None` if no epoch was open.
    by: Option<(Sent, Arc<Scripts>)>,
    decisions: Vec<Decision>,
    /// The places of the items that are not decided because of a cache miss, in order.
    pub cold: Vec<usize>,
    uncertain: Vec<usize>,
    batches: Vec<NumberedBatch>,
    seq: i64,
    /// The places of decisions that repeat the outcome of an earlier batch, in order.
    repeated: Vec<usize>,
    waits_for: WaitsFor,
}

/// The state of Postgres that the decisions wait for before they may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    Nothing,
    /// The texts of this work's own batches are appended.
    Appended,
    /// The same as [`Self::Folded`], for calls that repeat an earlier batch. At a stop, appended batches are enough.
    Repeated,
    /// The entries and holds of all batches up to this work's newest are written.
    Folded,
}

/// Lets Redis decide a batch, and makes the decisions as durable as `[ledger] durability` promises.
/// An item whose decision must not be answered gets [`Decision::UNAVAILABLE`]. A call's hold is then released.
pub(crate) async fn decide(shared: &Shared, items: &[BatchItem<'_>]) -> Vec<Decision> {
    let decided = ask_redis(shared, items, HoldsToAskFor::ALL, OnMiss::Warm).await;
    let undo = decided.undo(shared, items.iter().copied());
    let (decisions, uncertain) = decided.make_durable(shared).await;
    undo.forget();
    let holds = uncertain.into_iter().filter_map(|place| match items[place] {
        BatchItem::Operation(operation) => release_of(operation),
        BatchItem::Expire { .. } => None,
    });
    shared.debts.owe(holds);
    decisions
}

/// Lets Redis decide a batch. No decision may be answered before [`DecidedBatch::make_durable`]. New holds that `allowed`
/// does not have are refused.
pub(crate) async fn ask_redis(
    shared: &Shared,
    items: &[BatchItem<'_>],
    allowed: HoldsToAskFor,
    on_miss: OnMiss,
) -> DecidedBatch {
    let sent = shared.lease.sending();
    let mut work = Work::new(items, shared.holds_to_ask_for(sent).and(allowed));
    let scripts = shared.epoch.scripts();
    if let Some(scripts) = &scripts {
        work.run(shared, scripts, on_miss).await;
    }
    let waits_for = work.waits_for(shared.settings.durability);
    let Work { mut cold, mut repeated, decisions, uncertain, batches, seq, .. } = work;
    cold.sort_unstable();
    repeated.sort_unstable();
    let by = scripts.map(|scripts| (sent, scripts));
    DecidedBatch { by, decisions, cold, uncertain, batches, seq, repeated, waits_for }
}

impl DecidedBatch {
    /// Whether the decisions may not be answered before Postgres has their batches.
    pub fn waits_for_postgres(&self) -> bool {
        self.waits_for != WaitsFor::Nothing
    }

    /// Takes out the decisions of calls that repeat an earlier batch, and that must wait until that batch is folded, so
    /// that the others do not wait. Returns them as a batch of their own, with their places.
    pub fn take_repeated(&mut self) -> Option<(Vec<usize>, Self)> {
        if self.waits_for != WaitsFor::Repeated || self.repeated.is_empty() {
            return None;
        }
        let places = std::mem::take(&mut self.repeated);
        let take =
            |place: &usize| std::mem::replace(&mut self.decisions[*place], Decision::UNAVAILABLE);
        let decisions: Vec<_> = places.iter().map(take).collect();
        let is_any = self.decisions.iter().any(|decision| decision.verdict.acknowledges());
        self.waits_for = if is_any { WaitsFor::Appended } else { WaitsFor::Nothing };
        let repeated = Self {
            by: self.by.clone(),
            decisions,
            cold: Vec::new(),
            uncertain: Vec::new(),
            batches: Vec::new(),
            seq: self.seq,
            repeated: Vec::new(),
            waits_for: WaitsFor::Repeated,
        };
        Some((places, repeated))
    }

    /// The releases of the calls' holds that are granted, or may be, to be owed if the decisions are never answered.
    pub fn undo<'a, 'b>(
        &self,
        shared: &'a Shared,
        items: impl Iterator<Item = BatchItem<'b>>,
    ) -> Undo<'a> {
        let may_be_granted = |(place, (item, decision)): (usize, (_, &Decision))| {
            let is_granted = decision.verdict == Verdict::Held;
            (is_granted || self.uncertain.contains(&place)).then_some(item)
        };
        Undo::new(shared, items.zip(&self.decisions).enumerate().filter_map(may_be_granted))
    }

    /// Makes the decisions as durable as `[ledger] durability` promises. If that fails, or if they may not be answered
    /// for another reason, each of them becomes [`Decision::UNAVAILABLE`]. Also returns the places of the items that
    /// Redis may have decided all the same: their holds have to be released.
    pub async fn make_durable(mut self, shared: &Shared) -> (Vec<Decision>, Vec<usize>) {
        let may_be_answered = match self.by.take() {
            Some((sent, scripts)) => self.may_be_answered(shared, &scripts, sent).await,
            // Nothing was decided.
            None => true,
        };
        if !may_be_answered {
            self.withdraw();
        }
        (self.decisions, self.uncertain)
    }

    /// Makes the decisions durable, and returns whether they may be answered.
    async fn may_be_answered(&self, shared: &Shared, scripts: &Scripts, sent: Sent) -> bool {
        if !shared.lease.may_answer(sent) || !shared.redo.is_open(scripts.epoch.number) {
            return false;
        }
        if self.waits_for == WaitsFor::Nothing
            || self.seq <= shared.redo.durable(scripts.epoch.number)
        {
            return true;
        }
        // While Postgres is known to be unreachable, no caller waits for it.
        if shared.require_postgres().is_err() {
            return false;
        }
        let written = match self.waits_for {
            WaitsFor::Appended => sync::append(shared, scripts, &self.batches).await,
            WaitsFor::Repeated if shared.is_stopping_stuck() => {
                Box::pin(sync::append_stream(shared, scripts, self.seq, WRITTEN_WITHIN)).await
            }
            _ => Box::pin(self.fold(shared, scripts)).await,
        };
        if let Err(error) = &written {
            tracing::warn!(
                %error,
                "a batch is not in Postgres in time; its calls get 503 and their holds are released: see what slows \
                 Postgres down"
            );
        }
        written.is_ok() && shared.lease.may_answer(sent)
    }

    async fn fold(&self, shared: &Shared, scripts: &Scripts) -> Result<(), LedgerError> {
        let Ok(Ok(_turn)) = tokio::time::timeout(WRITTEN_WITHIN, shared.folding.acquire()).await
        else {
            return Err(LedgerError::Behind);
        };
        if self.seq <= shared.redo.durable(scripts.epoch.number) {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            match self.fold_once(shared, scripts).await {
                Err(LedgerError::RowLocked | LedgerError::Behind)
                    if began.elapsed() < WRITTEN_WITHIN =>
                {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                folded => return folded,
            }
        }
    }

    async fn fold_once(&self, shared: &Shared, scripts: &Scripts) -> Result<(), LedgerError> {
        // The batches of this work may be all that Postgres lacks. If not, the others are read from the stream.
        let is_written = sync::write_batches(shared, scripts, &self.batches).await?;
        if is_written && self.seq <= shared.redo.durable(scripts.epoch.number) {
            return Ok(());
        }
        sync::sync_up_to(shared, scripts, self.seq, WRITTEN_WITHIN).await
    }

    /// Withdraws all decisions: none of them may be answered.
    fn withdraw(&mut self) {
        for (place, decision) in self.decisions.iter_mut().enumerate() {
            if decision.verdict == Verdict::Held {
                self.uncertain.push(place);
            }
            *decision = Decision::UNAVAILABLE;
        }
    }
}

impl<'a> Work<'a> {
    /// Creates the work on these items. New and larger holds of kinds that are not in `holds` are
    /// not sent to Redis, and stay unavailable.
    fn new(items: &'a [BatchItem<'a>], holds: HoldsToAskFor) -> Self {
        let is_asked = |place: &usize| holds.allow(items[*place]);
        Self {
            items,
            waiting: (0..items.len()).filter(is_asked).collect(),
            cold: Vec::new(),
            uncertain: Vec::new(),
            decisions: vec![Decision::UNAVAILABLE; items.len()],
            batches: Vec::new(),
            seq: 0,
            repeated: Vec::new(),
        }
    }

    /// Asks Redis until every item is decided, or set aside because Redis lacks data that it needs.
    async fn run(&mut self, shared: &Shared, scripts: &Scripts, on_miss: OnMiss) {
        // The holds that are granted while the rest waits for Postgres.
        let mut undo = Undo::new(shared, std::iter::empty());
        // An item may need its account, its claim and the hold of that claim, one after the other.
        let (most, mut misses) = (MAX_ROUNDS.max(3 * self.items.len()), 0);
        for _ in 0..most {
            if self.waiting.is_empty() {
                break;
            }
            let request = self.request(shared.settings.incarnation);
            let text = request.text();
            let sending = Sending::new(shared, self.items, &self.waiting);
            let reply = ask(shared, scripts, &request, &text).await;
            sending.end();
            let Ok(reply) = reply else { break };
            let Some(reply) = reply else {
                self.doubt_the_rest();
                break;
            };
            let mut needs = self.take(reply, &text, scripts, shared);
            if self.waiting.is_empty() {
                break;
            }
            misses += 1;
            let with_claims = misses >= MAX_MISSES;
            if on_miss == OnMiss::SetAside {
                self.set_aside(&needs, true, with_claims);
                continue;
            }
            undo.replace(granted(self.items.iter().copied(), &self.decisions));
            if on_miss == OnMiss::WarmAccounts && !needs.holds.is_empty() {
                let fates = Needs { holds: std::mem::take(&mut needs.holds), ..Needs::default() };
                self.set_aside(&fates, needs.is_empty(), with_claims);
                if needs.is_empty() {
                    continue;
                }
            }
            if let Err(error) = Box::pin(warm::warm(shared, scripts, &needs)).await {
                tracing::warn!(
                    %error,
                    "a batch needs an account, a hold or a key that only Postgres has, and that cannot be loaded in time; it \
                     is answered 503: see what keeps rows locked or slows Postgres down"
                );
                self.skip_blocked(&needs);
            }
        }
        undo.forget();
    }

    /// The request for the items that are not decided yet.
    fn request(&self, owner: i64) -> Request<'a> {
        let items = self.items;
        Request::new(self.waiting.iter().map(|place| items[*place]), owner)
    }

    /// Stores the decisions of a reply, and records the batch in the redo log before any caller is
    /// answered. Returns what the remaining items need.
    fn take(&mut self, reply: Reply, text: &str, scripts: &Scripts, shared: &Shared) -> Needs {
        let Reply { seq, durable, has_replica, head, decisions, needs } = reply;
        let is_relaxed = shared.settings.durability == Durability::Relaxed;
        if has_replica {
            shared.lease.note_replica();
        }
        let (changes, mut repeated) = (Changes::of(&head), Vec::new());
        let decided = self.waiting.drain(..decisions.len().min(self.waiting.len()));
        for (place, (item, decision)) in decided.zip(decisions).enumerate() {
            if decision.verdict == Verdict::Unavailable {
                tracing::error!(
                    "by Redis's clock the id of a new call is more than a day old: set the clock of this \
                     machine, or that of Redis"
                );
            }
            if decision.verdict == Verdict::Capped {
                shared.intake.log_capped(self.items[item].account());
            }
            // This operation is acknowledged but changed nothing in this batch. So it took effect in an earlier batch,
            // whose reply was lost. No redo log has that batch, and perhaps no gateway has appended it.
            if decision.verdict.acknowledges() && !changes.contains(place) {
                self.repeated.push(item);
                if is_relaxed
                    && let BatchItem::Operation(operation @ Operation::Capture { .. }) =
                        self.items[item]
                {
                    repeated.push(operation.clone());
                }
            }
            self.decisions[item] = decision;
        }
        self.seq = self.seq.max(seq);
        // The text of the batch, exactly as it stands in the stream.
        let batch =
            (!head.is_empty()).then(|| NumberedBatch { seq, text: format!("{head}\n{text}") });
        let logged = if is_relaxed { batch.clone() } else { None };
        shared.redo.record(scripts.epoch.number, durable, seq, repeated, logged);
        self.batches.extend(batch);
        needs
    }

    /// Records that the items that are not decided yet may have been decided.
    fn doubt_the_rest(&mut self) {
        self.uncertain.append(&mut self.waiting);
    }

    /// Removes two kinds of items from the undecided ones: the items that cannot be decided without `needs`, and the
    /// first item, at which the script stopped.
    fn skip_blocked(&mut self, needs: &Needs) {
        let first = self.waiting.first().copied();
        let items = self.items;
        self.waiting.retain(|place| Some(*place) != first && !is_blocked(items[*place], needs));
    }

    /// Sets items aside that cannot be decided without `needs`, and with them all later items about the same account,
    /// hold or claim, because those have to be decided after them. If `with_first`, the first item is set aside too, and if
    /// `with_claims`, all items that have a claim.
    fn set_aside(&mut self, needs: &Needs, with_first: bool, with_claims: bool) {
        let first = self.waiting.first().copied();
        let (mut accounts, mut holds, mut claims) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        let (items, cold) = (self.items, &mut self.cold);
        self.waiting.retain(|place| {
            let item = items[*place];
            let follows = item.account().is_some_and(|account| accounts.contains(account))
                || item.hold().is_some_and(|hold| holds.contains(hold))
                || item.claim().is_some_and(|claim| claims.contains(&claim));
            let goes = follows
                || (with_first && Some(*place) == first)
                || (with_claims && item.claim().is_some())
                || is_blocked(item, needs);
            if goes {
                accounts.extend(item.account());
                holds.extend(item.hold());
                claims.extend(item.claim());
                cold.push(*place);
            }
            !goes
        });
    }

    /// The writes that must be in Postgres before the decisions may be answered. API holds outlive every
    /// gateway, and a service that ends one may list its entry next, so decisions about them are folded.
    fn waits_for(&self, durability: Durability) -> WaitsFor {
        let decisions = self.items.iter().zip(&self.decisions);
        let mut acknowledged = decisions.filter(|(_, decision)| decision.verdict.acknowledges());
        let is_strict = durability == Durability::Strict;
        let is_any = acknowledged.clone().next().is_some();
        if acknowledged.any(|(item, _)| item.origin() == Some(Origin::Api)) {
            WaitsFor::Folded
        } else if !is_strict || !is_any {
            WaitsFor::Nothing
        } else if !self.repeated.is_empty() {
            WaitsFor::Repeated
        } else {
            WaitsFor::Appended
        }
    }
}

/// The items whose holds are granted.
fn granted<'a>(
    items: impl Iterator<Item = BatchItem<'a>>,
    decisions: &[Decision],
) -> impl Iterator<Item = BatchItem<'a>> {
    let granted = items.zip(decisions).filter(|(_, d)| d.verdict == Verdict::Held);
    granted.map(|(item, _)| item)
}

/// Whether an item cannot be decided without `needs`.
fn is_blocked(item: BatchItem<'_>, needs: &Needs) -> bool {
    item.account().is_some_and(|account| needs.accounts.contains(account))
        || item.hold().is_some_and(|hold| needs.holds.contains(hold))
        || item.claim().is_some_and(|id| needs.claims.contains(&id) || needs.left.contains(&id))
}

/// The error of a request for which nothing was decided: the epoch has ended, or Redis is known to be unreachable.
struct NothingDecided;

/// Sends one request. Returns `None` if there is no reply. The batch may have been decided nevertheless.
async fn ask(
    shared: &Shared,
    scripts: &Scripts,
    request: &Request<'_>,
    text: &str,
) -> Result<Option<Reply>, NothingDecided> {
    let (durable, newest) = shared.redo.known(scripts.epoch.number);
    let packed = request.packed(scripts, durable, shared.settings.unsynced_cap);
    let args = vec![Value::Bytes(packed.into()), arg(text)];
    let reply = match shared.redis.decide(scripts, args).await {
        Ok(value) => match Reply::parse(value, request) {
            Some(reply) if reply.is_behind(newest) => {
                tracing::error!(
                    known = newest,
                    decided = reply.seq,
                    "Redis has gone back to an earlier state without a restart, so nothing that it decides counts, and \
                     a recovery begins from Postgres: see whether its machine was put back to a snapshot"
                );
                shared.data_lost(scripts.epoch.number);
                return Ok(None);
            }
            reply => reply,
        },
        Err(ScriptError::EpochLost) => {
            shared.epoch_lost(scripts.epoch.number);
            return Err(NothingDecided);
        }
        Err(ScriptError::NotSent) => {
            shared.intake.note_decided(false);
            return Err(NothingDecided);
        }
        Err(ScriptError::Failed(error)) => {
            tracing::warn!(
                %error,
                "Redis does not decide; callers get 503, and the ids tell later what it decided of the batch all the \
                 same"
            );
            None
        }
    };
    shared.intake.note_decided(reply.is_some());
    Ok(reply)
}
