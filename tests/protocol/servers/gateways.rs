//! What a gateway does about the epoch.
use super::state::State;
use super::variant::Variant;

/// A batch finds that the server does not have the epoch's data.
pub fn ask(mut state: State, gateway: usize) -> Option<State> {
    let (one, server) = (state.gateways[gateway], *state.server_of(gateway));
    let may = one.is_running && one.serves > 0 && server.is_up;
    if !may || server.accepts(one.serves) {
        return None;
    }
    let one = &mut state.gateways[gateway];
    one.lost = one.serves;
    one.serves = 0;
    Some(state)
}

/// A heartbeat: renews the lease with the Redis that is reached, and looks at the epoch.
pub fn beat(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let before = state;
    let here = state.reaches(gateway);
    let one = &mut state.gateways[gateway];
    if !one.is_running {
        return None;
    }
    one.has_lease = true;
    if here.is_some() {
        (one.reached, one.is_fresh) = (here, true);
    }
    if state.is_recovering {
        (one.serves, one.lost, one.checked_in) = (0, 0, state.epoch);
    } else if one.serves != state.epoch {
        // The lease is new, and the old master may still run the scripts of an epoch that has ended.
        if variant.leaves_ended_epoch {
            one.serves = 0;
        }
        look(variant, &mut state, gateway);
    }
    (state != before).then_some(state)
}

/// Decides whether the gateway serves the epoch, ends it, or waits.
fn look(variant: &Variant, state: &mut State, gateway: usize) {
    let (here, server, home) = (state.reaches(gateway), *state.server_of(gateway), state.home);
    let (epoch, is_reached) = (state.epoch, state.is_reached_by_another(gateway));
    let is_replica = server.is_up && !server.is_master;
    let one = &mut state.gateways[gateway];
    if here.is_none() && (variant.keeps_epoch_on_replica || !is_replica) {
        if is_replica {
            one.lost = 0;
        } else if one.lost != epoch {
            // The first batch shows what is there once the server is back.
            one.serves = epoch;
        }
        return;
    }
    let is_home = here == Some(home);
    if is_home && variant.looks_again && server.accepts(epoch) {
        one.lost = 0;
    }
    if is_home && one.lost != epoch {
        one.serves = epoch;
        return;
    }
    one.lost = 0;
    if is_home || !is_reached || !variant.asks_who_reaches {
        let has_data = state.servers[home.server].accepts(epoch);
        state.is_needless |= is_reached && has_data;
        state.is_recovering = true;
    }
}

/// A gateway leads the recovery: the next epoch begins on the Redis that it reaches.
pub fn open(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let here = state.reaches(gateway)?;
    let one = state.gateways[gateway];
    let may = state.is_recovering && one.is_running && one.checked_in == state.epoch;
    let is_waited_for =
        state.gateways.iter().any(|one| one.has_lease && one.checked_in < state.epoch);
    let is_reached = here != state.home && state.is_reached_by_another(gateway);
    if !may || (is_waited_for && variant.waits_for_leases) || (is_reached && variant.stays) {
        return None;
    }
    state.has_moved |= is_reached;
    (state.epoch, state.is_recovering, state.home) = (state.epoch + 1, false, here);
    state.quiet_epochs += 1;
    let server = &mut state.servers[here.server];
    (server.script, server.epoch, server.reign) = (state.epoch, state.epoch, here.history);
    // It renews its lease at once.
    let one = &mut state.gateways[gateway];
    (one.serves, one.reached, one.is_fresh, one.has_lease) = (state.epoch, Some(here), true, true);
    Some(state)
}

/// A connection is opened anew, and finds the server to which the address leads.
pub fn reconnect(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let is_fixed = variant.two_addresses && gateway == 0;
    let named = state.named;
    let one = &mut state.gateways[gateway];
    if is_fixed || one.at == named || !one.is_running {
        return None;
    }
    one.at = named;
    Some(state)
}

/// Some seconds have passed in which a gateway did not reach the Redis that its row names.
pub fn forget(variant: &Variant, mut state: State, gateway: usize) -> Option<State> {
    let one = state.gateways[gateway];
    let reaches_it = one.is_running && state.reaches(gateway) == one.reached;
    if !variant.forgets_who_reached || !one.is_fresh || reaches_it {
        return None;
    }
    state.gateways[gateway].is_fresh = false;
    Some(state)
}

/// The lease of a gateway that stands still runs out.
pub fn lose_lease(mut state: State, gateway: usize) -> Option<State> {
    let one = &mut state.gateways[gateway];
    if one.is_running || !one.has_lease {
        return None;
    }
    one.has_lease = false;
    Some(state)
}
