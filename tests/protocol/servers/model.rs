//! The actions that can happen next.
use stateright::{Model, Property};

use super::properties;
use super::state::{GATEWAYS, State};
use super::variant::Variant;
use super::{faults, gateways};

/// An action. Its number is that of a gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Ask(usize),
    Beat(usize),
    Open(usize),
    Reconnect(usize),
    Forget(usize),
    LoseLease(usize),
    Pause(usize),
    GoOn(usize),
    Promote,
    Demote,
    Flap,
    Wipe,
    Restart,
    Kill,
}

impl Action {
    /// Whether this is a fault, so that it need not happen.
    pub fn is_fault(self) -> bool {
        use Action::*;
        matches!(self, Pause(_) | Promote | Demote | Flap | Wipe | Restart | Kill)
    }
}

/// A variant, and the actions it knows.
#[derive(Clone, Debug)]
pub struct Servers {
    pub variant: Variant,
    actions: Vec<Action>,
}

impl Servers {
    pub fn new(variant: Variant) -> Self {
        use Action::*;
        let of_gateways = [Ask, Beat, Open, Reconnect, Forget, LoseLease, Pause, GoOn];
        let others = [Promote, Demote, Flap, Wipe, Restart, Kill];
        let gateways = (0..GATEWAYS).flat_map(|one| of_gateways.map(|action| action(one)));
        Self { variant, actions: gateways.chain(others).collect() }
    }
}

impl Model for Servers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.variant)]
    }

    fn actions(&self, _state: &State, actions: &mut Vec<Action>) {
        actions.extend(&self.actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        use Action::*;
        let (variant, state) = (&self.variant, *state);
        match action {
            Ask(gateway) => gateways::ask(state, gateway),
            Beat(gateway) => gateways::beat(variant, state, gateway),
            Open(gateway) => gateways::open(variant, state, gateway),
            Reconnect(gateway) => gateways::reconnect(variant, state, gateway),
            Forget(gateway) => gateways::forget(variant, state, gateway),
            LoseLease(gateway) => gateways::lose_lease(state, gateway),
            Pause(gateway) => faults::pause(state, gateway),
            GoOn(gateway) => faults::go_on(state, gateway),
            Promote => faults::promote(state),
            Demote => faults::demote(state),
            Flap => faults::flap(state),
            Wipe => faults::wipe(state),
            Restart => faults::restart(state),
            Kill => faults::kill(state),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }

    /// A variant without an end to its recoveries has states without an end.
    fn within_boundary(&self, state: &State) -> bool {
        state.quiet_epochs <= properties::MOST_EPOCHS + 1
    }
}
