//! One account, two gateways, a Redis master with its replica, and Postgres.
//!
//! Everything is small and `Copy`, because the checker makes a great many states.
use crate::variant::{Faults, Variant};

/// The most calls that a variant may have.
pub const CALLS: usize = 4;
pub const GATEWAYS: usize = 2;

/// The ledger's record of each call's hold. The balance follows from the records: no amount is
/// stored, so a store that loses a record also loses its debit.
pub type Records = [Record; CALLS];

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Record {
    #[default]
    Unknown,
    Held,
    /// Extended by a second credit.
    HeldTwo,
    /// Released or expired; before its hold, a tombstone.
    Released,
    Captured,
    CapturedTwo,
    /// Captured although its hold had ended or was never seen.
    Late,
    LateTwo,
}

impl Record {
    /// The credits that are set aside or gone.
    pub fn debit(self) -> u8 {
        match self {
            Self::Unknown | Self::Released => 0,
            Self::Held | Self::Captured | Self::Late => 1,
            Self::HeldTwo | Self::CapturedTwo | Self::LateTwo => 2,
        }
    }

    pub fn is_live(self) -> bool {
        matches!(self, Self::Held | Self::HeldTwo)
    }

    pub fn is_capture(self) -> bool {
        !self.is_live() && self.debit() > 0
    }

    /// A capture, of a hold that had ended.
    pub fn late(self) -> Self {
        if self.debit() == 2 { Self::LateTwo } else { Self::Late }
    }

    /// This record after `news` of the same hold, which may be old or repeated.
    pub fn merged(self, news: Self) -> Self {
        match (self, news) {
            (Self::Unknown, news) => news,
            (Self::Held, news) if news != Self::Unknown => news,
            (Self::HeldTwo, news) if !matches!(news, Self::Unknown | Self::Held) => news,
            (Self::Released, news) if news.is_capture() => news.late(),
            (known, _) => known,
        }
    }
}

/// A call, as its gateway sees it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Call {
    #[default]
    Waiting,
    /// The hold is on its way to Redis.
    Sent {
        epoch: u8,
    },
    /// Redis has granted the hold; the gateway has not looked at the reply. `lapsed`: its lease or
    /// the hold has run out since, or a recovery has left it behind.
    Granted {
        lapsed: bool,
    },
    /// 402.
    Refused,
    /// 503, or the upstream failed. The hold may still come (`hold_on_its_way`, of that epoch).
    Failed {
        hold_on_its_way: Option<u8>,
        release_due: bool,
    },
    /// The upstream has the call.
    Forwarded,
    /// The upstream has the call, and Redis has extended its hold; the gateway has not looked at
    /// that reply.
    Extending {
        lapsed: bool,
    },
    /// The upstream works for a second credit.
    Extended,
    /// Redis has acknowledged the capture.
    Captured,
    CapturedTwo,
    /// The hold's gateway died while the call was in flight.
    Lost,
}

impl Call {
    pub const RELEASING: Self = Self::Failed { hold_on_its_way: None, release_due: true };
    /// The call failed, and its gateway will not try again.
    pub const ENDED: Self = Self::Failed { hold_on_its_way: None, release_due: false };

    /// The credits that the upstream has worked for, so that they have to be paid.
    pub fn owed(self) -> u8 {
        match self {
            Self::Forwarded | Self::Extending { .. } | Self::Captured => 1,
            Self::Extended | Self::CapturedTwo => 2,
            _ => 0,
        }
    }

    /// Whether the upstream has the call, and the call has not ended.
    pub fn is_in_flight(self) -> bool {
        self.owed() > 0 && !self.is_captured()
    }

    pub fn is_captured(self) -> bool {
        matches!(self, Self::Captured | Self::CapturedTwo)
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Process {
    Running,
    /// SIGSTOP.
    Paused,
    Dead,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Gateway {
    pub process: Process,
    pub reaches_postgres: bool,
    pub has_lease: bool,
    /// The epoch it acknowledged last.
    pub epoch: u8,
    /// The Redis it talks to.
    pub node: usize,
    pub hydrating: Hydrating,
}

impl Gateway {
    pub fn is_running(&self) -> bool {
        self.process == Process::Running
    }

    pub fn can_write_postgres(&self) -> bool {
        self.is_running() && self.reaches_postgres
    }
}

/// How far a gateway has come in bringing the account into Redis.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Hydrating {
    No,
    HasNonce,
    HasRead { records: Records, granted: u8 },
}

/// One Redis process.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Node {
    pub data: Data,
    /// The epoch whose script it has; 0 for none. It is not replicated.
    pub script: u8,
    /// The epoch since whose opening it has been the master without a break; 0 for none.
    pub reign: u8,
}

/// The data that Redis replicates.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Data {
    pub epoch: u8,
    /// The account is here.
    pub is_hot: bool,
    /// `grant_seq`; each grant is one credit, but for the first.
    pub granted: u8,
    pub records: Records,
    /// The part of the stream that is not trimmed: the newest entry of each hold. Reading it early
    /// and committing late stands for every shorter prefix.
    pub outbox: Records,
    /// The gateway that hydrates. A gateway has one attempt at a time, so its number is nonce enough.
    pub nonce: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Postgres {
    pub epoch: u8,
    /// The epoch is raised and not yet open.
    pub is_recovering: bool,
    pub granted: u8,
    /// The grants that Redis is known to have, or to have no need of.
    pub delivered: u8,
    pub records: Records,
    /// Batches of the present epoch that were appended, and are not in the records yet.
    pub appends: Records,
}

/// A batch whose epoch was checked, and that is not committed yet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Appending {
    pub call: usize,
    pub record: Record,
    pub epoch: u8,
}

/// Entries that a syncer has read from the outbox and not yet committed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Batch {
    pub records: Records,
    pub node: usize,
    pub epoch: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq)]
pub struct State {
    pub calls: [Call; CALLS],
    /// The redo rings. A call belongs to one gateway, so one array holds them all.
    pub rings: Records,
    pub gateways: [Gateway; GATEWAYS],
    pub nodes: [Node; 2],
    /// The node that Sentinel names.
    pub master: usize,
    /// The other node is no replica, it believes to be a master.
    pub is_split: bool,
    pub postgres: Postgres,
    pub syncing: Option<Batch>,
    /// The batch that Postgres is appending for each gateway.
    pub appending: [Option<Appending>; GATEWAYS],
    /// The records that each call's gateway knows to be appended.
    pub known_appends: Records,
    /// Calls of a process that was stopped while its hold expired, or while an epoch opened without
    /// its ring. The debits of these calls come late and may make a debt, which invariant 1 allows.
    pub excused: [bool; CALLS],
    /// The faults that may still happen.
    pub faults: Faults,
}

impl State {
    /// All is well, and the account is cold.
    pub fn first(variant: &Variant) -> Self {
        let gateway = Gateway {
            process: Process::Running,
            reaches_postgres: true,
            has_lease: true,
            epoch: 1,
            node: 0,
            hydrating: Hydrating::No,
        };
        let data = Data { epoch: 1, ..Data::default() };
        let granted = variant.bounds.first_grant;
        Self {
            calls: Default::default(),
            rings: Default::default(),
            gateways: [gateway; GATEWAYS],
            nodes: [Node { data, script: 1, reign: 1 }, Node { data, script: 0, reign: 0 }],
            master: 0,
            is_split: false,
            postgres: Postgres {
                epoch: 1,
                is_recovering: false,
                granted,
                delivered: granted,
                records: Default::default(),
                appends: Default::default(),
            },
            syncing: None,
            appending: [None; GATEWAYS],
            known_appends: Default::default(),
            excused: [false; CALLS],
            faults: variant.faults,
        }
    }

    /// Calls take turns between the gateways.
    pub fn owner(call: usize) -> usize {
        call % GATEWAYS
    }

    pub fn gateway_of(&self, call: usize) -> &Gateway {
        &self.gateways[Self::owner(call)]
    }

    /// The calls of a gateway.
    pub fn calls_of(gateway: usize) -> impl Iterator<Item = usize> {
        (0..CALLS).filter(move |call| Self::owner(*call) == gateway)
    }

    /// The Redis that a gateway talks to.
    pub fn node_of(&mut self, gateway: usize) -> &mut Node {
        &mut self.nodes[self.gateways[gateway].node]
    }
}
