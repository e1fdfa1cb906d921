//! One account in Postgres and in Redis, and the deliveries that are on their way.
use super::variant::Variant;

/// The grants that there are, by their numbers from 1; each has an amount of its own.
pub const GRANTS: usize = 3;
pub const GATEWAYS: usize = 2;

/// The decisions about the account in their order: numbers of grants, 0 for none.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Chain([u8; GRANTS]);

impl Chain {
    /// The number of the newest decision.
    pub fn number(self) -> u8 {
        self.0.iter().filter(|grant| **grant > 0).count() as u8
    }

    /// The decisions up to this number.
    pub fn up_to(self, number: u8) -> Self {
        let mut chain = self;
        chain.0[usize::from(number)..].fill(0);
        chain
    }

    pub fn has(self, grant: u8) -> bool {
        self.0.contains(&grant)
    }

    /// The newest grant; 0 for none.
    pub fn newest(self) -> u8 {
        self.0.iter().rfind(|grant| **grant > 0).copied().unwrap_or(0)
    }

    pub fn push(&mut self, grant: u8) {
        if let Some(free) = self.0.iter_mut().find(|grant| **grant == 0) {
            *free = grant;
        }
    }

    /// The balance that these decisions come to.
    pub fn balance(self) -> Balance {
        let mut balance = Balance::default();
        self.0.iter().filter(|grant| **grant > 0).for_each(|grant| balance.add(*grant));
        balance
    }
}

/// How often each grant is in a balance.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Balance(pub [u8; GRANTS]);

impl Balance {
    pub fn add(&mut self, grant: u8) {
        self.0[usize::from(grant) - 1] += 1;
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Postgres {
    pub decided: Chain,
    /// Whether the delivery of each decision is still queued, by the decision's number less one.
    pub queued: [bool; GRANTS],
}

/// The account in Redis.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Hot {
    /// The number of the newest decision applied.
    pub number: u8,
    /// The digest of the decisions applied.
    pub digest: Chain,
    pub balance: Balance,
}

impl Hot {
    pub fn of(decided: Chain) -> Self {
        Self { number: decided.number(), digest: decided, balance: decided.balance() }
    }
}

/// A delivery in the hands of a gateway. Its digest is the chain that ends with it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Errand {
    #[default]
    None,
    /// It was read from Postgres.
    Read(Chain),
    /// Redis has later decisions. The gateway has read the number of its newest one, and is about to ask Postgres.
    IsEarlier(Chain, u8),
    /// Redis has it, and it is about to be deleted in Postgres.
    Applied(Chain),
    /// Redis has applied other decisions.
    Differs,
}

/// How far a gateway has come in bringing the account into Redis.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Warming {
    #[default]
    No,
    /// It has left a nonce in Redis.
    Announced,
    /// It has read Postgres.
    Read(Chain),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    pub postgres: Postgres,
    pub standby: Postgres,
    /// The account in Redis, if it is warm.
    pub hot: Option<Hot>,
    pub has_nonce: bool,
    pub warming: Warming,
    pub errands: [Errand; GATEWAYS],
    /// Whether the epoch began on another Postgres.
    pub is_another: bool,
    /// Whether a grant was made since Postgres failed over.
    pub is_granted_since: bool,
    /// Whether an account was brought anew.
    pub is_replaced: bool,
    pub grants_left: u8,
    pub failovers_left: u8,
}

impl State {
    /// One grant is in both stores.
    pub fn first(variant: &Variant) -> Self {
        let mut decided = Chain::default();
        decided.push(1);
        let postgres = Postgres { decided, ..Postgres::default() };
        Self {
            postgres,
            standby: postgres,
            hot: Some(Hot::of(decided)),
            has_nonce: false,
            warming: Warming::No,
            errands: [Errand::None; GATEWAYS],
            is_another: false,
            is_granted_since: false,
            is_replaced: false,
            grants_left: variant.grants,
            failovers_left: variant.failovers,
        }
    }
}
