//! Sends a retry the answer of the first call.

use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::answer::Replay;
use crate::proxy::body::expects_continue;
use crate::proxy::call::{About, Figures};
use crate::proxy::client::Client;
use crate::proxy::gate::Gate;
use crate::proxy::headers::{self, Told};

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How much of an answer is written at a time, in bytes.
const PIECE: usize = 64 * 1024;

impl Gate {
    /// Sends the answer of the first call, with the same status, headers and body. Farebox's own
    /// headers tell what the first call cost, and how many credits the account has now.
    pub(in crate::proxy) async fn replay(
        &self,
        client: &mut Client,
        about: &About,
        figures: &mut Figures,
        replay: Replay,
    ) -> Result<()> {
        let Replay { answer, call, account, route } = replay;
        let balance = self.app.ledger.balance(&account).await;
        // The answer is sent even if the ledger cannot tell the balance.
        let remaining = balance.ok().map(|balance| balance.unwrap_or_default().available());
        let told = Told::Charged { cost: answer.cost, remaining };
        let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 6))?;
        for (name, value) in answer.headers {
            head.append_header(name, value)?;
        }
        headers::towards_client(&mut head, about, told)?;
        let has_body = !answer.body.is_empty();
        let is_bodiless = client.asks_for_head()
            || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !is_bodiless && !head.headers.contains_key(header::CONTENT_LENGTH) {
            head.insert_header(header::CONTENT_LENGTH, answer.body.len())?;
        }
        head.insert_header(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"))?;
        self.options.cors.mark(&mut head, about.origin.as_ref())?;
        tracing::info!(
            target: "farebox::usage",
            %account, route = &*route.label, request_id = about.id.as_str(),
            first_request_id = call.as_str(), "answer replayed"
        );
        self.app.metrics.replays.with_label_values(&[&*route.label]).inc();
        if let Some(retries) = &self.options.retries {
            retries.answers.count_replay(&call);
        }
        figures.status = Some(answer.status.as_u16());
        let waits = expects_continue(client.head());
        client.close_before_request_ends(waits);
        client.write_head(head, !has_body)?;
        if has_body {
            let mut pieces = answer.body.chunks(PIECE).peekable();
            while let Some(piece) = pieces.next() {
                client.write_body(piece, pieces.peek().is_none())?;
                client.flush().await?;
            }
        }
        Ok(())
    }
}
