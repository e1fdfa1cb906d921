//! The rules of holds, as plainly as they can be written. They share no code with the ledger.

use farebox::account::AccountId;
use farebox::credits::{Credits, SignedCredits};
use farebox::ledger::{EntryKind, HoldEnd, NewHold, Origin, Outcome, Refusal};

use crate::plain::{Model, ROUTE};

/// The model's knowledge of a hold's id.
#[derive(Clone, Debug)]
pub struct Fate {
    pub account: AccountId,
    pub amount: i64,
    pub origin: Origin,
    pub state: State,
    /// In which batch it ended.
    pub ended_in: usize,
    /// The hold was released before it came, since the last start.
    pub overtaken: bool,
}

impl Fate {
    /// Whether a release by `origin` counts although the hold's time has run out, because no
    /// capture can come after it.
    fn can_be_released(&self, origin: Origin) -> bool {
        (self.state, self.origin, origin) == (State::Expired, Origin::Api, Origin::Api)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Live,
    Captured,
    Released,
    Expired,
}

fn hold_end(origin: Origin, who: &AccountId, captured: i64, released: i64) -> Option<HoldEnd> {
    if origin == Origin::Call {
        return None;
    }
    let credits = |micros: i64| Credits::from_micros(micros as u64).unwrap();
    let (captured, released) = (credits(captured), credits(released));
    Some(HoldEnd { account: who.clone(), route: ROUTE.into(), captured, released })
}

impl Model {
    pub fn hold(&mut self, hold: &NewHold) -> Result<Outcome, Refusal> {
        let amount = hold.amount.micros() as i64;
        if let Some(fate) = self.holds.get(hold.id.as_str()) {
            let same =
                (&fate.account, fate.amount, fate.origin) == (&hold.account, amount, hold.origin);
            return match fate.state {
                State::Live if same => Ok(Outcome::Held { after: self.after(&hold.account) }),
                State::Live => Err(Refusal::Conflict),
                _ => Err(Refusal::Ended),
            };
        }
        if amount == 0 {
            return Err(Refusal::Zero);
        }
        let claim = hold.claim.as_ref().filter(|_| hold.origin == Origin::Call);
        if let Some(claimed) = claim.and_then(|claim| self.claims.claimed(claim)) {
            return Ok(Outcome::Claimed(claimed));
        }
        let available = self.total(&hold.account) - self.held(&hold.account);
        if amount > available {
            let available = SignedCredits::from_micros(available)
                .unwrap_or_else(|| SignedCredits::from_micros(self.total(&hold.account)).unwrap());
            return Err(Refusal::Insufficient { available });
        }
        self.fate(hold.id.as_str(), &hold.account, amount, hold.origin, State::Live);
        if let Some(claim) = claim {
            self.claims.take(claim, &hold.id);
        }
        Ok(Outcome::Held { after: self.after(&hold.account) })
    }

    pub fn extend(&mut self, id: &str, who: &AccountId, amount: i64) -> Result<Outcome, Refusal> {
        let fate = self.holds.get(id).cloned().ok_or(Refusal::UnknownHold)?;
        if fate.state != State::Live {
            return Err(Refusal::Ended);
        }
        if (fate.origin, &fate.account) != (Origin::Call, who) {
            return Err(Refusal::UnknownHold);
        }
        let available = self.total(who) - self.held(who);
        if amount - fate.amount > available.max(0) {
            let available = SignedCredits::from_micros(available)
                .unwrap_or_else(|| SignedCredits::from_micros(self.total(who)).unwrap());
            return Err(Refusal::Insufficient { available });
        }
        self.holds.get_mut(id).unwrap().amount = amount.max(fate.amount);
        Ok(Outcome::Held { after: self.after(who) })
    }

    fn fate(&mut self, id: &str, who: &AccountId, amount: i64, origin: Origin, state: State) {
        let ended_in = self.batch;
        let account = who.clone();
        let fate = Fate { account, amount, origin, state, ended_in, overtaken: false };
        self.holds.insert(id.to_owned(), fate);
    }

    pub fn end(&mut self, id: &str, state: State) {
        let fate = self.holds.get_mut(id).unwrap();
        fate.state = state;
        fate.ended_in = self.batch;
    }

    /// The time of a hold has run out.
    pub fn expire(&mut self, id: &str) {
        self.end(id, State::Expired);
        self.claims.expire(id);
    }

    pub fn capture(
        &mut self,
        id: &str,
        who: Option<&AccountId>,
        amount: i64,
        origin: Origin,
        may_overrun: bool,
    ) -> Result<Outcome, Refusal> {
        let may_overrun = may_overrun && origin == Origin::Call;
        let operation = format!("capture:{id}");
        let fate = self.holds.get(id).cloned();
        self.names_its_owner(id, who, origin)?;
        let owner = match &fate {
            Some(fate) => match fate.state {
                State::Captured => {
                    let line = &self.done[&operation];
                    let same = line.amount == -amount && who.is_none_or(|who| *who == line.account);
                    let after = self.after(&line.account);
                    let again = Outcome::Captured { after, late: false, end: None };
                    return if same { Ok(again) } else { Err(Refusal::Conflict) };
                }
                State::Released if amount != 0 => return Err(Refusal::Ended),
                _ if fate.origin != origin => return Err(Refusal::UnknownHold),
                State::Live if who.is_some_and(|who| *who != fate.account) => {
                    return Err(Refusal::UnknownHold);
                }
                _ if amount > fate.amount && !may_overrun => {
                    let held = Credits::from_micros(fate.amount as u64).unwrap();
                    return Err(Refusal::AboveHold { held });
                }
                _ if who.is_some_and(|who| *who != fate.account) => {
                    return Err(Refusal::UnknownHold);
                }
                _ => fate.account.clone(),
            },
            None if origin == Origin::Call => who.cloned().ok_or(Refusal::UnknownHold)?,
            None => return Err(Refusal::UnknownHold),
        };
        let late = fate.as_ref().is_none_or(|fate| fate.state != State::Live);
        if amount == 0 {
            if !late || fate.as_ref().is_some_and(|fate| fate.can_be_released(origin)) {
                self.end(id, State::Released);
            }
            let end =
                fate.filter(|_| !late).and_then(|fate| hold_end(origin, &owner, 0, fate.amount));
            return Ok(Outcome::Released { after: self.after(&owner), end });
        }
        self.line(&owner, operation, EntryKind::Capture, -amount)?;
        let rest = fate.as_ref().filter(|_| !late).map_or(0, |fate| fate.amount - amount).max(0);
        match fate {
            Some(_) => self.end(id, State::Captured),
            None => self.fate(id, &owner, amount, origin, State::Captured),
        }
        let end = hold_end(origin, &owner, amount, rest);
        Ok(Outcome::Captured { after: self.after(&owner), late, end })
    }

    /// To an API caller who names another account there is no such hold.
    fn names_its_owner(
        &self,
        id: &str,
        who: Option<&AccountId>,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let owner = self.holds.get(id).map(|fate| &fate.account);
        let is_another = who.is_some_and(|who| owner.is_some_and(|owner| owner != who));
        if is_another && origin == Origin::Api { Err(Refusal::UnknownHold) } else { Ok(()) }
    }

    pub fn release(
        &mut self,
        id: &str,
        who: Option<&AccountId>,
        origin: Origin,
    ) -> Result<Outcome, Refusal> {
        let Some(fate) = self.holds.get(id).cloned() else {
            let who = who.filter(|_| origin == Origin::Call).ok_or(Refusal::UnknownHold)?;
            self.fate(id, who, 0, origin, State::Released);
            self.holds.get_mut(id).unwrap().overtaken = true;
            return Ok(Outcome::Released { after: self.after(who), end: None });
        };
        self.names_its_owner(id, who, origin)?;
        match fate.state {
            State::Captured => return Err(Refusal::Ended),
            _ if who.is_some_and(|who| *who != fate.account) => return Err(Refusal::UnknownHold),
            State::Live => {
                if fate.origin != origin {
                    return Err(Refusal::UnknownHold);
                }
                self.end(id, State::Released);
                let end = hold_end(origin, &fate.account, 0, fate.amount);
                return Ok(Outcome::Released { after: self.after(&fate.account), end });
            }
            State::Expired if fate.can_be_released(origin) => self.end(id, State::Released),
            State::Released | State::Expired => {}
        }
        Ok(Outcome::Released { after: self.after(&fate.account), end: None })
    }
}
