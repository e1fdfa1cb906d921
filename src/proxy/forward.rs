//! The last steps of a call: forward → meter → settle. A call comes here with its credits held.

use std::time::Instant;

use pingora_error::{BError, ErrorSource, Result};

use super::addresses::Attempts;
use super::body::{Buffered, Sent};
use super::call::{About, Admitted, Figures, Forwarded};
use super::client::Client;
use super::failure::Failed;
use super::gate::Gate;
use super::headers::{self, Onward};
use super::live::Outcome;
use super::relay::{Relay, Silences};
use super::{hop, settle};

impl Gate {
    /// Forwards the call and settles it.
    pub(super) async fn forward(
        &self,
        client: &mut Client,
        about: &About,
        figures: &mut Figures,
        call: &mut Admitted,
        body: &mut Buffered,
        sent: Sent,
    ) -> Result<()> {
        figures.forwarded = Some(Instant::now());
        let mut head = Box::new(client.take_head()?);
        let onward = Onward {
            has_body: !client.is_body_empty(),
            is_tls: client.is_tls(),
            is_websocket: call.route.rule.websocket
                && client.asks_for_upgrade()
                && hop::is_websocket(&head.headers),
            passes_key: call.repeatable.is_none(),
        };
        let mut written = headers::towards_upstream(&mut head, call, about, onward);
        if call.metered.is_some() {
            written = written.and_then(|()| headers::frame_metered(&mut head, body.bytes.len()));
        }
        let mut forwarded = Forwarded {
            route: call.route.clone(),
            method: head.method.clone(),
            hold: call.hold.take(),
            metered: call.metered.take(),
            repeatable: call.repeatable.take(),
            sent,
            status: None,
            is_whole: false,
        };
        let mut attempts = Attempts::default();
        let mut sent_to = None;
        let ended = async {
            written?;
            let destination = forwarded.destination()?;
            let mut connection =
                self.connector.connect(client, about, destination, &mut attempts).await?;
            sent_to = Some((connection.address, connection.was_kept));
            let upstream = &destination.upstream;
            let silences = Silences {
                upstream: call.route.rule.read_timeout.unwrap_or(upstream.read_timeout()),
                client: self.options.body_timeout,
            };
            let cors = &self.options.cors;
            let call = &mut forwarded;
            let mut relay = Relay { client, call, about, figures, cors, silences };
            let state = relay.send(&mut connection, head, body)?;
            if connection.has_lost() {
                // Nothing counts as sent while a new connection is opened.
                let sent = std::mem::take(&mut relay.call.sent);
                sent_to = None;
                let (client, to) = (&mut *relay.client, relay.call.destination()?);
                self.connector.save(&mut connection, client, about, to, &mut attempts).await?;
                sent_to = Some((connection.address, connection.was_kept));
                relay.call.sent = sent;
            }
            let is_whole = relay.run(&mut connection, state).await?;
            if is_whole && forwarded.sent.has_ended() {
                self.connector.give_back(connection, &forwarded.destination()?.upstream);
            }
            Ok(())
        }
        .await;
        let Err(error) = ended else {
            forwarded.count_attempt(None);
            return conclude(client, &mut forwarded).await;
        };
        let failed = Failed {
            about,
            upstream: &upstream_of(&forwarded),
            method: &forwarded.method.clone(),
            path: call.path.as_str(),
            sent_to,
            failed_connections: attempts.failures(),
        };
        Box::pin(self.fail(client, figures, &mut forwarded, error, &failed)).await
    }

    /// Ends a call that failed: settles its hold, logs the failure, and answers the client if that
    /// is still possible.
    async fn fail(
        &self,
        client: &mut Client,
        figures: &mut Figures,
        call: &mut Forwarded,
        error: BError,
        failed: &Failed<'_>,
    ) -> Result<()> {
        settle::settle(call, failed.about, Some(&error), client.has_stalled());
        let concluded = conclude(client, call).await;
        // Failed attempts to connect were counted when they failed.
        let outcome = match failed.sent_to {
            Some(_) => call.count_attempt(Some(&error)),
            None => Some(Outcome::Connect),
        };
        // A client that was sent only a 1xx such as 100 or 103 still waits for an answer.
        let answered = client.answered().is_some();
        let request_ended = call.sent.has_ended();
        let problem = if answered { None } else { settle::problem_of(&error, request_ended) };
        // Clients leave all the time, so an error on the client's side is not logged.
        if error.esource() != &ErrorSource::Downstream {
            let status = problem.as_ref().map_or(0, |problem| problem.status.as_u16());
            failed.log(&error, outcome, status);
        }
        concluded?;
        let Some(problem) = problem else { return Err(error) };
        client.close_afterwards();
        self.refuse(client, failed.about, figures, &problem)?;
        client.flush().await?;
        // The client may still be sending its body.
        client.drain().await;
        Ok(())
    }
}

/// Stores the answer of a call for later retries, charges the call, and sends the client the end of
/// the answer. Does nothing if no retry can get the answer.
async fn conclude(client: &mut Client, call: &mut Forwarded) -> Result<()> {
    match &mut call.repeatable {
        None => Ok(()),
        Some(repeatable) => Box::pin(repeatable.conclude(client)).await,
    }
}

/// The name of the upstream that the call went to.
fn upstream_of(call: &Forwarded) -> String {
    call.destination().map_or_else(|_| String::new(), |to| to.upstream.name().to_owned())
}
