//! The net effect of some batches, calculated before it is written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::{Ending, HoldId, OperationId, Origin};
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::postgres::calls::is_of_a_call;
use crate::store::cluster::postgres::claims::ClaimTally;
use crate::usage::UsageRecord;

/// A charge that becomes an entry.
#[derive(Debug)]
pub(crate) struct Capture {
    pub operation: OperationId,
    pub account: AccountId,
    /// The change of the balance, below zero.
    pub amount: SignedCredits,
    pub route: Arc<str>,
    pub usage: Option<Arc<UsageRecord>>,
    pub at_ms: i64,
    /// Whether the hold is a call's, with an id that a gateway made.
    pub is_call: bool,
}

/// The row of a hold.
#[derive(Debug)]
pub(crate) struct HoldRow {
    id: HoldId,
    account: AccountId,
    amount: Credits,
    route: Arc<str>,
    origin: Origin,
    owner: i64,
    /// `None` while the hold is live.
    ending: Option<Ending>,
    expires_ms: i64,
    ended_ms: Option<i64>,
}

/// The net effect of some batches. A hold that was both made and captured within them leaves no
/// row.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub captures: Vec<Capture>,
    pub holds: HashMap<HoldId, HoldRow>,
    /// Captured holds that were made by earlier batches, so that their rows may be in the database.
    pub captured: Vec<String>,
    /// New amounts of holds that were made by earlier batches, in micro-credits.
    pub extended: HashMap<String, i64>,
    /// New deadlines of holds that were made by earlier batches, in milliseconds on Redis's clock.
    pub renewed: HashMap<String, i64>,
    /// The effect on claims; `None` if no batch has claims.
    pub claims: Option<Box<ClaimTally>>,
    /// The time of the newest batch, in milliseconds since 1970.
    pub at_ms: i64,
}

impl Tally {
    /// Adds the decisions of the next batch.
    pub fn add(&mut self, batch: Batch) {
        let at_ms = batch.at_ms;
        self.at_ms = at_ms;
        for decided in batch.decided {
            match decided {
                Decided::Held { id, account, amount, origin, owner, expires_ms, route, claim } => {
                    if let Some(claim) = claim {
                        self.claims().make(*claim, &id);
                    }
                    let (ending, ended_ms) = (None, None);
                    let row = HoldRow {
                        id: id.clone(),
                        account,
                        amount,
                        route,
                        origin,
                        owner,
                        ending,
                        expires_ms,
                        ended_ms,
                    };
                    self.holds.insert(id, row);
                }
                Decided::Extended { id, amount, .. } => match self.holds.get_mut(&id) {
                    Some(row) => row.amount = amount,
                    None => {
                        let amount = amount.signed().micros();
                        self.extended.insert(id.as_str().to_owned(), amount);
                    }
                },
                Decided::Renewed { id, expires_ms } => match self.holds.get_mut(&id) {
                    Some(row) => row.expires_ms = expires_ms,
                    None => drop(self.renewed.insert(id.as_str().to_owned(), expires_ms)),
                },
                Decided::Captured { id, account, amount, origin, late, route, usage, claim } => {
                    if let Some(claim) = claim {
                        self.claims().charge(*claim, &id, at_ms);
                    }
                    let (operation, amount) = (OperationId::capture(&id), -amount.signed());
                    let is_call = origin == Origin::Call && is_of_a_call(id.as_str());
                    self.captures.push(Capture {
                        operation,
                        account,
                        amount,
                        route,
                        usage,
                        at_ms,
                        is_call,
                    });
                    // A late charge keeps the row, which records how its hold ended.
                    if !late && self.holds.remove(&id).is_none() {
                        self.captured.push(id.as_str().to_owned());
                    }
                }
                Decided::Ended { id, account, amount, origin, ending, route } => {
                    if let Some(claims) = &mut self.claims {
                        claims.give_up(&id);
                    }
                    let expires_ms = at_ms;
                    let row = self.holds.entry(id.clone()).or_insert(HoldRow {
                        id,
                        account,
                        amount,
                        route,
                        origin,
                        owner: 0,
                        ending: None,
                        expires_ms,
                        ended_ms: None,
                    });
                    (row.ending, row.ended_ms) = (Some(ending), Some(at_ms));
                }
                Decided::Marked { hold, claim } => self.claims().mark(claim.0, hold, claim.1),
                Decided::Left(call) => self.claims().leave(*call),
                Decided::Retried { hold } => self.claims().use_up(hold),
            }
        }
    }

    fn claims(&mut self) -> &mut ClaimTally {
        self.claims.get_or_insert_default()
    }
}

/// Holds as columns, which `UNNEST` turns into rows.
#[derive(Debug, Default)]
pub(crate) struct HoldColumns {
    pub ids: Vec<String>,
    pub accounts: Vec<String>,
    pub amounts: Vec<i64>,
    pub routes: Vec<String>,
    pub origins: Vec<&'static str>,
    pub owners: Vec<i64>,
    pub states: Vec<&'static str>,
    pub deadlines: Vec<i64>,
    pub ends: Vec<Option<i64>>,
}

impl HoldColumns {
    /// Adds the row of a hold.
    pub fn push(&mut self, hold: &HoldRow) {
        self.ids.push(hold.id.as_str().to_owned());
        self.accounts.push(hold.account.as_str().to_owned());
        // An amount is at most 2^53.
        self.amounts.push(i64::try_from(hold.amount.micros()).unwrap_or(i64::MAX));
        self.routes.push((*hold.route).to_owned());
        self.origins.push(hold.origin.as_str());
        self.owners.push(hold.owner);
        self.states.push(hold.ending.map_or("live", Ending::as_str));
        self.deadlines.push(hold.expires_ms);
        self.ends.push(hold.ended_ms);
    }
}
