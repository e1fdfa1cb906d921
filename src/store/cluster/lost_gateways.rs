//! The calls of lost gateways. Only the holds of these calls expire.
//!
//! The hold of a call belongs to its gateway, which renews it while the call runs. Another gateway ends the hold only
//! if the owner is lost: for ten seconds the owner has had no lease, and Redis has not heard from it, although both
//! stores were able to hear from it. A store that stood still, or whose clock jumped, was not able to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::{self, CallHold};
use crate::store::cluster::redis::connection::args;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync;

/// How long both stores must have heard nothing from a gateway before its calls expire.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// The longest time between two checks that count as following each other. If more time has passed,
/// a store or this process may have stood still.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// Two readings of Redis's clock that differ by at most this, in milliseconds, count as the same moment.
const SAME_MOMENT_MS: i64 = 1000;

/// The gateways without a lease, and how long each has been silent.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    silent: HashMap<i64, Silence>,
    /// The time at which both stores were last checked.
    looked: Option<Instant>,
}

/// The silence of a gateway without a lease, as this gateway has observed it.
#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    /// The time at which Redis last heard from the gateway, on Redis's clock in milliseconds; `None` if Redis has not
    /// heard from it in this epoch.
    heard_ms: Option<i64>,
}

/// The stores' knowledge about a gateway without a lease.
#[derive(Clone, Copy, Debug)]
struct Heard {
    incarnation: i64,
    heard_ms: Option<i64>,
}

impl Silences {
    /// Checks both stores once, and lets the calls of every lost gateway expire.
    ///
    /// # Errors
    /// Fails if a store does not answer. Watching then begins anew.
    pub async fn expire_lost_calls(&mut self, shared: &Shared) -> Result<(), LedgerError> {
        let lost = match heard_of(shared).await {
            Ok(heard) if shared.watch.is_steady() => self.look(&heard, Instant::now()),
            Ok(_) => {
                self.begin_anew();
                return Ok(());
            }
            Err(error) => {
                self.begin_anew();
                return Err(error);
            }
        };
        for incarnation in lost {
            sync::sync(shared).await?;
            // This finds calls only if the gateway has not come back.
            let calls = postgres::call_holds_of_gone(&shared.store, incarnation).await?;
            if calls.is_empty() {
                postgres::remove_gone(&shared.store, incarnation).await?;
            }
            expire_calls(shared, incarnation, calls);
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        *self = Self::default();
    }

    /// Records which gateways without a lease were heard from. Returns the lost ones.
    fn look(&mut self, heard: &[Heard], now: Instant) -> Vec<i64> {
        let within = |at: Instant| now.saturating_duration_since(at) <= LOOK_WITHIN;
        if !self.looked.is_some_and(within) {
            self.begin_anew();
        }
        self.looked = Some(now);
        let before = std::mem::take(&mut self.silent);
        let mut lost = Vec::new();
        for &Heard { incarnation, heard_ms } in heard {
            let known = before.get(&incarnation).filter(|known| known.goes_on(heard_ms));
            let silence = known.copied().unwrap_or(Silence { since: now, heard_ms });
            if now.saturating_duration_since(silence.since) >= SILENT_FOR {
                lost.push(incarnation);
            }
            self.silent.insert(incarnation, silence);
        }
        lost
    }
}

impl Silence {
    /// Whether the silence continues, which means that the gateway was not heard from again.
    fn goes_on(&self, heard_ms: Option<i64>) -> bool {
        match (self.heard_ms, heard_ms) {
            (Some(before), Some(now)) => now.saturating_sub(before).abs() <= SAME_MOMENT_MS,
            (before, now) => before == now,
        }
    }
}

/// Reads from Postgres the gateways without a lease, and from Redis when it last heard from each.
async fn heard_of(shared: &Shared) -> Result<Vec<Heard>, LedgerError> {
    let scripts = shared.epoch.require()?;
    let mut heard = Vec::new();
    for incarnation in postgres::lost_gateways(&shared.store).await? {
        if incarnation == shared.settings.incarnation {
            continue;
        }
        let words = args(["silence", &incarnation.to_string()]);
        let silence = shared.maintain(&scripts, words).await?.as_i64().unwrap_or(-1);
        let heard_ms = (silence >= 0).then(|| shared.watch.now_ms().saturating_sub(silence));
        heard.push(Heard { incarnation, heard_ms });
    }
    Ok(heard)
}

/// Lets the holds of a gateway's calls expire with the next sweep, whatever their deadlines are. If
/// the gateway is alive after all, its captures count as late captures.
pub(crate) fn expire_calls(shared: &Shared, incarnation: i64, calls: Vec<CallHold>) {
    if !calls.is_empty() {
        tracing::warn!(
            incarnation,
            calls = calls.len(),
            "the calls of a lost gateway expire: neither store has heard of it for ten seconds"
        );
    }
    shared.debts.expire(calls.into_iter().map(|call| (call.id, call.route)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Heard = Heard { incarnation: 1, heard_ms: Some(1_795_412_683_000) };

    /// Checks `times` times, every two seconds.
    fn look(
        silences: &mut Silences,
        now: &mut Instant,
        times: u32,
        heard: impl Fn(u32) -> Heard,
    ) -> Vec<i64> {
        let mut lost = Vec::new();
        for time in 0..times {
            *now += Duration::from_secs(2);
            lost = silences.look(&[heard(time)], *now);
        }
        lost
    }

    #[test]
    fn a_gateway_is_lost_after_ten_seconds_in_which_it_could_have_been_heard() {
        let (mut silences, mut now) = (Silences::default(), Instant::now());
        assert!(look(&mut silences, &mut now, 5, |_| ONE).is_empty());
        assert_eq!(look(&mut silences, &mut now, 1, |_| ONE), [1]);
        // Both stores have stood still for three minutes.
        now += Duration::from_secs(180);
        assert!(look(&mut silences, &mut now, 5, |_| ONE).is_empty());
        assert_eq!(look(&mut silences, &mut now, 1, |_| ONE), [1]);
        // Redis was emptied, so it has never heard from any gateway.
        let never = Heard { heard_ms: None, ..ONE };
        assert!(look(&mut silences, &mut now, 5, |_| never).is_empty());
        assert_eq!(look(&mut silences, &mut now, 1, |_| never), [1]);
    }

    #[test]
    fn a_gateway_that_only_redis_hears_of_is_not_lost() {
        let (mut silences, mut now) = (Silences::default(), Instant::now());
        let lives =
            |time| Heard { heard_ms: ONE.heard_ms.map(|at| at + i64::from(time) * 2000), ..ONE };
        assert!(look(&mut silences, &mut now, 30, lives).is_empty());
        assert!(silences.look(&[], now).is_empty() && silences.silent.is_empty());
    }
}
