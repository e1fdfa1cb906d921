//! Stops a gateway. Calls finish or are cut off, and every hold is settled.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gateway::start::Gateway;
use crate::ledger::Ledger;
use crate::proxy::CallsInFlight;

/// How long calls that were cut off have to end their holds.
const CUT_OFF: Duration = Duration::from_secs(1);

/// How long connections without a call have to send the rest of an answer.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The interval at which a stop counts the calls that are still in flight.
const COUNT_EVERY: Duration = Duration::from_millis(5);

impl Gateway {
    /// Stops the gateway. For `drain_delay` it still accepts calls, but reports that it is not
    /// ready. Then it lets the calls in flight finish within `shutdown_timeout`, and settles every
    /// hold. Returns false if a hold could not be settled.
    pub async fn stop(mut self) -> bool {
        self.readiness.set(false);
        tokio::time::sleep(self.drain_delay).await;
        // Sending fails only if there is no receiver. Then nothing is left to stop.
        let _ = self.signals.stop.send(true);
        if let Ok(open) = self.public.await {
            let (ledger, limit) = (&self.app.ledger, self.shutdown_timeout);
            finish_calls(open, &self.in_flight, limit, ledger, &self.signals.cut_off).await;
        }
        let settled = self.pipeline.stop().await;
        let _ = self.signals.close.send(true);
        // If the admin listener is serving a request, the request is answered first.
        let ended = async { while self.background.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_BYTES, ended).await;
        self.background.shutdown().await;
        settled
    }
}

/// Waits until no call is in flight, for at most `limit`. Calls that run longer are cut off, and
/// their holds end as `after_crash` says.
async fn finish_calls(
    mut open: JoinSet<()>,
    in_flight: &CallsInFlight,
    limit: Duration,
    ledger: &Ledger,
    cut_off: &watch::Sender<bool>,
) {
    let idle_by = async |deadline: Instant| {
        while in_flight.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(COUNT_EVERY).await;
        }
    };
    idle_by(Instant::now() + limit).await;
    let running = in_flight.count();
    if running > 0 {
        tracing::warn!(calls = running, "cut off the calls that ran longer than shutdown_timeout");
    } else {
        // The last bytes of some answers may not have been sent yet. Each connection closes once
        // its bytes are sent.
        let closed = async { while open.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_BYTES, closed).await;
    }
    ledger.cut_calls_off();
    let _ = cut_off.send(true);
    open.shutdown().await;
    idle_by(Instant::now() + CUT_OFF).await;
}
