//! The last steps of a call at a fixed price whose answer a retry may get.

use pingora_error::Result;

use super::call::Repeatable;
use super::claim::{Asked, patience};
use crate::ledger::CallId;
use crate::problem::Problem;
use crate::proxy::body;
use crate::proxy::call::{About, Admitted, Figures};
use crate::proxy::client::Client;
use crate::proxy::gate::{Called, Gate};
use crate::proxy::metered;
use crate::proxy::refused::Refused;
use crate::proxy::target::Target;

impl Gate {
    /// Reads a small body, holds the credits, and forwards the call. The body is read before the
    /// hold, so that its hash is known by then: an SDK's retry without a key can be recognised only
    /// by the hash.
    pub(in crate::proxy) async fn pass_repeatable(
        &self,
        client: &mut Client,
        unheld: CallId,
        about: &About,
        figures: &mut Figures,
        called: Called,
        mut repeatable: Box<Repeatable>,
    ) -> Result<()> {
        let Called { account, route, credits, target, .. } = called;
        let limit = match metered::limit(&client.head().headers) {
            Ok(limit) => limit,
            Err(problem) => return self.refuse(client, about, figures, &problem),
        };
        let silence = self.options.body_timeout;
        let held = async {
            let memory = &self.memory;
            let read = if repeatable.is_known_by_its_request() {
                body::read_retry(client, memory, &account, silence).await
            } else {
                body::read_small(client, memory, &account, silence).await
            };
            let (body, sent) = read.map_err(Refused::from)?;
            repeatable.hash(&body.bytes);
            if body.is_whole {
                repeatable.request_ended(None);
            }
            let patience = patience(&route, None);
            let (app, account, route) = (&*self.app, &account, &route);
            let asked = Asked { app, unheld, account, route, credits, patience, silence };
            if let Some(limit) = limit.filter(|limit| credits > *limit) {
                let over = Problem::price_over_limit(credits, limit);
                return Err(Box::pin(asked.answer_or(client, &mut repeatable, over)).await);
            }
            let hold = asked.decide(client, &mut repeatable).await?;
            Ok((hold, body, sent))
        };
        let (hold, mut body, sent) = match held.await {
            Ok(held) => held,
            Err(refused) => return self.turn_away(client, about, figures, refused).await,
        };
        let Target { path, query, nominated } = target;
        let (hold, repeatable) = (Some(hold), Some(repeatable));
        let mut call =
            Admitted { account, route, hold, metered: None, repeatable, path, query, nominated };
        self.forward(client, about, figures, &mut call, &mut body, sent).await
    }
}
