//! Faults of Redis, of gateways, and of the lines between them and Postgres.
use crate::state::{Call, Data, Hydrating, Node, Process, State};
use crate::variant::{Durability, LeaseCheck, Variant};

/// The replica has caught up. Between two of these it lags.
pub fn replicate(mut state: State) -> Option<State> {
    let data = state.nodes[state.master].data;
    let replica = &mut state.nodes[1 - state.master].data;
    if state.is_split || *replica == data {
        return None;
    }
    *replica = data;
    Some(state)
}

/// The old master comes back as an empty process, and follows the new one.
pub fn failover(mut state: State) -> Option<State> {
    state.faults.failovers = state.faults.failovers.checked_sub(1)?;
    state = promote(state)?;
    let data = state.nodes[state.master].data;
    state.nodes[1 - state.master] = Node { data, ..Node::default() };
    Some(state)
}

/// The old master's process, and with it its script, lives on.
pub fn switchover(mut state: State) -> Option<State> {
    state.faults.switchovers = state.faults.switchovers.checked_sub(1)?;
    state = promote(state)?;
    let data = state.nodes[state.master].data;
    state.nodes[1 - state.master].demote(data);
    Some(state)
}

fn promote(mut state: State) -> Option<State> {
    if state.is_split {
        return None;
    }
    state.master = 1 - state.master;
    for gateway in &mut state.gateways {
        gateway.node = state.master;
    }
    Some(state)
}

pub fn wipe(mut state: State) -> Option<State> {
    state.faults.wipes = state.faults.wipes.checked_sub(1)?;
    state.nodes[state.master].data = Data::default();
    Some(state)
}

pub fn split(mut state: State) -> Option<State> {
    state.faults.splits = state.faults.splits.checked_sub(1)?;
    state = promote(state)?;
    state.gateways[0].node = 1 - state.master;
    state.is_split = true;
    Some(state)
}

/// The first gateway finds the new master, and the old one becomes its replica.
pub fn rejoin(mut state: State) -> Option<State> {
    if !state.is_split {
        return None;
    }
    state.is_split = false;
    state.gateways[0].node = state.master;
    let data = state.nodes[state.master].data;
    state.nodes[1 - state.master].demote(data);
    Some(state)
}

/// kill -9: what was in memory is gone, what is on its way may arrive.
pub fn crash(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    if state.gateways[gateway].process == Process::Dead {
        return None;
    }
    state.faults.crashes = state.faults.crashes.checked_sub(1)?;
    state.gateways[gateway].process = Process::Dead;
    state.gateways[gateway].hydrating = Hydrating::No;
    for call in State::calls_of(gateway) {
        let postgres = &state.postgres;
        let is_durable = postgres.records[call].is_capture() || postgres.appends[call].is_capture();
        let waits_for_postgres = variant.durability == Durability::Strict && !is_durable;
        state.rings[call] = Default::default();
        state.calls[call] = match state.calls[call] {
            Call::Sent { epoch } => {
                Call::Failed { hold_on_its_way: Some(epoch), release_due: false }
            }
            Call::Failed { hold_on_its_way, .. } => {
                Call::Failed { hold_on_its_way, release_due: false }
            }
            captured if captured.is_captured() && waits_for_postgres => Call::Lost,
            ended @ (Call::Captured | Call::CapturedTwo | Call::Refused) => ended,
            _ => Call::Lost,
        };
    }
    Some(state)
}

pub fn pause(mut state: State, gateway: usize) -> Option<State> {
    if !state.gateways[gateway].is_running() {
        return None;
    }
    state.faults.pauses = state.faults.pauses.checked_sub(1)?;
    state.gateways[gateway].process = Process::Paused;
    Some(state)
}

pub fn go_on(mut state: State, gateway: usize) -> Option<State> {
    if state.gateways[gateway].process != Process::Paused {
        return None;
    }
    state.gateways[gateway].process = Process::Running;
    Some(state)
}

pub fn lose_postgres(mut state: State, gateway: usize) -> Option<State> {
    if !state.gateways[gateway].reaches_postgres {
        return None;
    }
    state.faults.postgres_cuts = state.faults.postgres_cuts.checked_sub(1)?;
    state.gateways[gateway].reaches_postgres = false;
    Some(state)
}

pub fn find_postgres(mut state: State, gateway: usize) -> Option<State> {
    if state.gateways[gateway].reaches_postgres {
        return None;
    }
    state.gateways[gateway].reaches_postgres = true;
    Some(state)
}

/// The lease of a gateway that cannot renew it runs out.
pub fn lease_runs_out(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = &mut state.gateways[gateway];
    if one.can_write_postgres() || !one.has_lease {
        return None;
    }
    one.has_lease = false;
    if variant.lease_check != LeaseCheck::ReplyAge {
        State::calls_of(gateway).for_each(|call| state.end_reply(call));
    }
    Some(state)
}

/// A gateway renews its lease in the epoch that it acknowledged. In a newer epoch it has to check
/// in first.
pub fn renew_lease(mut state: State, gateway: usize) -> Option<State> {
    let one = &mut state.gateways[gateway];
    if !one.can_write_postgres() || one.has_lease || one.epoch != state.postgres.epoch {
        return None;
    }
    one.has_lease = true;
    Some(state)
}
