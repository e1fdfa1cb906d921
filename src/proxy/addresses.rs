//! The addresses of one upstream. Calls use them in turn, and avoid those that failed lately.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// The most addresses that one call tries. Each attempt takes at most `connect_timeout`, so a call
/// that reaches no address fails within `MAX_ATTEMPTS` times `connect_timeout`.
pub(super) const MAX_ATTEMPTS: usize = 16;

/// A call begins no further attempt once this long has passed since its first failed attempt.
const TRY_FOR: Duration = Duration::from_secs(60);

/// After a connection to an address has failed, calls avoid the address for this long: they try it
/// only after all others. Then one call tries it in its turn, while the other calls still avoid it.
const AVOID_MS: u64 = 10_000;

/// The addresses of one upstream; empty until its name is resolved. Successive calls begin at
/// successive addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    list: ArcSwap<Vec<Address>>,
    next_turn: AtomicUsize,
    opened: Instant,
}

#[derive(Debug)]
struct Address {
    socket: SocketAddr,
    /// Until this time the address is tried only after all others, in milliseconds since `opened`.
    /// 0 if the last connection to it succeeded.
    avoid_until_ms: AtomicU64,
}

/// The addresses that one call has tried.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The index of the address at which this call begins. `None` if there is only one address.
    turn: Option<usize>,
    failed: Vec<SocketAddr>,
    first_failure: Option<Instant>,
}

impl Attempts {
    /// The number of connections that failed.
    pub fn failures(&self) -> usize {
        self.failed.len()
    }
}

impl Addresses {
    /// The addresses that are known before the first look-up.
    pub fn new(known: impl IntoIterator<Item = SocketAddr>) -> Self {
        let list = known.into_iter().map(|socket| Address::new(socket, 0)).collect();
        Self {
            list: ArcSwap::from_pointee(list),
            next_turn: AtomicUsize::new(0),
            opened: Instant::now(),
        }
    }

    /// Replaces the list with the result of a look-up. Addresses in both keep their record of
    /// failures.
    pub fn replace(&self, found: &[SocketAddr]) {
        let before = self.list.load();
        if before.iter().map(|address| &address.socket).eq(found) {
            return;
        }
        let record = |socket: &SocketAddr| {
            let known = before.iter().find(|address| address.socket == *socket);
            known.map_or(0, |address| address.avoid_until_ms.load(Ordering::Relaxed))
        };
        let list = found.iter().map(|socket| Address::new(*socket, record(socket))).collect();
        self.list.store(Arc::new(list));
    }

    /// The address that a call tries next; `None` if it has tried all. The search begins at the
    /// call's turn and skips the addresses that the call has tried. It prefers the first one that
    /// did not fail lately; if all did, it takes the first.
    pub fn next(&self, attempts: &mut Attempts) -> Option<SocketAddr> {
        self.next_at(attempts, || self.now_ms())
    }

    fn next_at(&self, attempts: &mut Attempts, now_ms: impl Fn() -> u64) -> Option<SocketAddr> {
        let list = self.list.load();
        if let [only] = list.as_slice() {
            return Some(only.socket).filter(|socket| !attempts.failed.contains(socket));
        }
        let take_turn = || self.next_turn.fetch_add(1, Ordering::Relaxed);
        let turn = *attempts.turn.get_or_insert_with(take_turn) % list.len().max(1);
        let (first, rest) = (list.get(turn..)?, list.get(..turn)?);
        let mut last_resort = None;
        for address in first.iter().chain(rest) {
            if attempts.failed.contains(&address.socket) {
                continue;
            }
            if address.is_worth_trying(&now_ms) {
                return Some(address.socket);
            }
            last_resort = last_resort.or(Some(address.socket));
        }
        last_resort
    }

    /// Records that a call could not connect to `socket`. True if the call should try another
    /// address.
    pub fn failed(&self, attempts: &mut Attempts, socket: SocketAddr) -> bool {
        self.failed_at(attempts, socket, self.now_ms())
    }

    fn failed_at(&self, attempts: &mut Attempts, socket: SocketAddr, now_ms: u64) -> bool {
        let list = self.list.load();
        if let Some(address) = list.iter().find(|address| address.socket == socket) {
            address.avoid_until_ms.store(now_ms.saturating_add(AVOID_MS), Ordering::Relaxed);
        }
        attempts.failed.push(socket);
        let since = attempts.first_failure.get_or_insert_with(Instant::now).elapsed();
        since < TRY_FOR
            && attempts.failed.len() < MAX_ATTEMPTS
            && list.iter().any(|address| !attempts.failed.contains(&address.socket))
    }

    /// Records that a connection to `socket` was opened.
    pub fn connected(&self, socket: SocketAddr) {
        let list = self.list.load();
        if list.len() < 2 {
            return;
        }
        if let Some(address) = list.iter().find(|address| address.socket == socket)
            && address.avoid_until_ms.load(Ordering::Relaxed) != 0
        {
            address.avoid_until_ms.store(0, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

impl Address {
    fn new(socket: SocketAddr, avoid_until_ms: u64) -> Self {
        Self { socket, avoid_until_ms: AtomicU64::new(avoid_until_ms) }
    }

    /// Whether the address may be tried in its turn. For [`AVOID_MS`] after a failure it may not.
    /// After that, one call may try it, and the outcome of that attempt decides for the other
    /// calls.
    fn is_worth_trying(&self, now_ms: impl Fn() -> u64) -> bool {
        let until = self.avoid_until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = now_ms();
        let again = now.saturating_add(AVOID_MS);
        let claim = || {
            let mark = &self.avoid_until_ms;
            mark.compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        until <= now && claim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect()
    }

    /// Makes one call at `now_ms`, and returns the addresses that it tried, in order. The call
    /// connects to the first address that is not `dead`.
    fn call(addresses: &Addresses, dead: &[SocketAddr], now_ms: u64) -> Vec<SocketAddr> {
        let (mut attempts, mut tried) = (Attempts::default(), Vec::new());
        while let Some(socket) = addresses.next_at(&mut attempts, || now_ms) {
            tried.push(socket);
            if !dead.contains(&socket) {
                addresses.connected(socket);
                break;
            }
            if !addresses.failed_at(&mut attempts, socket, now_ms) {
                break;
            }
        }
        tried
    }

    #[test]
    fn a_call_finds_the_address_that_lives_whichever_are_dead() {
        for count in 1..=4 {
            let all = sockets(count);
            for subset in 0..1_u32 << count {
                let is_dead = |index: usize| subset >> index & 1 == 1;
                let dead: Vec<_> = (0..all.len()).filter(|n| is_dead(*n)).map(|n| all[n]).collect();
                let alive = all.len() - dead.len();
                let addresses = Addresses::new(all.clone());
                for number in 0..3 * all.len() {
                    let tried = call(&addresses, &dead, 1000);
                    let last = tried.last().unwrap();
                    assert_eq!(!dead.contains(last), alive > 0, "{count} {subset:b}: {tried:?}");
                    let mut once = tried.clone();
                    once.sort();
                    once.dedup();
                    assert_eq!(once.len(), tried.len(), "each is tried once: {tried:?}");
                    // Each dead address is tried once in its turn. From then on it is tried after
                    // the others.
                    let met_all = number >= all.len();
                    assert!(alive == 0 || !met_all || tried.len() == 1, "{subset:b}: {tried:?}");
                }
            }
        }
    }

    #[test]
    fn calls_take_turns() {
        let all = sockets(4);
        let addresses = Addresses::new(all.clone());
        let tried: Vec<_> = (0..8).flat_map(|_| call(&addresses, &[], 0)).collect();
        assert_eq!(tried, [all.clone(), all].concat());
    }

    #[test]
    fn a_turn_that_wraps_around_still_meets_every_address() {
        let all = sockets(3);
        let addresses = Addresses::new(all.clone());
        addresses.next_turn.store(usize::MAX, Ordering::Relaxed);
        for _ in 0..2 {
            let mut tried = call(&addresses, &all, 0);
            tried.sort();
            assert_eq!(tried, all);
        }
    }

    #[test]
    fn one_call_tries_a_failed_address_again_after_a_while() {
        let all = sockets(2);
        let addresses = Addresses::new(all.clone());
        let dead = &all[..1];
        assert_eq!(call(&addresses, dead, 0), all);
        for now_ms in [1, AVOID_MS - 1] {
            assert_eq!(call(&addresses, dead, now_ms), all[1..], "at {now_ms} ms");
            assert_eq!(call(&addresses, dead, now_ms), all[1..], "at {now_ms} ms");
        }
        // The address is still dead. Only one of the two calls tries it.
        let again = [call(&addresses, dead, AVOID_MS), call(&addresses, dead, AVOID_MS)];
        assert_eq!(again.iter().filter(|tried| tried.contains(&all[0])).count(), 1, "{again:?}");
        // The address works again, and has its turns as before.
        let tried: Vec<_> = (0..4).flat_map(|_| call(&addresses, &[], 3 * AVOID_MS)).collect();
        assert_eq!(tried.iter().filter(|socket| **socket == all[0]).count(), 2, "{tried:?}");
    }

    #[test]
    fn an_address_that_stays_keeps_its_record() {
        let all = sockets(3);
        let addresses = Addresses::new(all[..2].to_vec());
        assert_eq!(call(&addresses, &all[..1], 0), all[..2]);
        addresses.replace(&[all[2], all[0]]);
        for _ in 0..4 {
            assert_eq!(call(&addresses, &all[..1], 1), all[2..]);
        }
    }

    #[test]
    fn a_call_gives_up_after_a_bounded_number_of_addresses() {
        let all = sockets(200);
        assert_eq!(call(&Addresses::new(all.clone()), &all, 0).len(), MAX_ATTEMPTS);
        assert_eq!(call(&Addresses::new([]), &[], 0), []);
    }
}
