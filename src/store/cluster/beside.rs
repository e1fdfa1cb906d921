//! Chooses the operations that are decided beside the pipeline, because they wait for Postgres, so that they delay no
//! other call.
//!
//! | way | waits for |
//! |---|---|
//! | calls of a cold account | Postgres, which has the account; then they are decided in Redis |
//! | holds of the API | Postgres, which must have them in its tables |
//! | newcomers | Postgres, which makes their accounts |
//! | grants, purchases, keys | the rows that they change |
//! | audits | Postgres, which must have all earlier batches in its tables |
//!
//! One rule keeps the order: an operation waits for every earlier operation that names the same account, hold, claim or
//! id ([`names`]), and for no other. So an operation that names something which a group beside the pipeline names is left
//! waiting, and so is every later operation that names the same as one that waits. When a group is decided, the
//! operations that wait join the pipeline again, in their order. Two groups that are decided at once have no name in
//! common, and are decided as independently as if two gateways had decided them. The names of an operation are free as
//! soon as it is answered, even if others of its group are not. The account of an operation of the API is free as soon
//! as Redis has decided the operation, which then waits for Postgres alone.
//!
//! The number of groups of each way is limited, so that they leave connections of the pool for the syncer and the lease.
//! Operations that find no room wait as well. All those of one way are then decided together, as one group.

use std::ops::Range;
use std::sync::{Arc, Weak};

use ahash::{HashMap, HashSet};

use crate::ledger::operation::{Operation, Origin};
use crate::store::cluster::names::{Name, names};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::shared::HoldsToAskFor;
use crate::store::cluster::work::MAX_BATCH;

/// The way in which an operation is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In Redis, by the pipeline, unless the account is cold.
    Call,
    /// In Redis, and then in Postgres's tables.
    Api,
    /// In Postgres, unless Redis has the account.
    Newcomer,
    /// In Postgres.
    Grant,
    /// All earlier decisions of Redis are written into Postgres.
    Audit,
}

impl Way {
    pub fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Hold(_)
            | Operation::Extend { .. }
            | Operation::Renew { .. }
            | Operation::Capture { .. }
            | Operation::Release { .. }
            | Operation::Abandon { .. }
            | Operation::MarkClaim { .. }
            | Operation::Leave { .. }
            | Operation::Balance { .. } => match operation.origin() {
                Some(Origin::Api) => Self::Api,
                Some(Origin::Call) | None => Self::Call,
            },
            Operation::Open { .. } => Self::Newcomer,
            Operation::Post(_)
            | Operation::Refund { .. }
            | Operation::RefundPart { .. }
            | Operation::Import(_)
            | Operation::PutKeys(_)
            | Operation::RevokeKey { .. }
            | Operation::RecordEvent(_)
            | Operation::EndEvent { .. }
            | Operation::TakeFacts(_)
            | Operation::RecordCustomer { .. }
            | Operation::Thaw { .. }
            | Operation::Fold { .. } => Self::Grant,
            Operation::Audit => Self::Audit,
        }
    }

    /// The most groups that are decided at once.
    fn most(self) -> usize {
        match self {
            Self::Call | Self::Grant => 2,
            Self::Api | Self::Newcomer | Self::Audit => 1,
        }
    }
}

/// The operations that are decided beside the pipeline of one gateway, and those that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    running: Vec<Running>,
    /// The names of the operations that wait to join the pipeline again.
    waiting: HashSet<Name>,
    /// The ways in which some of these found no room for a group.
    lack_room: Vec<Way>,
}

/// Operations that are being decided beside the pipeline.
#[derive(Debug)]
struct Running {
    /// `None` for operations that this gateway owes.
    way: Option<Way>,
    /// The operations take a room of their way as long as this lives.
    room: Weak<Guard>,
    /// Whether they took a room when that was last looked at.
    takes_room: bool,
    /// Each name is taken as long as one of its guards lives.
    names: HashMap<Name, Vec<Weak<Guard>>>,
}

/// A token that lives until the operations of a group are decided.
#[derive(Debug)]
pub(crate) struct Guard;

/// The operations of a batch that the pipeline does not decide.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    places: Vec<usize>,
    names: HashSet<Name>,
}

/// Operations of a batch that go the same way and are decided together.
#[derive(Debug)]
pub(crate) struct Group {
    pub way: Way,
    pub members: Vec<Member>,
    /// Lives during the first step.
    pub room: Arc<Guard>,
}

/// An operation of a group.
#[derive(Debug)]
pub(crate) struct Member {
    /// The operation's place in the batch.
    pub place: usize,
    pub operation: Operation,
    /// Lives until the operation is answered.
    pub until_answered: Arc<Guard>,
    /// Lives until Redis has decided the operation, if that is earlier.
    pub until_decided: Option<Arc<Guard>>,
}

impl Beside {
    /// Prepares for a batch. If it begins with all operations that wait (`rejoins`), the groups that are decided are
    /// forgotten. Otherwise they are not, so that no later operation takes the room that one of those waits for.
    pub fn begin_batch(&mut self, rejoins: bool) {
        if rejoins {
            self.running.retain_mut(Running::is_left);
            self.waiting.clear();
            self.lack_room.clear();
        }
    }

    /// Forgets what is decided. Returns whether operations that wait may join the pipeline again: one of their names, or
    /// a room that some of them lack, is free now. The room stays theirs until they join.
    pub fn lets_rejoin(&mut self) -> bool {
        let mut lets = self.waiting.is_empty();
        for group in &mut self.running {
            group.names.retain(|name, guards| {
                let is_taken = guards.iter().any(|guard| guard.strong_count() > 0);
                lets |= !is_taken && self.waiting.contains(name);
                is_taken
            });
            if group.takes_room && group.room.strong_count() == 0 {
                let is_lacked = group.way.is_some_and(|way| self.lack_room.contains(&way));
                lets |= is_lacked;
                group.takes_room = is_lacked;
            }
        }
        self.running.retain(|group| group.takes_room || !group.names.is_empty());
        lets
    }

    /// The places of the operations in this part of a batch that the pipeline decides, and the new holds that it may ask
    /// Redis for. All others are added to `rest`. `None` if the pipeline decides the whole part, as it usually does. The
    /// pipeline also gets the new holds that `holds` does not allow, and refuses them at once.
    pub fn to_decide(
        &self,
        batch: &[Operation],
        part: Range<usize>,
        holds: impl FnOnce() -> HoldsToAskFor,
        rest: &mut Rest,
    ) -> Option<(Vec<usize>, HoldsToAskFor)> {
        let is_idle = self.running.is_empty() && self.waiting.is_empty() && rest.places.is_empty();
        let is_call = |operation: &Operation| Way::of(operation) == Way::Call;
        if is_idle && batch[part.clone()].iter().all(is_call) {
            return None;
        }
        let holds = holds();
        let mut places = Vec::with_capacity(part.len());
        for place in part {
            if !holds.allow(BatchItem::Operation(&batch[place])) {
                places.push(place);
                continue;
            }
            let names = names(&batch[place]);
            let waits =
                self.names_any(&names) || names.iter().any(|name| rest.names.contains(name));
            if is_call(&batch[place]) && !waits {
                places.push(place);
            } else {
                rest.places.push(place);
                rest.names.extend(names);
            }
        }
        Some((places, holds))
    }

    /// Makes groups of the rest of a batch. Returns them with the places of the operations that have to wait, in order.
    pub fn group(&mut self, batch: &[Operation], rest: Rest) -> (Vec<Group>, Vec<usize>) {
        let mut places = rest.places;
        places.sort_unstable();
        let mut new: Vec<(Way, Vec<usize>, HashSet<Name>)> = Vec::new();
        let mut waiting = Vec::new();
        for place in places {
            let (way, names) = (Way::of(&batch[place]), names(&batch[place]));
            let follows_other = new.iter().any(|(other, _, theirs)| {
                *other != way && names.iter().any(|name| theirs.contains(name))
            });
            if follows_other || self.names_any(&names) {
                self.waiting.extend(names);
                waiting.push(place);
                continue;
            }
            match new.iter_mut().find(|(other, ..)| *other == way) {
                Some((_, group, theirs)) if group.len() < MAX_BATCH => {
                    group.push(place);
                    theirs.extend(names);
                }
                None if self.has_room(way) => {
                    new.push((way, vec![place], names.into_iter().collect()));
                }
                _ => {
                    self.lack_room.push(way);
                    self.waiting.extend(names);
                    waiting.push(place);
                }
            }
        }
        let groups = new.into_iter().map(|(way, places, _)| {
            let room = Arc::new(Guard);
            let mut running = Running {
                way: Some(way),
                room: Arc::downgrade(&room),
                takes_room: true,
                names: HashMap::default(),
            };
            let members = places.iter().map(|place| running.add(way, *place, &batch[*place]));
            let members = members.collect();
            self.running.push(running);
            Group { way, members, room }
        });
        (groups.collect(), waiting)
    }

    /// Whether operations that this gateway owes are being decided.
    pub fn has_owed(&self) -> bool {
        self.running.iter().any(|group| group.way.is_none() && group.room.strong_count() > 0)
    }

    /// Notes that operations are decided which this gateway owes: later ones that name the same wait for them.
    pub fn start_owed(&mut self, operations: &[Operation]) -> Arc<Guard> {
        let guard = Arc::new(Guard);
        let room = Arc::downgrade(&guard);
        let names = operations.iter().flat_map(names);
        let names = names.map(|name| (name, vec![room.clone()])).collect();
        self.running.push(Running { way: None, room, takes_room: true, names });
        guard
    }

    fn has_room(&self, way: Way) -> bool {
        let takes_room = |group: &&Running| group.way == Some(way) && group.takes_room;
        self.running.iter().filter(takes_room).count() < way.most()
    }

    /// Whether operations that are being decided, or that wait, name one of these.
    fn names_any(&self, names: &[Name]) -> bool {
        names.iter().any(|name| {
            self.waiting.contains(name)
                || self.running.iter().any(|run| run.names.contains_key(name))
        })
    }
}

impl Running {
    /// Adds an operation, as a member of the group.
    fn add(&mut self, way: Way, place: usize, operation: &Operation) -> Member {
        let until_answered = Arc::new(Guard);
        let until_decided = (way == Way::Api).then(|| Arc::new(Guard));
        for name in names(operation) {
            let guard = match (&name, &until_decided) {
                (Name::Account(_), Some(until_decided)) => until_decided,
                _ => &until_answered,
            };
            self.names.entry(name).or_default().push(Arc::downgrade(guard));
        }
        Member { place, operation: operation.clone(), until_answered, until_decided }
    }

    /// Forgets what is over. Returns whether something is left.
    fn is_left(&mut self) -> bool {
        self.names.retain(|_, guards| guards.iter().any(|guard| guard.strong_count() > 0));
        self.takes_room = self.room.strong_count() > 0;
        self.takes_room || !self.names.is_empty()
    }
}

impl Rest {
    /// Adds operations that Redis could not decide, and after which no other may be decided that names the same.
    pub fn add_cold(&mut self, batch: &[Operation], places: impl Iterator<Item = usize>) {
        for place in places {
            self.places.push(place);
            self.names.extend(names(&batch[place]));
        }
    }

    /// Whether the pipeline decides the whole batch.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
#[path = "beside_tests.rs"]
mod tests;
