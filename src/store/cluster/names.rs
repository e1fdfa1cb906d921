//! The things that operations name. Two operations that name the same thing are decided in the order in which they were
//! requested.

use crate::account::AccountId;
use crate::ledger::claim::ClaimId;
use crate::ledger::imports::ImportRow;
use crate::ledger::operation::{HoldId, Operation, OperationId};
use crate::store::cluster::redis::request::BatchItem;

/// A thing that an operation names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Account(AccountId),
    Hold(HoldId),
    Claim(ClaimId),
    /// The id under which a posting takes effect once.
    Posting(OperationId),
}

/// The names of everything that the operation reads or changes, as far as its order matters.
pub(crate) fn names(operation: &Operation) -> Vec<Name> {
    let item = BatchItem::Operation(operation);
    let mut names: Vec<_> = item.account().cloned().map(Name::Account).into_iter().collect();
    names.extend(item.hold().cloned().map(Name::Hold));
    names.extend(item.claim().map(Name::Claim));
    match operation {
        Operation::Open { account, .. }
        | Operation::RecordCustomer { account, .. }
        | Operation::Thaw { account } => names.push(Name::Account(account.clone())),
        Operation::Post(posting) => {
            names.push(Name::Account(posting.account.clone()));
            names.push(Name::Posting(posting.id.clone()));
        }
        Operation::PutKeys(new) => {
            names.extend(new.iter().map(|key| Name::Account(key.account.clone())));
        }
        Operation::Import(import) => {
            for row in &import.rows {
                match row {
                    ImportRow::Grant { posting, .. } => {
                        names.push(Name::Account(posting.account.clone()));
                        names.push(Name::Posting(posting.id.clone()));
                    }
                    ImportRow::Key(key) => names.push(Name::Account(key.account.clone())),
                }
            }
        }
        Operation::TakeFacts(take) => {
            names.extend(take.facts.sale.iter().map(|sale| Name::Account(sale.account.clone())));
        }
        Operation::Refund { hold, .. } | Operation::RefundPart { hold, .. } => {
            names.push(Name::Hold(hold.clone()));
        }
        // `item` has told all names of these.
        Operation::Hold(_)
        | Operation::Extend { .. }
        | Operation::Renew { .. }
        | Operation::Capture { .. }
        | Operation::Release { .. }
        | Operation::Abandon { .. }
        | Operation::MarkClaim { .. }
        | Operation::Leave { .. }
        | Operation::Balance { .. } => {}
        // The order of these does not matter.
        Operation::RevokeKey { .. }
        | Operation::RecordEvent(_)
        | Operation::EndEvent { .. }
        | Operation::Fold { .. }
        | Operation::Audit => {}
    }
    names
}
