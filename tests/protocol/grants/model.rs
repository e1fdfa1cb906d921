//! The actions that can happen next.
use stateright::{Model, Property};

use super::properties;
use super::state::{GATEWAYS, GRANTS, State};
use super::variant::Variant;
use super::{faults, steps};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Grant(u8),
    /// A gateway reads the delivery with this number.
    Read(usize, u8),
    Apply(usize),
    LookBehind(usize),
    Delete(usize),
    BringAnew(usize),
    Announce,
    ReadAccount,
    Warm,
    Retire,
    CopyPostgres,
    FailOver,
    Notice,
}

/// A variant, and the actions it knows.
#[derive(Clone, Debug)]
pub struct Grants {
    pub variant: Variant,
    actions: Vec<Action>,
}

impl Grants {
    pub fn new(variant: Variant) -> Self {
        use Action::*;
        let numbers = 1..=GRANTS as u8;
        let mut actions: Vec<_> = numbers.clone().map(Grant).collect();
        for gateway in 0..GATEWAYS {
            actions.extend(numbers.clone().map(|number| Read(gateway, number)));
            actions.extend([Apply, LookBehind, Delete, BringAnew].map(|action| action(gateway)));
        }
        actions.extend([Announce, ReadAccount, Warm, Retire, CopyPostgres, FailOver, Notice]);
        Self { variant, actions }
    }
}

impl Model for Grants {
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
            Grant(grant) => steps::grant(state, grant),
            Read(gateway, number) => steps::read(state, gateway, number),
            Apply(gateway) => steps::apply(variant, state, gateway),
            LookBehind(gateway) => steps::look_behind(variant, state, gateway),
            Delete(gateway) => steps::delete(state, gateway),
            BringAnew(gateway) => steps::bring_anew(state, gateway),
            Announce => steps::announce(state),
            ReadAccount => steps::read_account(state),
            Warm => steps::warm(state),
            Retire => steps::retire(state),
            CopyPostgres => faults::copy(state),
            FailOver => faults::fail_over(variant, state),
            Notice => faults::notice(variant, state),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
