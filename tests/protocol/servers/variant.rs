//! The switches: which rules are in force, and which faults may happen.

#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// An epoch ends for another Redis only if no other gateway reaches the epoch's own.
    pub asks_who_reaches: bool,
    /// Whether a gateway reaches a Redis is forgotten after some seconds.
    pub forgets_who_reached: bool,
    /// A gateway that reaches a replica looks for the master, and keeps the epoch.
    pub keeps_epoch_on_replica: bool,
    /// Before an epoch ends for data that its own Redis has lost, the gateway looks once more whether it has lost them.
    /// The code does not: that needs a connection that leads to another server for one batch, and costs one recovery.
    pub looks_again: bool,
    /// A gateway that finds another epoch open no longer serves its own, whether or not it can serve the new one.
    pub leaves_ended_epoch: bool,
    /// A recovery waits until each gateway has checked in or lost its lease.
    pub waits_for_leases: bool,
    /// The next epoch begins on the epoch's Redis, as long as another gateway reaches that.
    pub stays: bool,
    /// The first gateway has the address of the first server, whatever happens.
    pub two_addresses: bool,
    pub faults: Faults,
}

/// How often which fault may happen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Faults {
    /// The other server is promoted, and the address leads there. The old master does not know of it.
    pub promotions: u8,
    /// The server to which the address does not lead becomes the other one's replica.
    pub demotions: u8,
    /// The address leads to the other server for a while, although nothing was promoted.
    pub flaps: u8,
    /// The first server loses its data, and lives on.
    pub wipes: u8,
    /// The first server starts again, with its data.
    pub restarts: u8,
    /// The first server is gone for good.
    pub kills: u8,
    /// A gateway stands still for some time.
    pub pauses: u8,
}

impl Faults {
    pub const NONE: Self =
        Self { promotions: 0, demotions: 0, flaps: 0, wipes: 0, restarts: 0, kills: 0, pauses: 0 };
}

impl Variant {
    /// The protocol as the code has it, without a fault.
    pub const CHOSEN: Self = Self {
        asks_who_reaches: true,
        forgets_who_reached: true,
        keeps_epoch_on_replica: true,
        looks_again: false,
        leaves_ended_epoch: true,
        waits_for_leases: true,
        stays: true,
        two_addresses: false,
        faults: Faults::NONE,
    };
}
