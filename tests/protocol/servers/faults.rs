//! Faults of the servers and of gateways.
use super::state::State;

/// Takes one of the faults that are left. From now on it counts which epochs begin.
fn take(state: &mut State, left: impl Fn(&mut State) -> &mut u8) -> Option<()> {
    let left = left(state);
    *left = left.checked_sub(1)?;
    state.quiet_epochs = 0;
    Some(())
}

/// The replica is promoted, with a history of its own, and the address leads there. The old master does not know.
pub fn promote(mut state: State) -> Option<State> {
    take(&mut state, |state| &mut state.faults.promotions)?;
    state.named = 1 - state.named;
    state.histories += 1;
    let history = state.histories;
    let server = &mut state.servers[state.named];
    if !server.is_up || server.is_master {
        return None;
    }
    (server.is_master, server.history) = (true, history);
    Some(state)
}

/// The old master hears of the new one, and takes its data.
pub fn demote(mut state: State) -> Option<State> {
    take(&mut state, |state| &mut state.faults.demotions)?;
    let master = state.servers[state.named];
    let server = &mut state.servers[1 - state.named];
    if !server.is_up || !server.is_master {
        return None;
    }
    (server.is_master, server.history) = (false, master.history);
    (server.epoch, server.reign) = (master.epoch, master.reign);
    Some(state)
}

/// The address leads to the other server.
pub fn flap(mut state: State) -> Option<State> {
    take(&mut state, |state| &mut state.faults.flaps)?;
    state.named = 1 - state.named;
    Some(state)
}

pub fn wipe(mut state: State) -> Option<State> {
    take(&mut state, |state| &mut state.faults.wipes)?;
    let server = &mut state.servers[0];
    (server.epoch, server.reign) = (0, 0);
    Some(state)
}

pub fn restart(mut state: State) -> Option<State> {
    take(&mut state, |state| &mut state.faults.restarts)?;
    state.histories += 1;
    let history = state.histories;
    let server = &mut state.servers[0];
    if !server.is_master {
        return None;
    }
    (server.script, server.history) = (0, history);
    Some(state)
}

pub fn kill(mut state: State) -> Option<State> {
    take(&mut state, |state| &mut state.faults.kills)?;
    state.servers[0].is_up = false;
    Some(state)
}

pub fn pause(mut state: State, gateway: usize) -> Option<State> {
    if !state.gateways[gateway].is_running {
        return None;
    }
    take(&mut state, |state| &mut state.faults.pauses)?;
    state.gateways[gateway].is_running = false;
    Some(state)
}

/// The gateway goes on. An answer that it had not given yet counts only under a lease without a gap, so it serves
/// nothing from before.
pub fn go_on(mut state: State, gateway: usize) -> Option<State> {
    let one = &mut state.gateways[gateway];
    if one.is_running {
        return None;
    }
    one.is_running = true;
    state.quiet_epochs = 0;
    Some(state)
}
