//! The switches: which rules are in force, and which faults may happen.

#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Redis compares the digest of a decision that has the number of the newest one that it has applied.
    pub compares_digest: bool,
    /// Redis compares the digest before a decision that has the next number.
    pub compares_before: bool,
    /// A decision with an earlier number makes the gateway look whether Postgres has lost some.
    pub looks_behind: bool,
    /// A gateway may stand still between two steps of a delivery until Postgres has failed over. Otherwise the failover
    /// ends the delivery, which is made again.
    pub stands_still: bool,
    /// A delivery for an account that is not in Redis ends a warming that is under way.
    pub ends_warming: bool,
    /// The gateways notice that they talk to another Postgres, and the epoch ends.
    pub notices_failover: bool,
    /// How often Postgres may fail over.
    pub failovers: u8,
    /// How many grants are made. One that got lost may be made again.
    pub grants: u8,
}

impl Variant {
    /// The protocol as the code has it.
    pub const CHOSEN: Self = Self {
        compares_digest: true,
        compares_before: true,
        looks_behind: true,
        stands_still: false,
        ends_warming: true,
        notices_failover: true,
        failovers: 1,
        grants: 3,
    };
}
