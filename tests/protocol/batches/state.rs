//! The two stores, what the gateways remember, and what is on its way.
use super::variant::{Faults, Variant};

/// The most holds that a variant may have.
pub const HOLDS: usize = 3;
pub const GATEWAYS: usize = 2;

/// The place of a batch: the number of its epoch, and its own number in it. The default is no place.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Place {
    pub epoch: u8,
    pub seq: u8,
}

/// For each batch, the place that it has somewhere.
pub type Places = [Place; HOLDS];

/// A hold, as its gateway sees it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Hold {
    #[default]
    Waiting,
    /// Redis has decided it, and its gateway has the reply.
    Decided(Place),
    /// Postgres appends its batch, and has looked whether the epoch is open.
    Appending { place: Place, was_open: bool },
    /// Its caller was answered 200 under this place.
    Answered(Place),
    /// Its caller was answered 503, and may ask again.
    Unsure,
    /// Redis has said that it had decided the hold before, when this was the newest batch.
    Repeated(Place),
    /// Its caller was answered 503 for good.
    Failed,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Gateway {
    /// The epoch that it serves; 0 for none.
    pub epoch: u8,
    /// The newest batch of that epoch that Postgres is known to have folded.
    pub heard: u8,
    /// Batches that it has read from the stream and not written yet.
    pub read: Option<Read>,
}

/// The batches that a syncer has read, in order, after the number `after`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Read {
    pub epoch: u8,
    pub after: u8,
    /// The batches themselves: index and one, 0 for none.
    pub batches: [u8; HOLDS],
}

/// The data of Redis.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Data {
    /// The newest epoch that ever began here.
    pub epoch: u8,
    pub seq: u8,
    pub stream: Places,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Redis {
    pub data: Data,
    /// The epoch whose scripts this process has; 0 for none.
    pub script: u8,
    /// The data of some moment before: those of a replica that lags, or of a copy.
    pub older: Data,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Postgres {
    pub epoch: u8,
    pub is_recovering: bool,
    pub checkpoint: u8,
    /// The batch of the checkpoint: index and one.
    pub digest: u8,
    /// The place under which each batch was folded.
    pub folded: Places,
    pub appends: Places,
    /// The server, and the one on which the epoch began.
    pub server: u8,
    pub epoch_server: u8,
}

/// The transaction of a recovery, which has the shard's row locked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Recovery {
    /// It waits for the lock of the appends. A statement that reads them too has this snapshot of them.
    Waits(Places),
    /// It has the lock. If the statement that waited has read the appends, these are what it has seen.
    Locked(Option<Places>),
    /// It has begun the next epoch in Redis, and is about to commit it with these batches.
    Opened { number: u8, replayed: Places },
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    pub holds: [Hold; HOLDS],
    /// For each batch, the one before it in the stream that it was added to: index and one.
    pub before: [u8; HOLDS],
    pub gateways: [Gateway; GATEWAYS],
    pub redis: Redis,
    pub postgres: Postgres,
    pub standby: Postgres,
    pub recovery: Option<Recovery>,
    /// Whether a batch was written twice.
    pub is_doubled: bool,
    /// Whether an epoch began in a Redis that has keys of its number.
    pub is_reused: bool,
    /// The faults that may still happen.
    pub faults: Faults,
}

impl State {
    /// The first epoch is open, and nothing is decided.
    pub fn first(variant: &Variant) -> Self {
        let data = Data { epoch: 1, ..Data::default() };
        let postgres = Postgres { epoch: 1, ..Postgres::default() };
        Self {
            holds: Default::default(),
            before: Default::default(),
            gateways: [Gateway { epoch: 1, ..Gateway::default() }; GATEWAYS],
            redis: Redis { data, script: 1, older: data },
            postgres,
            standby: postgres,
            recovery: None,
            is_doubled: false,
            is_reused: false,
            faults: variant.faults,
        }
    }

    /// The holds take turns between the gateways.
    pub fn owner(hold: usize) -> usize {
        hold % GATEWAYS
    }

    /// The stores contradict each other, so the gateway that noticed gives this epoch up.
    pub fn give_up(&mut self, epoch: u8) {
        if self.postgres.epoch == epoch && self.recovery.is_none() {
            self.postgres.is_recovering = true;
        }
    }
}

impl Redis {
    /// Whether the scripts of this epoch run here.
    pub fn accepts(&self, epoch: u8) -> bool {
        epoch > 0 && self.script == epoch && self.data.epoch == epoch
    }
}

impl Postgres {
    pub fn is_open(&self, epoch: u8) -> bool {
        self.epoch == epoch && !self.is_recovering
    }

    /// Whether this place is behind the checkpoint, so that a recovery or a syncer would still write its batch.
    pub fn is_to_come(&self, place: Place) -> bool {
        place > Place { epoch: self.epoch, seq: self.checkpoint }
    }
}

/// The batch at this place: index and one, or 0.
pub fn batch_at(places: &Places, place: Place) -> u8 {
    let found = places.iter().position(|one| *one == place);
    found.map_or(0, |index| index as u8 + 1)
}
