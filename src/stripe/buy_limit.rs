//! The rate at which one account may begin purchases without paying. Each purchase makes requests to
//! Stripe, whose rate limit all accounts share, and may leave a row in the ledger.
//!
//! Each gateway counts for itself, so with several gateways an account has this rate at each of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::account::AccountId;

/// The time after which an account may begin another purchase.
const ONE_EVERY: Duration = Duration::from_secs(10);

/// The number of purchases that an account may begin at once after a pause.
const AT_ONCE: u32 = 6;

/// If more accounts than this are remembered, those without a recent purchase are forgotten.
const MANY: usize = 1024;

/// The accounts that have begun purchases lately.
#[derive(Debug, Default)]
pub(super) struct BuyLimit(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    /// For each account, the moment until which its past purchases use up the rate (in GCRA, the
    /// theoretical arrival time).
    due: HashMap<AccountId, Instant>,
    /// The number of accounts at which the next clean-up is due.
    look_at: usize,
}

impl BuyLimit {
    /// Counts a purchase that begins at `now`.
    ///
    /// # Errors
    /// The time to wait, if the account has begun too many purchases. The attempt is then not
    /// counted.
    pub fn begin(&self, account: &AccountId, now: Instant) -> Result<(), Duration> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = recent.due.get(account).copied().unwrap_or(now).max(now);
        let ahead = due.duration_since(now);
        let most = ONE_EVERY * (AT_ONCE - 1);
        if let Some(wait) = ahead.checked_sub(most).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        recent.due.insert(account.clone(), due + ONE_EVERY);
        // The clean-up runs each time that the map has doubled, so its cost for one purchase is constant.
        if recent.due.len() > recent.look_at.max(MANY) {
            recent.due.retain(|_, due| *due > now);
            recent.look_at = recent.due.len() * 2;
        }
        Ok(())
    }

    /// Takes back the count of a purchase that was paid. A buyer who pays is never limited.
    pub fn paid(&self, account: &AccountId) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = recent.due.get_mut(account)
            && let Some(earlier) = due.checked_sub(ONE_EVERY)
        {
            *due = earlier;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    #[test]
    fn a_few_may_begin_at_once_and_then_one_by_one() {
        let (limit, now, alice) = (BuyLimit::default(), Instant::now(), account("alice"));
        for _ in 0..AT_ONCE {
            assert_eq!(limit.begin(&alice, now), Ok(()));
        }
        assert_eq!(limit.begin(&alice, now), Err(ONE_EVERY));
        assert_eq!(limit.begin(&account("bob"), now), Ok(()), "each account for itself");
        let later = now + Duration::from_secs(9);
        assert_eq!(limit.begin(&alice, later), Err(Duration::from_secs(1)));
        let later = now + ONE_EVERY;
        assert_eq!(limit.begin(&alice, later), Ok(()));
        assert_eq!(limit.begin(&alice, later), Err(ONE_EVERY));
        let rested = later + ONE_EVERY * AT_ONCE;
        for _ in 0..AT_ONCE {
            assert_eq!(limit.begin(&alice, rested), Ok(()));
        }
        assert!(limit.begin(&alice, rested).is_err());
    }

    #[test]
    fn a_buyer_who_pays_never_waits() {
        let (limit, now, alice) = (BuyLimit::default(), Instant::now(), account("alice"));
        for _ in 0..10 * AT_ONCE {
            assert_eq!(limit.begin(&alice, now), Ok(()));
            limit.paid(&alice);
        }
        for _ in 0..AT_ONCE {
            assert_eq!(limit.begin(&alice, now), Ok(()));
        }
        assert_eq!(limit.begin(&alice, now), Err(ONE_EVERY), "unpaid ones count as before");
    }

    #[test]
    fn accounts_that_have_not_bought_lately_are_forgotten() {
        let (limit, start) = (BuyLimit::default(), Instant::now());
        for n in 0..10 * MANY {
            let now = start + Duration::from_millis(100) * u32::try_from(n).unwrap();
            limit.begin(&account(&format!("buyer-{n}")), now).unwrap();
        }
        let known = limit.0.lock().unwrap().due.len();
        assert!(known <= 2 * MANY, "{known}");
    }
}
