//! Strict by append: a gateway waits for the text of its own batch alone.
use crate::state::{Appending, Call, Record, State};

/// Postgres checks the epoch of a batch that the gateway has a reply to. Batches come in any order.
pub fn begin(mut state: State, call: usize) -> Option<State> {
    let (owner, one) = (State::owner(call), *state.gateway_of(call));
    let record = match state.calls[call] {
        Call::Granted { .. } => Record::Held,
        Call::Extending { .. } => Record::HeldTwo,
        Call::Captured => Record::Captured,
        Call::CapturedTwo => Record::CapturedTwo,
        _ => return None,
    };
    let postgres = &state.postgres;
    let is_open = one.epoch == postgres.epoch && !postgres.is_recovering;
    let is_news = state.known_appends[call].merged(record) != state.known_appends[call];
    let may = one.can_write_postgres() && is_open && is_news;
    if !may || state.appending[owner].is_some() {
        return None;
    }
    state.appending[owner] = Some(Appending { call, record, epoch: one.epoch });
    Some(state)
}

/// Postgres commits the append, whether or not the gateway still runs.
pub fn commit(mut state: State, gateway: usize) -> Option<State> {
    let Appending { call, record, epoch } = state.appending[gateway].take()?;
    if epoch == state.postgres.epoch - u8::from(state.postgres.is_recovering) {
        let append = &mut state.postgres.appends[call];
        *append = append.merged(record);
        state.forget_folded();
    }
    // No gateway reads the appends of an earlier epoch any more, but the gateway that made this one does not
    // know that.
    let known = &mut state.known_appends[call];
    *known = known.merged(record);
    Some(state)
}

impl State {
    /// Drops appends that the records have.
    pub fn forget_folded(&mut self) {
        let postgres = &mut self.postgres;
        for (append, known) in postgres.appends.iter_mut().zip(postgres.records) {
            if known.merged(*append) == known {
                *append = Record::Unknown;
            }
        }
    }
}
