//! How long the ledger remembers what it may forget.

use std::time::Duration;

/// How long a call that was cut off stays in the list of such calls.
pub(crate) const CRASHED_CALLS: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long the ending of a call's hold is remembered. The endings of the API's holds are remembered forever.
pub(crate) const ENDED_CALLS: Duration = Duration::from_secs(48 * 3600);
