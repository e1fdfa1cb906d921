//! Quotes a metered call from its body, both for calls and for `POST /check`.

use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::meter::{ReadRequest, Watched, read_request};
use crate::price::metered::{self, MeteredQuote, MeteredRefusal, Model, Tariff, is_model_name};
use crate::price::{CanonicalPath, Metering, PriceTable, Route, RoutePrice};
use crate::problem::{Problem, Text, texts};

/// The quote of a metered call.
#[derive(Clone, Debug)]
pub struct BodyQuote {
    /// The credits that may be held and charged.
    pub quote: MeteredQuote,
    /// The body with the facts that were read from it.
    pub read: ReadRequest,
    /// The model in the spelling of the request, with its entry in the table. `None` on a route
    /// with unit prices of its own.
    pub model: Option<(Arc<str>, Arc<Model>)>,
}

/// Reads a metered request's body and quotes it.
///
/// # Errors
/// 400 for a body that cannot be priced, 404 for a model without a price.
pub fn quote_body(
    prices: &PriceTable,
    route: &Route,
    metering: &Metering,
    watched: &Watched,
    path: &CanonicalPath,
    body: &[u8],
) -> Result<BodyQuote, Problem> {
    let read = read_request(&metering.meter, body, watched);
    let read = read.map_err(|mistake| Problem::bad_request(mistake.text()))?;
    let (tariff, model) = match &route.price {
        RoutePrice::Units(tariff, _) => (tariff.clone(), None),
        _ => {
            let asked = asked_model(route, path, read.facts.model.as_deref())?;
            let model = find(prices, &asked)?;
            (model.tariff.clone(), Some((asked, model)))
        }
    };
    let quote = quote(&tariff, &read, metering)?;
    Ok(BodyQuote { quote, read, model })
}

fn find(prices: &PriceTable, asked: &str) -> Result<Arc<Model>, Problem> {
    let model = prices.models().find(asked);
    model.cloned().ok_or_else(|| Problem::model_not_priced(Some(asked)))
}

fn quote(
    tariff: &Arc<Tariff>,
    read: &ReadRequest,
    metering: &Metering,
) -> Result<MeteredQuote, Problem> {
    metered::quote(tariff, &read.facts, metering.hold)
        .map_err(|refusal| Problem::bad_request(text_for_refusal(&refusal)))
}

/// The model that the request names in its body or its path.
fn asked_model(
    route: &Route,
    path: &CanonicalPath,
    in_body: Option<&str>,
) -> Result<Arc<str>, Problem> {
    let in_path = route.model_in(path);
    let asked = match (in_body, in_path.as_deref()) {
        (Some(body), Some(path)) if !body.eq_ignore_ascii_case(path) => {
            return Err(Problem::bad_request(texts::TWO_MODELS));
        }
        (Some(asked), _) | (None, Some(asked)) => asked,
        (None, None) => return Err(Problem::model_not_priced(None)),
    };
    if is_model_name(asked) {
        return Ok(asked.into());
    }
    Err(Problem::bad_request(texts::NO_MODEL_NAME))
}

fn text_for_refusal(refusal: &MeteredRefusal) -> Text {
    match refusal {
        MeteredRefusal::UnboundedInput { member } => texts::unbounded_input(member),
        MeteredRefusal::WrongType { member } => texts::wrong_type(member),
        MeteredRefusal::Misspelled { member } => texts::misspelled(member),
    }
}

/// Whether a query, with its `?`, has a parameter that some upstream may take for the model.
pub fn names_model(query: &str) -> bool {
    let query = query.strip_prefix('?').unwrap_or(query);
    query.split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        // PHP and Rack read `model[]` and `model[x]` as values of `model`. Parsers in C end a name at a NUL.
        let name: Vec<u8> = percent_decode_str(name).collect();
        let name = name.split(|byte| matches!(byte, b'[' | 0)).next().unwrap_or_default();
        let letters: Vec<u8> = name
            .iter()
            .filter(|byte| !matches!(**byte, b'_' | b'+' | b' ' | b'.' | b'-'))
            .map(u8::to_ascii_lowercase)
            .collect();
        letters == b"model"
    })
}

#[cfg(test)]
mod tests {
    use super::names_model;

    #[test]
    fn a_model_in_the_query_is_found_however_it_is_spelled() {
        for query in [
            "?model=x",
            "?a=1&MODEL=x",
            "?%6dodel=x",
            "?_model",
            "?model[]=x",
            "?a;model=x",
            "?mo_del=",
            "?model%00x=1",
        ] {
            assert!(names_model(query), "{query}");
        }
        for query in ["", "?", "?models=1", "?a=model", "?api-version=2026-01-01&supermodel=1"] {
            assert!(!names_model(query), "{query}");
        }
    }
}
