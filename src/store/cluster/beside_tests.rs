//! Tests of the choice of operations that are decided beside the pipeline.

use super::*;
use crate::credits::Credits;
use crate::ledger::operation::{EntryKind, HoldId, NewHold, OperationId, Posting};

fn balance(account: &str) -> Operation {
    Operation::Balance { account: account.parse().unwrap() }
}

fn grant(id: &str, account: &str) -> Operation {
    Operation::Post(Posting {
        id: OperationId::posting(EntryKind::Grant, id).unwrap(),
        account: account.parse().unwrap(),
        kind: EntryKind::Grant,
        amount: Credits::from_micros(1).unwrap().signed(),
        reason: None,
    })
}

fn hold(id: &str, account: &str, origin: Origin) -> Operation {
    Operation::Hold(NewHold {
        id: id.parse().unwrap(),
        account: account.parse().unwrap(),
        amount: Credits::from_micros(1).unwrap(),
        route: "/r".into(),
        origin,
        ttl_ms: 1,
        claim: None,
    })
}

fn renewal(id: &str) -> Operation {
    Operation::Renew { hold: id.parse::<HoldId>().unwrap(), ttl_ms: 1 }
}

/// The places that the pipeline decides, the groups, and the places that wait.
type Sorted = (Vec<usize>, Vec<Group>, Vec<usize>);

/// Sorts a batch of which Redis does not have the operations in `cold`.
fn sort(beside: &mut Beside, batch: &[Operation], rejoins: bool, cold: &[usize]) -> Sorted {
    beside.begin_batch(rejoins);
    let mut rest = Rest::default();
    let all = 0..batch.len();
    let allowed = || HoldsToAskFor::ALL;
    let places = beside.to_decide(batch, all.clone(), allowed, &mut rest);
    let mut places = places.map_or_else(|| all.collect(), |(places, _)| places);
    places.retain(|place| !cold.contains(place));
    rest.add_cold(batch, cold.iter().copied());
    let (groups, waiting) = beside.group(batch, rest);
    (places, groups, waiting)
}

fn places(groups: &[Group]) -> Vec<(Way, Vec<usize>)> {
    let places = |group: &Group| group.members.iter().map(|member| member.place).collect();
    groups.iter().map(|group| (group.way, places(group))).collect()
}

#[test]
fn an_operation_waits_for_the_earlier_ones_that_name_the_same_and_for_no_other() {
    let mut beside = Beside::default();
    let batch = [
        balance("alice"),
        grant("g", "alice"),
        hold("job", "bob", Origin::Api),
        balance("alice"),
        balance("carol"),
        renewal("job"),
        hold("other", "bob", Origin::Call),
        // Under the id of the grant, for another account.
        grant("g", "dave"),
        hold("call", "erin", Origin::Call),
        balance("erin"),
    ];
    let (decided, groups, waiting) = sort(&mut beside, &batch, false, &[8, 9]);
    assert_eq!(decided, [0, 4]);
    let expected = [(Way::Grant, vec![1, 7]), (Way::Api, vec![2]), (Way::Call, vec![8, 9])];
    assert_eq!(places(&groups), expected);
    assert_eq!(waiting, [3, 5, 6]);

    // Later batches wait for the groups, and for the operations that wait.
    let later = [balance("carol"), renewal("job"), renewal("other"), grant("g", "frank")];
    let (decided, new, waiting) = sort(&mut beside, &later, false, &[]);
    assert_eq!((decided, places(&new), waiting), (vec![0], vec![], vec![1, 2, 3]));

    // Once a group is decided, those that waited for it alone join again.
    let [grants, api, cold] = groups.try_into().unwrap();
    drop(grants);
    let rejoining = [balance("alice"), renewal("job"), grant("g", "frank")];
    let (decided, new, waiting) = sort(&mut beside, &rejoining, true, &[]);
    assert_eq!((decided, waiting), (vec![0], vec![1]));
    assert_eq!(places(&new), [(Way::Grant, vec![2])]);
    drop((api, cold, new));
    let (decided, new, waiting) = sort(&mut beside, &[renewal("job")], true, &[]);
    assert_eq!((decided, places(&new), waiting), (vec![0], vec![], vec![]));
    assert!(beside.running.is_empty() && beside.waiting.is_empty());
}

#[test]
fn operations_that_find_no_room_are_decided_together_later() {
    let mut beside = Beside::default();
    let jobs = |from: usize, to: usize| -> Vec<_> {
        (from..to).map(|n| hold(&format!("job-{n}"), &format!("user-{n}"), Origin::Api)).collect()
    };
    let (_, first, _) = sort(&mut beside, &jobs(0, 1), false, &[]);
    for n in 1..20 {
        let (_, groups, waiting) = sort(&mut beside, &jobs(n, n + 1), false, &[]);
        assert_eq!((groups.len(), waiting), (0, vec![0]));
    }
    drop(first);
    let (_, groups, waiting) = sort(&mut beside, &jobs(1, 20), true, &[]);
    assert_eq!(places(&groups), [(Way::Api, (0..19).collect())]);
    assert_eq!(waiting, [0; 0]);
}

#[test]
fn the_names_of_an_operation_are_free_before_its_group_is_decided() {
    let mut beside = Beside::default();
    let batch = [grant("g", "alice"), grant("h", "bob"), hold("job", "carol", Origin::Api)];
    let (_, groups, _) = sort(&mut beside, &batch, false, &[]);
    let [mut grants, mut api] = groups.try_into().unwrap();
    // The grant for bob is answered, and Redis has decided the hold.
    drop(grants.members.remove(1));
    drop(api.members[0].until_decided.take());
    let later = [balance("alice"), balance("bob"), balance("carol"), renewal("job")];
    let (decided, groups, waiting) = sort(&mut beside, &later, true, &[]);
    assert_eq!((decided, places(&groups), waiting), (vec![1, 2], vec![], vec![0, 3]));
}

#[test]
fn a_hold_that_can_only_be_refused_does_not_wait() {
    let mut beside = Beside::default();
    let first = [grant("g", "alice")];
    let (_, _running, _) = sort(&mut beside, &first, false, &[]);
    let batch =
        [balance("alice"), hold("call", "alice", Origin::Call), hold("job", "alice", Origin::Api)];
    let mut rest = Rest::default();
    // Should holds be allowed a moment later, these are refused nevertheless.
    let none = HoldsToAskFor { calls: false, api: false };
    let decided = beside.to_decide(&batch, 0..3, || none, &mut rest);
    assert_eq!(decided, Some((vec![1, 2], none)));
}

#[test]
fn operations_that_wait_join_again_only_where_one_of_them_may_be_decided() {
    let mut beside = Beside::default();
    let batch = [grant("g", "alice"), grant("h", "bob"), balance("alice")];
    let (_, groups, waiting) = sort(&mut beside, &batch, false, &[]);
    assert_eq!(waiting, [2]);
    let [mut grants] = <[Group; 1]>::try_from(groups).unwrap();
    assert!(!beside.lets_rejoin());
    drop(grants.members.remove(1));
    assert!(!beside.lets_rejoin(), "nobody waits for bob");
    let (decided, _, _) = sort(&mut beside, &[balance("bob")], false, &[]);
    assert_eq!(decided, [0]);
    drop(grants.members.remove(0));
    assert!(beside.lets_rejoin());
    let (decided, _, waiting) = sort(&mut beside, &[balance("alice")], true, &[]);
    assert_eq!((decided, waiting), (vec![0], vec![]));
}

#[test]
fn what_a_gateway_owes_is_decided_before_later_operations_that_name_the_same() {
    let mut beside = Beside::default();
    let guard = beside.start_owed(&[balance("alice")]);
    let batch = [balance("alice"), balance("bob")];
    let (decided, _, waiting) = sort(&mut beside, &batch, false, &[]);
    assert_eq!((decided, waiting), (vec![1], vec![0]));
    drop(guard);
    let (decided, _, waiting) = sort(&mut beside, &batch, true, &[]);
    assert_eq!((decided, waiting), (vec![0, 1], vec![]));
}
