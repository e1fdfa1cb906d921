//! The objects of one Stripe account, made from Stripe's own example objects.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::reply::Reply;

/// Stripe's example objects of the kinds that the tests need (github.com/stripe/openapi,
/// fixtures3.json, MIT licence).
static EXAMPLES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("objects.json")).unwrap());

#[derive(Debug, Default)]
pub struct Books {
    objects: HashMap<String, Value>,
    /// The ids of the objects, oldest first.
    order: Vec<String>,
    /// The line items of each session.
    pub line_items: HashMap<String, Vec<Value>>,
    /// The metadata for the payment intent that a session will create.
    pub intent_metadata: HashMap<String, Value>,
}

/// The present time, in seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Overwrites the members of `object` that `changes` names.
pub fn change(object: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else { panic!("no object: {changes}") };
    object.as_object_mut().unwrap().extend(changes);
}

/// Stripe's example of this kind of object.
pub fn example(kind: &str) -> Value {
    EXAMPLES.get(kind).unwrap_or_else(|| panic!("no example of {kind}")).clone()
}

/// Changes an object's metadata. As with Stripe, an empty value removes a name.
pub fn change_metadata(object: &mut Value, changes: &Value) {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for (name, value) in changes.as_object().into_iter().flatten() {
        if value == "" {
            metadata.remove(name);
        } else {
            metadata.insert(name.clone(), value.clone());
        }
    }
}

impl Books {
    /// Makes a new object: Stripe's example of its kind, with a new id and these changes.
    pub fn make(&mut self, kind: &str, changes: Value) -> Value {
        let mut object = example(kind);
        let given = changes.get("id").cloned();
        change(&mut object, json!({ "created": now(), "livemode": false, "metadata": {} }));
        change(&mut object, changes);
        let prefix = match kind {
            "checkout.session" => "cs_test",
            "customer" => "cus",
            "product" => "prod",
            "price" => "price",
            "webhook_endpoint" => "we",
            "payment_intent" => "pi",
            "charge" => "ch",
            "refund" => "re",
            "dispute" => "dp",
            "event" => "evt",
            "balance_transaction" => "txn",
            _ => panic!("no prefix for {kind}"),
        };
        let id = format!("{prefix}_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]);
        object["id"] = given.unwrap_or(id.into());
        self.put(object.clone());
        object
    }

    /// Stores an object, new or changed.
    pub fn put(&mut self, object: Value) {
        let id = object["id"].as_str().unwrap().to_owned();
        if self.objects.insert(id.clone(), object).is_none() {
            self.order.push(id);
        }
    }

    /// An object by its id.
    pub fn find(&self, kind: &str, id: &str) -> Option<&Value> {
        self.objects.get(id).filter(|object| object["object"] == kind)
    }

    /// An object by its id. It must exist.
    #[track_caller]
    pub fn get(&self, id: &str) -> Value {
        self.objects.get(id).unwrap_or_else(|| panic!("no {id}")).clone()
    }

    /// All objects of a kind, newest first.
    pub fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let objects = self.order.iter().rev().map(|id| &self.objects[id]);
        objects.filter(move |object| object["object"] == kind)
    }

    /// All objects of a kind whose `member` has this value, newest first.
    pub fn having(&self, kind: &str, member: &str, value: &Value) -> Vec<Value> {
        self.all(kind).filter(|object| object[member] == *value).cloned().collect()
    }

    /// One page of these objects, which must be newest first, as in Stripe's lists.
    ///
    /// # Errors
    /// A cursor that is not an object's id.
    pub fn page<'a>(
        url: &str,
        all: impl Iterator<Item = &'a Value>,
        parameters: &Value,
    ) -> Result<Reply, Reply> {
        let limit = parameters["limit"].as_str().map_or(10, |limit| limit.parse().unwrap());
        let mut found: Vec<&Value> = all.filter(|object| wanted(object, parameters)).collect();
        let position = |name: &str, found: &[&Value]| {
            let Some(id) = parameters[name].as_str() else { return Ok(None) };
            let at = found.iter().position(|object| object["id"] == id);
            at.map(Some).ok_or_else(|| Reply::missing(400, "object", id, name))
        };
        if let Some(at) = position("starting_after", &found)? {
            found.drain(..=at);
        }
        if let Some(at) = position("ending_before", &found)? {
            found.truncate(at);
            found.drain(..at.saturating_sub(limit));
        }
        let has_more = found.len() > limit;
        found.truncate(limit);
        Ok(Reply::ok(json!({
            "object": "list", "data": found, "has_more": has_more, "url": url,
        })))
    }

    /// Replaces ids by whole objects where `expand[]` asks for that.
    ///
    /// # Errors
    /// A member that cannot be expanded.
    pub fn expand(&self, body: &mut Value, parameters: &Value) -> Result<(), Reply> {
        for path in parameters["expand"].as_array().into_iter().flatten() {
            let path = path.as_str().unwrap();
            let names: Vec<&str> = path.split('.').collect();
            if names.len() > 4 || !self.expand_one(body, &names) {
                let message = format!("This property cannot be expanded ({path}).");
                return Err(Reply::invalid(&message, "expand"));
            }
        }
        Ok(())
    }

    fn expand_one(&self, object: &mut Value, path: &[&str]) -> bool {
        let Some((name, rest)) = path.split_first() else { return true };
        if *name == "data" && object["object"] == "list" {
            let list = object["data"].as_array_mut().unwrap();
            return list.iter_mut().all(|item| self.expand_one(item, rest));
        }
        let id = object["id"].as_str().unwrap_or_default().to_owned();
        if *name == "line_items" && object["object"] == "checkout.session" {
            let items = self.line_items.get(&id).cloned().unwrap_or_default();
            object["line_items"] = json!({ "object": "list", "data": items, "has_more": false,
                "url": format!("/v1/checkout/sessions/{id}/line_items") });
        }
        let Some(member) = object.get_mut(*name) else { return false };
        if let Some(inner) = member.as_str().and_then(|id| self.objects.get(id)) {
            *member = inner.clone();
        }
        member.is_null() || (member.is_object() && self.expand_one(member, rest))
    }
}

/// Whether an object passes the filters of a list.
fn wanted(object: &Value, parameters: &Value) -> bool {
    let none = Map::new();
    let filters = parameters.as_object().unwrap_or(&none);
    filters.iter().all(|(name, value)| match name.as_str() {
        "limit" | "starting_after" | "ending_before" | "expand" => true,
        "created" => in_range(object["created"].as_i64().unwrap(), value),
        "lookup_keys" => list_has(value, &object["lookup_key"]),
        "ids" => list_has(value, &object["id"]),
        "types" => list_has(value, &object["type"]),
        _ => match &object[name] {
            Value::String(member) => *value == Value::String(member.clone()),
            member => value.as_str() == Some(&member.to_string()),
        },
    })
}

fn list_has(list: &Value, value: &Value) -> bool {
    list.as_array().unwrap().contains(value)
}

fn in_range(created: i64, range: &Value) -> bool {
    let Some(bounds) = range.as_object() else {
        return range.as_str() == Some(&created.to_string());
    };
    bounds.iter().all(|(bound, moment)| {
        let moment: i64 = moment.as_str().unwrap().parse().unwrap();
        match bound.as_str() {
            "gt" => created > moment,
            "gte" => created >= moment,
            "lt" => created < moment,
            _ => created <= moment,
        }
    })
}
