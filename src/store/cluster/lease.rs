//! The lease of this gateway: its right to answer callers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::config::Durability;
use crate::store::cluster::postgres::LEASE;

/// This gateway shortens its lease by this time, so that the lease always ends here before it ends
/// in Postgres.
const MARGIN: Duration = Duration::from_millis(300);

/// The greatest age of a reply of Redis that is passed on without a lease. A recovery takes longer
/// (`RECOVERY_TAKES` in `recovery`), so a reply from before a loss of Redis's data is never passed
/// on after the recovery.
const REPLY_LIMIT: Duration = Duration::from_millis(500);

/// The lease, and whether an answer may be given without one.
#[derive(Debug)]
pub(crate) struct Lease {
    durability: Durability,
    /// Whether another Redis may take the place of this one without notice: there is a sentinel, or
    /// there has been a replica.
    can_fail_over: AtomicBool,
    term: Mutex<Term>,
}

#[derive(Debug, Default)]
struct Term {
    until: Option<Instant>,
    /// The number of the present term. A term is a series of leases without a gap.
    number: u64,
}

/// The moment at which a request was sent to Redis, and the term of the lease at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    at: Instant,
    term: Option<u64>,
}

impl Lease {
    pub fn new(durability: Durability, can_fail_over: bool) -> Self {
        Self { durability, can_fail_over: can_fail_over.into(), term: Mutex::default() }
    }

    /// Records a lease that Postgres granted to a request made at `asked`.
    pub fn extend(&self, asked: Instant) {
        let mut term = self.lock();
        if term.until.is_none_or(|until| until <= Instant::now()) {
            term.number += 1;
        }
        term.until = Some(asked + LEASE.saturating_sub(MARGIN));
    }

    /// Records that Redis has a replica. This is never undone, because a replica that is no longer
    /// seen may have been promoted.
    pub fn note_replica(&self) {
        self.can_fail_over.store(true, Ordering::Relaxed);
    }

    /// The time and the term for [`Lease::may_answer`]. Call this right before a request is sent to
    /// Redis.
    pub fn sending(&self) -> Sent {
        Sent { at: Instant::now(), term: self.number() }
    }

    /// Whether the reply to a request may be passed on to the caller.
    ///
    /// With a lease, it may if there was no gap between leases since the request was sent. In a
    /// gap, this process may have been paused while other gateways went on. Without a lease, it may
    /// only in `relaxed`, and only if no other Redis can have taken the place of this one and the
    /// reply is younger than any recovery takes.
    pub fn may_answer(&self, sent: Sent) -> bool {
        if sent.term.is_some() && sent.term == self.number() {
            return true;
        }
        self.durability == Durability::Relaxed
            && !self.can_fail_over.load(Ordering::Relaxed)
            && sent.at.elapsed() < REPLY_LIMIT
    }

    /// The number of the term; `None` without a lease.
    fn number(&self) -> Option<u64> {
        let term = self.lock();
        term.until.is_some_and(|until| Instant::now() < until).then_some(term.number)
    }

    fn lock(&self) -> MutexGuard<'_, Term> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_under_one_lease_that_was_never_interrupted() {
        let lease = Lease::new(Durability::Strict, false);
        let before = lease.sending();
        assert!(!lease.may_answer(before), "there was no lease");
        lease.extend(Instant::now());
        let sent = lease.sending();
        assert!(lease.may_answer(sent) && !lease.may_answer(before));
        lease.extend(Instant::now());
        assert!(lease.may_answer(sent), "a renewal in time goes on with the same term");
        let Some(long_ago) = Instant::now().checked_sub(LEASE) else { return };
        lease.extend(long_ago);
        assert!(!lease.may_answer(sent), "the lease has run out");
        lease.extend(Instant::now());
        assert!(!lease.may_answer(sent), "a new lease does not cover an earlier request");
    }

    #[test]
    fn a_lone_redis_is_believed_without_a_lease_in_relaxed_for_a_moment() {
        let lease = Lease::new(Durability::Relaxed, false);
        let sent = lease.sending();
        assert!(lease.may_answer(sent));
        let old = sent.at.checked_sub(REPLY_LIMIT);
        assert!(old.is_none_or(|at| !lease.may_answer(Sent { at, ..sent })));
        lease.note_replica();
        assert!(!lease.may_answer(lease.sending()), "a replica may have been promoted");
        assert!(!Lease::new(Durability::Relaxed, true).may_answer(sent));
    }
}
