//! Two servers, two gateways, and their rows in Postgres.
use super::variant::{Faults, Variant};

pub const GATEWAYS: usize = 2;

/// A server with its data: the server's number, and its history of data (`master_replid`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Identity {
    pub server: usize,
    pub history: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Server {
    pub is_up: bool,
    pub is_master: bool,
    /// A number that no other history has.
    pub history: u8,
    /// The epoch whose scripts this process has; 0 for none.
    pub script: u8,
    /// The epoch that its data name, and the history in which that epoch began; 0 for none.
    pub epoch: u8,
    pub reign: u8,
}

impl Server {
    /// Whether a batch of this epoch is decided here.
    pub fn accepts(&self, epoch: u8) -> bool {
        let has_data = self.epoch == epoch && self.reign == self.history;
        self.is_up && self.is_master && self.script == epoch && has_data
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Gateway {
    pub is_running: bool,
    /// The server that it is connected to.
    pub at: usize,
    pub has_lease: bool,
    /// The epoch that it serves; 0 for none.
    pub serves: u8,
    /// An epoch whose data a server that it reached did not have; 0 for none.
    pub lost: u8,
    /// The newest epoch that it has given back to a recovery.
    pub checked_in: u8,
    /// The Redis that it reached at its last renewals, and whether that was a moment ago.
    pub reached: Option<Identity>,
    pub is_fresh: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    pub servers: [Server; 2],
    pub gateways: [Gateway; GATEWAYS],
    /// The server to which the address leads.
    pub named: usize,
    pub epoch: u8,
    pub is_recovering: bool,
    /// The Redis on which the epoch began.
    pub home: Identity,
    /// The newest number of a history.
    pub histories: u8,
    /// The epochs that began since the last fault.
    pub quiet_epochs: u8,
    /// Whether an epoch was ended although another gateway had reached its data a moment ago.
    pub is_needless: bool,
    /// Whether an epoch began on another Redis although a gateway reached the one before.
    pub has_moved: bool,
    pub faults: Faults,
}

impl State {
    /// The first epoch is open on the first server.
    pub fn first(variant: &Variant) -> Self {
        let master =
            Server { is_up: true, is_master: true, history: 1, script: 1, epoch: 1, reign: 1 };
        let other = match variant.two_addresses {
            true => Server { history: 2, script: 0, epoch: 0, reign: 0, ..master },
            false => Server { is_master: false, script: 0, ..master },
        };
        let home = Identity { server: 0, history: 1 };
        let gateway = Gateway {
            is_running: true,
            at: 0,
            has_lease: true,
            serves: 1,
            lost: 0,
            checked_in: 0,
            reached: Some(home),
            is_fresh: true,
        };
        let elsewhere = Gateway { at: 1, serves: 0, reached: None, is_fresh: false, ..gateway };
        Self {
            servers: [master, other],
            gateways: [gateway, if variant.two_addresses { elsewhere } else { gateway }],
            named: usize::from(variant.two_addresses),
            epoch: 1,
            is_recovering: false,
            home,
            histories: 2,
            quiet_epochs: 0,
            is_needless: false,
            has_moved: false,
            faults: variant.faults,
        }
    }

    pub fn server_of(&self, gateway: usize) -> &Server {
        &self.servers[self.gateways[gateway].at]
    }

    /// The master that a gateway reaches.
    pub fn reaches(&self, gateway: usize) -> Option<Identity> {
        let (server, at) = (self.server_of(gateway), self.gateways[gateway].at);
        (server.is_up && server.is_master)
            .then_some(Identity { server: at, history: server.history })
    }

    /// Whether a gateway could answer a call now.
    pub fn may_answer(&self, gateway: usize) -> bool {
        let one = &self.gateways[gateway];
        let may = one.is_running && one.has_lease && one.serves > 0;
        may && self.server_of(gateway).accepts(one.serves)
    }

    /// Whether another gateway, with a lease, has reached the epoch's Redis a moment ago.
    pub fn is_reached_by_another(&self, gateway: usize) -> bool {
        let others = self.gateways.iter().enumerate().filter(|(number, _)| *number != gateway);
        let mut others = others.map(|(_, one)| one);
        others.any(|one| one.has_lease && one.is_fresh && one.reached == Some(self.home))
    }
}
