//! The switches: which rules of the protocol are in force, and which faults may happen.

/// A protocol to check, with the faults it has to survive.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub hydration: Hydration,
    pub retirement: Retirement,
    pub fence: Fence,
    /// Gateways remember what Redis acknowledged until Postgres has it, and hand it to a recovery.
    pub redo_ring: bool,
    /// A recovery opens its epoch only when every gateway has checked in or lost its lease.
    pub waits_for_leases: bool,
    pub lease_check: LeaseCheck,
    /// A reply that comes after the gateway has checked in to a newer epoch counts as a failure.
    pub refuses_old_replies: bool,
    pub durability: Durability,
    pub append: Append,
    /// A release of a hold that Redis has not seen leaves a mark that refuses the hold.
    pub tombstones: bool,
    /// A grant that finds the account cold ends the hydration that is under way.
    pub delivery_ends_hydration: bool,
    pub extension: Extension,
    pub bounds: Bounds,
    pub faults: Faults,
}

/// How an account that is not in Redis gets there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hydration {
    /// Read Postgres, then set what is absent.
    SetIfAbsent,
    /// Take a nonce in Redis, read Postgres, commit while the nonce stands and the outbox is empty.
    Nonce,
}

/// How an account leaves Redis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Retirement {
    TimeToLive,
    /// Only when Postgres has all of it and nothing is held.
    WhenDurable,
}

/// The checks of a batch before it changes anything in Redis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fence {
    None,
    /// The epoch among the data, which is copied to replicas and restored with a dump.
    EpochInData,
    /// The epoch in Redis, and the script of that epoch, which lives in one process.
    Script,
    /// The epoch, its script, and whether this process has been the master without a break since the epoch opened.
    ScriptAndReign,
}

/// The checks of a gateway between the reply of Redis and forwarding the call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LeaseCheck {
    Never,
    /// The gateway has some lease that is valid now.
    AnyLease,
    /// The lease under which the hold was sent, never interrupted.
    SameLease,
    /// No check, for a lone Redis without a replica; but a reply that is older than the time which a
    /// recovery takes at the least is refused.
    ReplyAge,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Durability {
    Relaxed,
    /// A call is forwarded when Postgres has its hold. A capture too counts as done only then: until
    /// then the call is one in flight, which a crash of its gateway gives away.
    Strict,
    /// Like [`Self::Strict`] for holds, but a capture counts as done when Redis has it.
    StrictForHoldsOnly,
}

/// The write that a strict gateway waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Append {
    /// The batches up to its own are in Postgres's tables.
    Never,
    /// The text of its own batch is in Postgres. The epoch is checked under a lock that a recovery waits for.
    Fenced,
    /// Like [`Self::Fenced`], without that lock.
    Unfenced,
}

/// How the first call's hold is extended by a second credit while the call runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extension {
    Never,
    /// Like a hold: with the same durability, and the same checks of the reply.
    AsAHold,
    /// Like [`Self::AsAHold`], but the gateway does not keep the record in its redo log.
    NotInRing,
    /// Like [`Self::AsAHold`], but in strict the call goes on before Postgres has the record.
    NotAwaited,
}

/// How much happens. Each call costs one credit; the first one costs two if its hold is extended.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub calls: usize,
    pub first_grant: u8,
    /// Grants of one credit that are made while the calls run.
    pub later_grants: u8,
    /// Hydration and sync in single steps, so that anything may happen between reading and writing.
    pub small_steps: bool,
}

impl Bounds {
    /// Two calls, so four operations; anything may happen between reading and writing.
    pub const FINE: Self = Self { calls: 2, first_grant: 1, later_grants: 0, small_steps: true };
    /// Bounds with more calls, in which hydration and sync are one step each.
    pub const COARSE: Self = Self { calls: 3, first_grant: 1, later_grants: 0, small_steps: false };
}

/// How often which fault may happen.
#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub struct Faults {
    /// The master dies and its replica, which may lag, is promoted.
    pub failovers: u8,
    /// The replica is promoted by hand; the process of the old master lives on as a replica.
    pub switchovers: u8,
    /// The master loses its data (FLUSHALL), its process lives on.
    pub wipes: u8,
    /// The replica is promoted, and the first gateway goes on with the old master.
    pub splits: u8,
    pub crashes: u8,
    pub pauses: u8,
    /// A gateway loses Postgres.
    pub postgres_cuts: u8,
    /// A caller is told 503 while its hold is on the way to Redis.
    pub timeouts: u8,
    pub upstream_failures: u8,
}

impl Faults {
    pub const NONE: Self = Self {
        failovers: 0,
        switchovers: 0,
        wipes: 0,
        splits: 0,
        crashes: 0,
        pauses: 0,
        postgres_cuts: 0,
        timeouts: 0,
        upstream_failures: 0,
    };
}

impl Variant {
    /// The protocol as it was chosen, relaxed, without a fault.
    pub const CHOSEN: Self = Self {
        hydration: Hydration::Nonce,
        retirement: Retirement::WhenDurable,
        fence: Fence::ScriptAndReign,
        redo_ring: true,
        waits_for_leases: true,
        lease_check: LeaseCheck::SameLease,
        refuses_old_replies: true,
        durability: Durability::Relaxed,
        append: Append::Never,
        tombstones: true,
        delivery_ends_hydration: true,
        extension: Extension::Never,
        bounds: Bounds { calls: 3, first_grant: 1, later_grants: 1, small_steps: true },
        faults: Faults::NONE,
    };

    pub fn is_strict(&self) -> bool {
        self.durability != Durability::Relaxed
    }
}
