//! Properties that must always hold, and situations that a run must have seen for that to mean anything.
use stateright::Property;

use super::model::Batches;
use super::state::{Hold, Place, State, batch_at};

/// Invariant 10, strict.
pub const ON_DISK: &str = "until Postgres fails over, an answered hold is in Postgres";
/// Invariant 10, through a failover of Postgres.
pub const KEPT: &str = "an answered hold is in a place from which it will reach Postgres's tables";
/// No answer comes from an epoch whose recovery has read the appends, and no recovery forgets an answer.
pub const RECOVERED: &str = "an answered hold is in Postgres's tables when the next epoch is open";
pub const ONCE: &str = "no batch is written twice";
pub const NO_GAP: &str = "the checkpoint advances without gaps";
pub const ONE_CHAIN: &str = "what is written one after the other was decided one after the other";
pub const NEW_NUMBER: &str = "no epoch has a number of which Redis has keys";
pub const ONE_TEXT: &str = "two holds under one number are not both answered";

pub const ALWAYS: [&str; 7] = [ON_DISK, KEPT, RECOVERED, ONCE, NO_GAP, ONE_CHAIN, NEW_NUMBER];

pub const FOLDED: &str = "an answered hold is folded";
pub const APPENDED_OUT_OF_ORDER: &str = "a batch is appended before an earlier one";
pub const NEVER_APPENDED: &str = "the checkpoint passes a batch that nobody appended";
pub const REPLAYED: &str = "an answered hold is replayed from the appends";
pub const THIRD_EPOCH: &str = "a hold is answered in the third epoch";
pub const REPEATED: &str = "a hold is answered that was asked for twice";
pub const TAKEN_BACK: &str = "Postgres lacks an answered hold for a while";
pub const BEHIND: &str = "Postgres is in an earlier epoch than Redis and serves again";

pub fn all() -> Vec<Property<Batches>> {
    vec![
        Property::always(ON_DISK, |model: &Batches, state: &State| {
            let failed_over =
                state.faults.postgres_failovers < model.variant.faults.postgres_failovers;
            failed_over || each_answered(state, |hold, _| is_in_postgres(state, hold))
        }),
        Property::always(KEPT, |_, state: &State| {
            let stream = state.redis.data.stream;
            each_answered(state, |hold, _| {
                is_in_postgres(state, hold) || state.postgres.is_to_come(stream[hold])
            })
        }),
        Property::always(RECOVERED, |_, state: &State| {
            each_answered(state, |hold, answered| {
                answered.epoch >= state.postgres.epoch || is_folded(state, hold)
            })
        }),
        Property::always(ONCE, |_, state: &State| !state.is_doubled),
        Property::always(NO_GAP, |_, state: &State| {
            let of = |seq| Place { epoch: state.postgres.epoch, seq };
            let count = |place| state.postgres.folded.iter().filter(|one| **one == place).count();
            (1..=state.postgres.checkpoint).all(|seq| count(of(seq)) == 1)
        }),
        Property::always(ONE_CHAIN, |_, state: &State| {
            let epoch = state.postgres.epoch;
            let at = |seq: u8| batch_at(&state.postgres.folded, Place { epoch, seq });
            (2..=state.postgres.checkpoint).all(|seq| {
                let batch = usize::from(at(seq));
                batch == 0 || state.before[batch - 1] == at(seq - 1)
            })
        }),
        Property::always(NEW_NUMBER, |_, state: &State| !state.is_reused),
        Property::always(ONE_TEXT, |_, state: &State| {
            let mut answered: Vec<_> = state.holds.iter().filter_map(answered).collect();
            let all = answered.len();
            answered.sort();
            answered.dedup();
            answered.len() == all
        }),
        Property::sometimes(FOLDED, |_, state: &State| {
            any_answered(state, |hold, _| is_folded(state, hold))
        }),
        Property::sometimes(APPENDED_OUT_OF_ORDER, |_, state: &State| {
            let appends = &state.postgres.appends;
            any_answered(state, |_, place| {
                let earlier = Place { seq: place.seq - 1, ..place };
                earlier.seq > state.postgres.checkpoint
                    && place.epoch == state.postgres.epoch
                    && batch_at(appends, place) != 0
                    && batch_at(appends, earlier) == 0
            })
        }),
        Property::sometimes(NEVER_APPENDED, |_, state: &State| {
            let holds = state.holds.iter().zip(state.postgres.folded).zip(state.postgres.appends);
            let mut holds = holds;
            holds.any(|((hold, folded), appended)| {
                let is_refused = matches!(hold, Hold::Failed | Hold::Unsure);
                is_refused && folded != Place::default() && appended == Place::default()
            })
        }),
        Property::sometimes(REPLAYED, |_, state: &State| {
            any_answered(state, |hold, place| {
                let is_gone = state.redis.data.stream[hold] == Place::default();
                place.epoch < state.postgres.epoch && is_folded(state, hold) && is_gone
            })
        }),
        Property::sometimes(THIRD_EPOCH, |_, state: &State| {
            any_answered(state, |_, place| place.epoch == 3)
        }),
        Property::sometimes(REPEATED, |_, state: &State| {
            any_answered(state, |hold, place| state.redis.data.stream[hold] < place)
        }),
        Property::sometimes(TAKEN_BACK, |_, state: &State| {
            any_answered(state, |hold, _| !is_in_postgres(state, hold))
        }),
        Property::sometimes(BEHIND, |_, state: &State| {
            let (postgres, redis) = (&state.postgres, &state.redis);
            let was = postgres.epoch_server > 0 && postgres.epoch > 2;
            was && postgres.is_open(postgres.epoch) && redis.accepts(postgres.epoch)
        }),
    ]
}

/// The place under which a hold was answered.
fn answered(hold: &Hold) -> Option<Place> {
    match hold {
        Hold::Answered(place) => Some(*place),
        _ => None,
    }
}

fn each_answered(state: &State, is_so: impl Fn(usize, Place) -> bool) -> bool {
    !any_answered(state, |hold, place| !is_so(hold, place))
}

fn any_answered(state: &State, is_so: impl Fn(usize, Place) -> bool) -> bool {
    let mut holds = state.holds.iter().map(answered).enumerate();
    holds.any(|(hold, place)| place.is_some_and(|place| is_so(hold, place)))
}

fn is_folded(state: &State, hold: usize) -> bool {
    state.postgres.folded[hold] != Place::default()
}

/// Whether Postgres has the hold in its tables, or as a text that a recovery will read.
fn is_in_postgres(state: &State, hold: usize) -> bool {
    let postgres = &state.postgres;
    let appended = postgres.appends[hold];
    let is_appended = appended.epoch == postgres.epoch && postgres.is_to_come(appended);
    is_folded(state, hold) || is_appended
}
