//! Properties that must always hold, and situations that a run must have seen for that to mean anything.
use stateright::Property;

use super::model::Servers;
use super::state::{GATEWAYS, State};

/// The most epochs that begin after a fault: the one that was about to begin, one on the old master to which a gateway is
/// still connected, and one on the new master.
pub const MOST_EPOCHS: u8 = 3;

pub const NO_SPLIT_BRAIN: &str = "two gateways never answer from two servers or two epochs";
pub const ENOUGH: &str = "after a fault, a few epochs begin and no more";
pub const NEEDED: &str = "no epoch ends whose data another gateway reaches";
pub const STAYS: &str = "the next epoch begins where another gateway reaches the epoch's Redis";

pub const ALWAYS: [&str; 4] = [NO_SPLIT_BRAIN, ENOUGH, NEEDED, STAYS];

pub const BOTH_SERVE: &str = "both gateways serve an epoch after the first";
pub const ONE_IS_ELSEWHERE: &str = "one gateway serves while the other reaches another Redis";
pub const SECOND_RECOVERY: &str = "a gateway serves the third epoch";

pub fn all() -> Vec<Property<Servers>> {
    vec![
        Property::always(NO_SPLIT_BRAIN, |_, state: &State| {
            let [first, second] = &state.gateways;
            let is_one = (first.at, first.serves) == (second.at, second.serves);
            is_one || !(state.may_answer(0) && state.may_answer(1))
        }),
        Property::always(ENOUGH, |_, state: &State| state.quiet_epochs <= MOST_EPOCHS),
        Property::always(NEEDED, |_, state: &State| !state.is_needless),
        Property::always(STAYS, |_, state: &State| !state.has_moved),
        Property::sometimes(BOTH_SERVE, |_, state: &State| {
            state.epoch > 1 && (0..GATEWAYS).all(|gateway| state.may_answer(gateway))
        }),
        Property::sometimes(ONE_IS_ELSEWHERE, |_, state: &State| {
            let is_elsewhere = |gateway| {
                let here = state.reaches(gateway);
                here.is_some() && here != Some(state.home)
            };
            (0..GATEWAYS).any(|gateway| state.may_answer(gateway) && is_elsewhere(1 - gateway))
        }),
        Property::sometimes(SECOND_RECOVERY, |_, state: &State| {
            state.epoch == 3 && (0..GATEWAYS).any(|gateway| state.may_answer(gateway))
        }),
    ]
}
