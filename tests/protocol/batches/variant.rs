//! The switches: which rules are in force, and which faults may happen.

#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub append: Append,
    /// A recovery reads the appends in a later statement than the one that waits for their lock.
    pub reads_after_lock: bool,
    /// The stream keeps the batches that Postgres has.
    pub keeps_stream: bool,
    /// A recovery also replays batches of epochs that this Postgres does not know.
    pub replays_later_epochs: bool,
    /// The next epoch has a number that Redis has never seen.
    pub counts_from_redis: bool,
    /// A syncer's transaction writes only batches that continue the checkpoint.
    pub continues_checkpoint: bool,
    /// A syncer compares the stream with the digest of the checkpoint, before it reads on from there.
    pub compares_stream: bool,
    /// Its transaction compares the digest again with what the syncer has read. The code does not do so yet.
    pub compares_read: bool,
    /// An append compares its text with one that Postgres has under the same number.
    pub compares_appends: bool,
    /// A gateway gives the epoch up when Redis gives a number that Postgres is known to have, or has fewer batches.
    /// The code does not do so yet.
    pub heeds_watermark: bool,
    /// A gateway that begins to serve an epoch knows the checkpoint from the start. The code does not see to that yet.
    pub joins_with_watermark: bool,
    /// An operation that Redis had decided before is answered only once it is folded.
    pub awaits_repeated: bool,
    /// A gateway notices that it talks to another Postgres.
    pub notices_failover: bool,
    /// How many gateways fold batches.
    pub syncers: usize,
    pub holds: usize,
    pub faults: Faults,
}

/// How an append finds out whether its epoch is open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Append {
    /// It takes the lock, and looks in a later statement.
    LockThenLook,
    /// It does both in one statement, whose snapshot is older than the lock.
    OneStatement,
    /// It looks, and takes no lock.
    NoLock,
    /// Nothing is appended.
    Never,
}

/// How often which fault may happen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Faults {
    /// A replica of Redis that may lag becomes the master.
    pub redis_failovers: u8,
    /// Redis gets older data of the same epoch, while its process lives on. Each gateway has heard of later batches.
    pub rewinds: u8,
    /// The same, with data that are so young that no gateway need have heard of later batches in Postgres.
    pub young_rewinds: u8,
    /// The standby of Postgres, which may lag, becomes the primary.
    pub postgres_failovers: u8,
    /// A recovery is asked for, although nothing is lost.
    pub recoveries: u8,
    /// A recovery loses its transaction after it has begun the epoch in Redis.
    pub aborts: u8,
    /// A reply of Redis, or the answer of Postgres to a commit, gets lost.
    pub losses: u8,
    /// A gateway is killed and starts again.
    pub restarts: u8,
}

impl Faults {
    pub const NONE: Self = Self {
        redis_failovers: 0,
        rewinds: 0,
        young_rewinds: 0,
        postgres_failovers: 0,
        recoveries: 0,
        aborts: 0,
        losses: 0,
        restarts: 0,
    };
}

impl Variant {
    /// The protocol as the code has it, without a fault.
    pub const CHOSEN: Self = Self {
        append: Append::LockThenLook,
        reads_after_lock: true,
        keeps_stream: true,
        replays_later_epochs: true,
        counts_from_redis: true,
        continues_checkpoint: true,
        compares_stream: true,
        compares_read: false,
        compares_appends: true,
        heeds_watermark: false,
        joins_with_watermark: false,
        awaits_repeated: true,
        notices_failover: true,
        syncers: 2,
        holds: 2,
        faults: Faults::NONE,
    };
}
