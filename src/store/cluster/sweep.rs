//! The sweep renews the holds of calls that are running, and ends other holds whose time is up.

use crate::ledger::CALL_TTL_MS;
use crate::ledger::LedgerError;
use crate::ledger::backend::{Expired, IsLive};
use crate::ledger::operation::{HoldId, Operation};
use crate::store::cluster::debts::Expiring;
use crate::store::cluster::redis::connection::args;
use crate::store::cluster::redis::record::route_of;
use crate::store::cluster::redis::reply::Verdict;
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::redis_look;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::work::{self, MAX_BATCH};

/// How long after its deadline only its own gateway may end a call's hold, in milliseconds: for ever. The deadline is
/// meaningless to other gateways, because Redis may have stood still while the call continued. `lost_gateways` ends the
/// holds of a gateway that is lost.
const GRACE_MS: &str = "9007199254740991";

/// The most holds that one sweep ends.
const LIMIT: &str = "500";

/// A gateway that is not the syncer looks at the live holds only once in this many sweeps, because each look costs
/// Redis some time for each hold. The syncer looks every time, and so ends the API's holds in time. The others only
/// look for their own calls, whose holds no other gateway ends.
const OTHERS_LOOK_EVERY: usize = 10;

/// The sweeps of one gateway. Each looks at some of the live holds.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// The number of sweeps so far.
    sweeps: usize,
    /// The cursor of HSCAN at which the next sweep begins.
    cursor: String,
}

/// The holds whose time is up.
#[derive(Default)]
pub(crate) struct Due {
    /// Renewals of holds whose calls are running in this process.
    renewals: Vec<Operation>,
    /// Holds whose deadline has passed.
    overdue: Vec<Expiring>,
    /// Holds of calls whose gateway is lost.
    orphans: Vec<Expiring>,
}

impl Sweep {
    pub fn new() -> Self {
        Self { sweeps: 0, cursor: "0".to_owned() }
    }

    /// Sweeps once. Returns the holds that expired.
    pub async fn run(
        &mut self,
        shared: &Shared,
        is_live: &IsLive<'_>,
    ) -> Result<Vec<Expired>, LedgerError> {
        let due = self.due(shared, is_live).await?;
        Ok(match due {
            Some(due) => due.end(shared).await,
            None => Vec::new(),
        })
    }

    /// Lists some of the holds whose time is up. `None` if there are none, if no epoch is open, or if Redis's clock
    /// cannot be trusted.
    pub async fn due(
        &mut self,
        shared: &Shared,
        is_live: &IsLive<'_>,
    ) -> Result<Option<Due>, LedgerError> {
        let Some(scripts) = shared.epoch.scripts() else { return Ok(None) };
        redis_look::read_clock(shared).await?;
        if !shared.watch.is_steady() {
            return Ok(None);
        }
        let looks = shared.syncer.is_elected() || self.sweeps.is_multiple_of(OTHERS_LOOK_EVERY);
        self.sweeps = self.sweeps.wrapping_add(1);
        let reply = if looks { self.look(shared, &scripts).await? } else { Vec::new() };
        let mut reply = reply.into_iter();
        let mut due = Due { orphans: shared.debts.take_expiring(), ..Due::default() };
        while let (Some(id), Some(record)) = (reply.next(), reply.next()) {
            let Ok(hold) = id.parse::<HoldId>() else { continue };
            if is_live(&hold) {
                due.renewals.push(Operation::Renew { hold, ttl_ms: CALL_TTL_MS });
            } else {
                due.overdue.push((hold, route_of(&record)));
            }
        }
        let is_empty = due.renewals.is_empty() && due.overdue.is_empty() && due.orphans.is_empty();
        Ok((!is_empty).then_some(due))
    }

    /// Looks at some of the live holds. For each hold whose time is up, the result has its id and then its record.
    async fn look(
        &mut self,
        shared: &Shared,
        scripts: &Scripts,
    ) -> Result<Vec<String>, LedgerError> {
        let owner = shared.settings.incarnation.to_string();
        let words = args(["due", &owner, GRACE_MS, LIMIT, &self.cursor]);
        let mut reply: Vec<String> = shared.maintain(scripts, words).await?.convert()?;
        self.cursor = if reply.is_empty() { "0".to_owned() } else { reply.remove(0) };
        Ok(reply)
    }
}

impl Due {
    /// Renews and ends the holds. Returns the holds that expired.
    pub async fn end(self, shared: &Shared) -> Vec<Expired> {
        let mut items: Vec<_> = self.renewals.iter().map(BatchItem::Operation).collect();
        items.extend(self.overdue.iter().map(|(hold, _)| expire(hold, false)));
        items.extend(self.orphans.iter().map(|(hold, _)| expire(hold, true)));
        let mut decisions = Vec::with_capacity(items.len());
        for some in items.chunks(MAX_BATCH) {
            decisions.extend(work::decide(shared, some).await);
        }
        let mut verdicts = decisions.iter().skip(self.renewals.len()).map(|d| d.verdict);
        let mut expired = Vec::new();
        for (hold, route) in self.overdue {
            if verdicts.next() == Some(Verdict::Expired) {
                expired.push(Expired { hold, route });
            }
        }
        for (hold, route) in self.orphans {
            match verdicts.next() {
                Some(Verdict::Expired) => expired.push(Expired { hold, route }),
                // No other task ends this hold, so it stays on the list until Redis decides.
                Some(Verdict::Unavailable) => shared.debts.expire([(hold, route)]),
                _ => {}
            }
        }
        expired
    }
}

fn expire(hold: &HoldId, in_any_case: bool) -> BatchItem<'_> {
    BatchItem::Expire { hold, in_any_case }
}
