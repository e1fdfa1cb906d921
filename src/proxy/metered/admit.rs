//! A metered call up to its hold: its body is read, quoted and rewritten, and its credits are held.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use http::header::EXPECT;

use super::call::{Metered, Terms};
use super::charge::Rules;
use super::counters::MeteredRoute;
use super::head;
use crate::account::AccountId;
use crate::app::{App, BodyQuote, quote_body};
use crate::credits::Credits;
use crate::ledger::{CallId, Hold};
use crate::meter::{Changes, UsageChunk};
use crate::price::metered::OnShort;
use crate::price::{CanonicalPath, Metering};
use crate::problem::Problem;
use crate::proxy::body::{self, Buffered, Room, Sent};
use crate::proxy::body_memory::BodyMemory;
use crate::proxy::call::Admitted;
use crate::proxy::client::Client;
use crate::proxy::live::{Destination, Live, PricedRoute};
use crate::proxy::refused::Refused;
use crate::proxy::retries::{Asked, Repeatable, patience};
use crate::proxy::target::Target;

/// A metered call whose account and route are known, and whose body is not read yet.
pub(in crate::proxy) struct Admission<'a> {
    pub app: &'a App,
    /// The config as it was when the call began.
    pub live: Arc<Live>,
    pub route: Arc<PricedRoute>,
    pub account: AccountId,
    pub target: Target,
    /// The state for retries; `None` if this call is no retry, and no retry can get its answer.
    pub repeatable: Option<Box<Repeatable>>,
    pub memory: &'a Arc<BodyMemory>,
    /// The longest time that the client may send nothing in the body.
    pub silence: Duration,
}

/// Reads the body, quotes the call, and holds its credits. A call that is refused here never
/// reaches an upstream.
///
/// # Errors
/// A [`Refused`] says why the call is not forwarded. Nothing is held then.
pub(in crate::proxy) async fn admit(
    client: &mut Client,
    unheld: CallId,
    mut admission: Admission<'_>,
) -> Result<(Admitted, Buffered, Sent), Refused> {
    let route = admission.route.clone();
    let (Some(metering), Some(shared)) = (route.rule.metering(), &route.metered) else {
        return Err(Problem::no_price_rule().into());
    };
    let limit = head::limit(&client.head().headers);
    let body = admission.read_body(client, shared).await?;
    if let Some(repeatable) = &mut admission.repeatable {
        repeatable.hash(&body.bytes);
        repeatable.request_ended(None);
    }
    let quoted = admission.quote(metering, shared, &body.bytes).and_then(|quoted| {
        check_limit(&quoted, limit?)?;
        Ok(quoted)
    });
    let mut quoted = match quoted {
        Ok(quoted) => quoted,
        Err(problem) => return Err(Box::pin(admission.refuse(client, unheld, problem)).await),
    };
    let wants_report = head::wants_report(&client.head().headers);
    let mut output_limit = None;
    if metering.on_short == OnShort::Shorten && !quoted.quote.most.is_zero() {
        output_limit = admission.shorten(&mut quoted).await?;
    }
    let hold = admission.hold(client, unheld, &quoted).await?;
    admission.finish(body, quoted, hold, metering, output_limit, wants_report)
}

/// Refuses a call that may cost more than the client's limit.
fn check_limit(quoted: &BodyQuote, limit: Option<Credits>) -> Result<(), Problem> {
    let most = quoted.quote.most;
    match limit {
        Some(limit) if most > limit => Err(Problem::price_over_limit(most, limit)),
        _ => Ok(()),
    }
}

impl Admission<'_> {
    fn may_be_answered(&self) -> bool {
        self.repeatable.as_ref().is_some_and(|repeatable| repeatable.may_be_answered())
    }

    /// Refuses a call whose body was read, for the reason `problem`. A retry gets the first call's
    /// answer instead, whatever the prices and its own limit are by now. If the account can make no
    /// call at all, the call is refused for that reason.
    async fn refuse(mut self, client: &mut Client, unheld: CallId, problem: Problem) -> Refused {
        let repeatable = self.repeatable.take_if(|repeatable| repeatable.may_be_answered());
        if let Some(mut repeatable) = repeatable {
            let asked = self.asked(unheld, Credits::MAX, None);
            return asked.answer_or(client, &mut repeatable, problem).await;
        }
        let shared = self.route.metered.as_ref();
        let standing = match shared {
            Some(shared) => self.check_standing(shared).await,
            None => Ok(()),
        };
        standing.err().unwrap_or(problem).into()
    }

    /// Refuses an account that can make no call of this route, because it is frozen or without
    /// credits. A call that may have been paid for before needs no credits.
    async fn check_standing(&self, shared: &MeteredRoute) -> Result<(), Problem> {
        if shared.has_free {
            return Ok(());
        }
        let balance = self.app.ledger.balance(&self.account).await;
        let balance = balance.map_err(|_| Problem::ledger_unavailable())?.unwrap_or_default();
        if balance.frozen {
            return Err(Problem::account_frozen());
        }
        let available = balance.available();
        if available.spendable().is_zero() && !self.may_be_answered() {
            return Err(self.app.without_credits(available));
        }
        Ok(())
    }

    /// Reads the body whole.
    async fn read_body(
        &self,
        client: &mut Client,
        shared: &MeteredRoute,
    ) -> Result<Buffered, Refused> {
        let declared = body::declared_length(client);
        let is_too_long = declared.is_some_and(|length| length > shared.max_body as u64);
        let too_long = || Problem::body_too_large(shared.max_body);
        let checked = if is_too_long {
            Err(too_long())
        } else {
            head::check(&client.head().headers, &self.target.query).and_then(|()| self.check_path())
        };
        if let Err(problem) = checked {
            self.check_standing(shared).await?;
            return Err(problem.into());
        }
        if body::expects_continue(client.head()) {
            client.head_mut().remove_header(&EXPECT);
            // HTTP/1.0 knows no 1xx (RFC 9110, 10.1.1).
            if client.head().version >= Version::HTTP_11 && !client.is_body_done() {
                self.check_standing(shared).await?;
                client.write_continue().map_err(Refused::Left)?;
            }
        }
        let room = Room {
            // One byte more shows that a body is too long.
            most: shared.max_body.saturating_add(1),
            expected: usize::try_from(declared.unwrap_or_default()).unwrap_or_default(),
            silence: self.silence,
            memory: self.memory,
            account: &self.account,
        };
        let read = {
            let mut reading = pin!(body::read_ahead(client, room));
            tokio::select! {
                // If the whole body came with the head, the account's standing is not looked up
                // here: the hold will refuse an account without credits.
                biased;
                read = &mut reading => read,
                standing = self.check_standing(shared) => {
                    standing?;
                    reading.await
                }
            }
        };
        match read {
            Ok(body) if body.is_whole && body.bytes.len() <= shared.max_body => Ok(body),
            Ok(_) => {
                self.check_standing(shared).await?;
                Err(too_long().into())
            }
            Err(unread) => Err(unread.into()),
        }
    }

    /// Refuses a path that names a model without a price. The body is not needed for that.
    fn check_path(&self) -> Result<(), Problem> {
        match self.route.rule.model_in(&self.target.path) {
            // Only the body shows whether the call is a retry.
            Some(_) if self.may_be_answered() => Ok(()),
            Some(model) if self.live.catalogue.prices.models().find(&model).is_none() => {
                Err(Problem::model_not_priced(Some(&model)))
            }
            _ => Ok(()),
        }
    }

    fn quote(
        &self,
        metering: &Metering,
        shared: &MeteredRoute,
        body: &[u8],
    ) -> Result<BodyQuote, Problem> {
        let prices = &self.live.catalogue.prices;
        quote_body(prices, &self.route.rule, metering, &shared.watched, &self.target.path, body)
    }

    /// Lowers the output limit of a request to an amount that the account can pay. Returns the new
    /// limit; `None` if it stays as it was.
    async fn shorten(&self, quoted: &mut BodyQuote) -> Result<Option<u32>, Problem> {
        if !quoted.read.can_limit_output() {
            return Ok(None);
        }
        let balance = self.app.ledger.balance(&self.account).await;
        let balance = balance.map_err(|_| Problem::ledger_unavailable())?.unwrap_or_default();
        let available = balance.available().spendable();
        if quoted.quote.most <= available {
            return Ok(None);
        }
        let limit = quoted.quote.affordable_limit(available);
        if let Some(limit) = limit {
            quoted.quote = quoted.quote.shortened(limit);
        }
        Ok(limit)
    }

    async fn hold(
        &mut self,
        client: &mut Client,
        unheld: CallId,
        quoted: &BodyQuote,
    ) -> Result<Option<Hold>, Refused> {
        let credits = quoted.quote.hold;
        if credits.is_zero() {
            self.repeatable = None;
            return Ok(None);
        }
        let Some(mut repeatable) = self.repeatable.take() else {
            let (account, label) = (self.account.clone(), self.route.label.clone());
            let held = self.app.ledger.hold(unheld, account, credits, label).await;
            return Ok(Some(held.map_err(|refusal| self.app.refuse_call(refusal, credits))?));
        };
        let model = quoted.model.as_ref().map(|(_, model)| model.index);
        let of_model = model.and_then(|index| self.live.destination_of_model(index));
        let asked = self.asked(unheld, credits, of_model.map(|to| &**to));
        let hold = Box::pin(asked.decide(client, &mut repeatable)).await?;
        self.repeatable = Some(repeatable);
        Ok(Some(hold))
    }

    /// The request to the ledger for a hold and its claim. `of_model` is the upstream of the model.
    fn asked(&self, unheld: CallId, credits: Credits, of_model: Option<&Destination>) -> Asked<'_> {
        let (app, account, route, silence) = (self.app, &self.account, &self.route, self.silence);
        let patience = patience(route, of_model);
        Asked { app, unheld, account, route, credits, patience, silence }
    }

    /// Rewrites the body and the path for the upstream, and builds the admitted call.
    fn finish(
        self,
        mut body: Buffered,
        quoted: BodyQuote,
        hold: Option<Hold>,
        metering: &Metering,
        output_limit: Option<u32>,
        wants_report: bool,
    ) -> Result<(Admitted, Buffered, Sent), Refused> {
        let Self { live, route, account, target, repeatable, memory, .. } = self;
        let Target { mut path, query, nominated } = target;
        let BodyQuote { quote, read, model } = quoted;
        let renamed = model.as_ref().and_then(|(asked, model)| model.renamed(asked));
        let hides_usage_chunk = read.usage_chunk == UsageChunk::NotAsked;
        let changes =
            Changes { model: renamed.as_deref(), include_usage: hides_usage_chunk, output_limit };
        if let Some(rewritten) = read.rewrite(&body.bytes, &changes)
            && !body.replace(rewritten, memory, &account)
        {
            return Err(Refused::Last(Problem::overloaded()));
        }
        if let Some(renamed) = &renamed
            && route.rule.pattern.has_model()
        {
            path = rename(&route, &path, renamed)?;
        }
        let sent = Sent::nothing_of_whole(body.bytes.len());
        let label = model.as_ref().map(|(_, model)| model.label.clone());
        let destination = model.as_ref().and_then(|(_, m)| live.destination_of_model(m.index));
        let terms = Terms {
            quote,
            meter: metering.meter.clone(),
            rules: Rules {
                on_missing_usage: metering.on_missing_usage,
                on_overrun: metering.on_overrun,
                max_overrun: metering.max_overrun,
            },
            on_client_abort: route.rule.on_client_abort,
            label: label.unwrap_or_else(|| crate::metrics::NO_MODEL.into()),
            destination: destination.cloned(),
            prices: live.catalogue.version.as_str().clone(),
            has_hidden_output: model.as_ref().is_some_and(|(_, model)| model.hidden_output),
            asks_for_stream: read.facts.is_stream,
            hides_usage_chunk,
            wants_report,
            account: account.clone(),
            memory: memory.clone(),
            model: model.map(|(asked, _)| asked),
        };
        let metered = Some(Box::new(Metered::new(terms)));
        let call = Admitted { account, route, hold, metered, repeatable, path, query, nominated };
        Ok((call, body, sent))
    }
}

fn rename(
    route: &PricedRoute,
    path: &CanonicalPath,
    renamed: &str,
) -> Result<CanonicalPath, Problem> {
    route.rule.with_model(path, renamed).ok_or_else(|| Problem::model_not_priced(Some(renamed)))
}
