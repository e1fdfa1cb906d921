//! The way of a call at a fixed price whose retry may be answered.

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
    /// The rest of the way of a call at a fixed price. A small body is read before the hold, so that its hash is
    /// known there; an SDK's retry has nothing else by which its call is found.
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
            let hold = asked.decide(client, &mut repeatable).await?;
            match limit {
                // The first call may have been charged before the limit was lowered, so its answer comes first.
                Some(limit) if credits > limit => {
                    Err(Problem::price_over_limit(credits, limit).into())
                }
                _ => Ok((hold, body, sent)),
            }
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
