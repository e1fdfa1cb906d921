//! The parameters that Stripe's API accepts. An unknown parameter is an error, and so is a wrong
//! value.
//!
//! `parameters.json` has them for the operations that Farebox may use. The notation is that of
//! Stripe's API reference: a name with `!` is required, `[x]` is a list of x, `a|b` is one of
//! these, `text:200` is a text of at most 200 characters. The rules accept no more than Stripe
//! does, and sometimes less: the `buying` tests compare them with the types of Stripe's own SDK.

use std::sync::LazyLock;

use serde_json::Value;

use super::reply::Reply;

static OPERATIONS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("parameters.json")).unwrap());

/// The events that Farebox may subscribe to. Stripe has more.
const EVENTS: [&str; 24] = [
    "*",
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.updated",
    "charge.failed",
    "charge.pending",
    "charge.refund.updated",
    "charge.refunded",
    "charge.succeeded",
    "charge.updated",
    "checkout.session.async_payment_failed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "customer.created",
    "customer.deleted",
    "payment_intent.payment_failed",
    "payment_intent.succeeded",
    "price.created",
    "refund.created",
    "refund.failed",
    "refund.updated",
];

/// Every operation with its parameters, for the tests of these rules.
pub fn operations() -> &'static Value {
    &OPERATIONS
}

/// Checks a request's parameters.
///
/// # Errors
/// Stripe's answer to the first mistake.
pub fn check(operation: &str, parameters: &Value) -> Result<(), Reply> {
    let rule = OPERATIONS.get(operation).unwrap_or_else(|| panic!("no rules for {operation}"));
    value("", rule, parameters)
}

fn value(name: &str, rule: &Value, given: &Value) -> Result<(), Reply> {
    match rule {
        Value::Object(members) => object(name, members, given),
        Value::Array(items) => {
            let Some(list) = given.as_array() else {
                return Err(Reply::invalid("Invalid array", name));
            };
            let check = |(n, item)| value(&format!("{name}[{n}]"), &items[0], item);
            list.iter().enumerate().try_for_each(check)
        }
        Value::String(kind) => leaf(name, kind, given),
        _ => panic!("a rule is an object, a list or a text: {rule}"),
    }
}

fn object(
    name: &str,
    members: &serde_json::Map<String, Value>,
    given: &Value,
) -> Result<(), Reply> {
    let Some(given) = given.as_object() else {
        return Err(Reply::invalid("Invalid object", name));
    };
    let path = |member: &str| {
        if name.is_empty() { member.to_owned() } else { format!("{name}[{member}]") }
    };
    for (member, inner) in given {
        let rule = members.get(member).or_else(|| members.get(&format!("{member}!")));
        let Some(rule) = rule else {
            let message = format!("Received unknown parameter: {}", path(member));
            return Err(Reply::invalid_as("parameter_unknown", &message, &path(member)));
        };
        value(&path(member), rule, inner)?;
    }
    for required in members.keys().filter_map(|member| member.strip_suffix('!')) {
        if !given.contains_key(required) {
            let message = format!("Missing required param: {}.", path(required));
            return Err(Reply::invalid_as("parameter_missing", &message, &path(required)));
        }
    }
    Ok(())
}

fn leaf(name: &str, kind: &str, given: &Value) -> Result<(), Reply> {
    match kind {
        "metadata" => return metadata(name, given),
        "range" if given.is_object() => {
            for (bound, moment) in given.as_object().into_iter().flatten() {
                if !["gt", "gte", "lt", "lte"].contains(&bound.as_str()) {
                    return Err(Reply::invalid("Received unknown parameter", name));
                }
                leaf(&format!("{name}[{bound}]"), "integer", moment)?;
            }
            return Ok(());
        }
        _ => {}
    }
    let Some(text) = given.as_str() else {
        return Err(Reply::invalid("Invalid value", name));
    };
    if text.is_empty() {
        let message = format!(
            "You passed an empty string for '{name}'. We assume empty values are an attempt to \
             unset a parameter; however '{name}' cannot be unset."
        );
        return Err(Reply::invalid_as("parameter_invalid_empty", &message, name));
    }
    let fits = match kind {
        "boolean" => ["true", "false"].contains(&text),
        "integer" | "range" => text.parse::<i64>().is_ok(),
        "limit" => text.parse::<u8>().is_ok_and(|limit| (1..=100).contains(&limit)),
        "event" => EVENTS.contains(&text),
        "version" => text.len() >= 10 && text.starts_with("20") && text.as_bytes()[4] == b'-',
        _ if kind.starts_with("text:") => {
            text.chars().count() <= kind["text:".len()..].parse().unwrap()
        }
        _ => kind.split('|').any(|one| one == text),
    };
    if fits { Ok(()) } else { Err(Reply::invalid(&format!("Invalid {kind}: {text}"), name)) }
}

/// Checks metadata: at most 50 pairs, names of up to 40 characters without brackets, values of up
/// to 500.
fn metadata(name: &str, given: &Value) -> Result<(), Reply> {
    let Some(pairs) = given.as_object() else {
        return Err(Reply::invalid("Invalid object", name));
    };
    let sound = |(key, value): (&String, &Value)| {
        let text = value.as_str();
        key.chars().count() <= 40 && text.is_some_and(|text| text.chars().count() <= 500)
    };
    if pairs.len() <= 50 && pairs.iter().all(sound) {
        Ok(())
    } else {
        let message = "Metadata has at most 50 names of 40 characters with values of 500";
        Err(Reply::invalid(message, name))
    }
}
