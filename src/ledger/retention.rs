//! How long the ledger remembers calls that have ended.

use std::time::Duration;

/// How long a call that was cut off stays in the list of such calls.
pub(crate) const CRASHED_CALLS: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long the ledger remembers how a call's hold ended. It remembers the ends of the API's holds
/// forever.
pub(crate) const ENDED_CALLS: Duration = Duration::from_secs(48 * 3600);
