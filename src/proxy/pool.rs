//! Idle connections to upstreams.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::HashMap;
use pingora_core::protocols::Stream;

use super::link::Link;

/// The key of connections that can replace each other: they lead to one address of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    /// The upstream's [`id`](super::upstream::Upstream::id).
    pub upstream: u64,
    pub address: SocketAddr,
}

/// An idle connection.
#[derive(Debug)]
pub(super) struct Idle {
    pub stream: Stream,
    pub link: Arc<Link>,
    /// The time at which the connection is closed if no call has used it.
    pub until: Instant,
}

/// A pool of idle connections with a limit on their number. The connection that was used last is
/// used again first. So connections that are not needed stay idle until their time is up.
#[derive(Debug)]
pub(super) struct Pool {
    most: usize,
    idle: Mutex<IdleByKey>,
}

#[derive(Debug, Default)]
struct IdleByKey {
    count: usize,
    /// The connections of each key; the one that was used last is at the back. An empty list stays
    /// until the next sweep.
    lists: HashMap<PoolKey, VecDeque<Idle>>,
}

impl Pool {
    /// Creates a pool for at most `most` connections.
    pub fn new(most: usize) -> Self {
        Self { most, idle: Mutex::default() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut IdleByKey) -> T) -> T {
        change(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a connection that can be used for a request: it is open, and the upstream has sent
    /// nothing on it since its last answer.
    pub fn take(&self, key: PoolKey) -> Option<Idle> {
        loop {
            let idle = self.with(|idle| idle.pop_newest(key))?;
            if idle.until > Instant::now() && idle.link.is_quiet() {
                return Some(idle);
            }
        }
    }

    /// Adds a connection whose request and answer have ended. If the pool is full, the connection
    /// whose time is up soonest is closed.
    pub fn put(&self, key: PoolKey, connection: Idle) {
        if self.most == 0 {
            return;
        }
        let closed = self.with(|idle| {
            let oldest = if idle.count >= self.most { idle.pop_oldest() } else { None };
            idle.lists.entry(key).or_default().push_back(connection);
            idle.count += 1;
            oldest
        });
        drop(closed);
    }

    /// Closes the connections whose time is up, and those that the upstream has closed.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut closed = Vec::new();
        self.with(|idle| {
            for list in idle.lists.values_mut() {
                let (kept, ended): (VecDeque<_>, VecDeque<_>) = std::mem::take(list)
                    .into_iter()
                    .partition(|one| one.until > now && one.link.is_quiet());
                *list = kept;
                closed.extend(ended);
            }
            idle.lists.retain(|_, list| !list.is_empty());
            idle.count = idle.count.saturating_sub(closed.len());
        });
    }

    /// Sweeps the pool again and again, with `every` as the pause. Never returns.
    pub async fn keep_swept(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.sweep();
        }
    }
}

impl IdleByKey {
    fn pop_newest(&mut self, key: PoolKey) -> Option<Idle> {
        let list = self.lists.get_mut(&key)?;
        let newest = list.pop_back();
        self.count = self.count.saturating_sub(usize::from(newest.is_some()));
        newest
    }

    fn pop_oldest(&mut self) -> Option<Idle> {
        let until = |list: &VecDeque<Idle>| list.front().map(|idle| idle.until);
        let lists = self.lists.values_mut().filter(|list| !list.is_empty());
        let oldest = lists.min_by_key(|list| until(list))?.pop_front();
        self.count = self.count.saturating_sub(usize::from(oldest.is_some()));
        oldest
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(port: u16) -> PoolKey {
        PoolKey { upstream: 1, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn idle(until: Instant) -> (Idle, DuplexStream) {
        let (near, far) = duplex(64);
        let link = Link::new(Box::new(near));
        (Idle { stream: link.end(), link, until }, far)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_for_its_own_address_alone_and_the_newest_first() {
        let pool = Pool::new(8);
        let until = Instant::now() + MINUTE;
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (connection, far) = idle(until);
            pool.put(key(1), connection);
            ends.push(far);
        }
        assert!(pool.take(key(2)).is_none());
        let other = PoolKey { upstream: 2, ..key(1) };
        assert!(pool.take(other).is_none(), "another upstream at the same address");
        // The newer connection has received a byte and cannot be used; the older one can.
        ends[1].write_all(b"x").await.unwrap();
        assert!(pool.take(key(1)).is_some());
        assert!(pool.take(key(1)).is_none());
        assert_eq!(pool.with(|idle| idle.count), 0);
    }

    #[tokio::test]
    async fn what_is_closed_or_too_old_is_not_used_again() {
        let pool = Pool::new(8);
        let (closed, far) = idle(Instant::now() + MINUTE);
        pool.put(key(1), closed);
        drop(far);
        assert!(pool.take(key(1)).is_none());
        let (old, _far) = idle(Instant::now());
        pool.put(key(1), old);
        assert!(pool.take(key(1)).is_none());
        let (closed, far) = idle(Instant::now() + MINUTE);
        let (good, _good_far) = idle(Instant::now() + MINUTE);
        pool.put(key(1), closed);
        pool.put(key(2), good);
        drop(far);
        pool.sweep();
        assert_eq!(pool.with(|idle| (idle.count, idle.lists.len())), (1, 1));
        assert!(pool.take(key(2)).is_some());
    }

    #[tokio::test]
    async fn the_oldest_makes_room_for_the_newest() {
        let pool = Pool::new(2);
        let now = Instant::now() + MINUTE;
        let mut ends = Vec::new();
        for port in [1, 2, 3] {
            let (connection, far) = idle(now + Duration::from_secs(port.into()));
            pool.put(key(port), connection);
            ends.push(far);
        }
        assert!(pool.take(key(1)).is_none(), "it was the oldest");
        assert!(pool.take(key(2)).is_some() && pool.take(key(3)).is_some());
        let none = Pool::new(0);
        let (connection, _far) = idle(now);
        none.put(key(1), connection);
        assert!(none.take(key(1)).is_none());
    }
}
