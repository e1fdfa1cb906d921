//! The operations of Stripe's API that Farebox may use.

use serde_json::{Value, json};

use super::books::{Books, change, change_metadata};
use super::buyer;
use super::reply::Reply;
use super::rules;

/// The lists, and the kind of object in each.
const LISTS: [(&str, &str); 10] = [
    ("checkout/sessions", "checkout.session"),
    ("customers", "customer"),
    ("products", "product"),
    ("prices", "price"),
    ("webhook_endpoints", "webhook_endpoint"),
    ("payment_intents", "payment_intent"),
    ("charges", "charge"),
    ("refunds", "refund"),
    ("disputes", "dispute"),
    ("events", "event"),
];

/// Answers one authenticated request.
///
/// # Errors
/// Stripe's answer to a request that it refuses.
pub fn answer(
    books: &mut Books,
    method: &str,
    path: &str,
    parameters: &Value,
) -> Result<Reply, Reply> {
    let unknown = || {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        let mut reply = Reply::invalid(&message, "");
        reply.status = 404;
        reply
    };
    let rest = path.strip_prefix("/v1/").ok_or_else(unknown)?;
    let list = LISTS.iter().find(|(list, _)| {
        rest.strip_prefix(list).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let (list, kind) = list.ok_or_else(unknown)?;
    let mut rest = rest[list.len()..].split('/').skip(1);
    let (id, action) = (rest.next(), rest.next());
    let operation = match (id, action) {
        (None, _) => format!("{method} /v1/{list}"),
        (Some(_), None) => format!("{method} /v1/{list}/{{id}}"),
        (Some(_), Some(action)) => format!("{method} /v1/{list}/{{id}}/{action}"),
    };
    if rules::operations().get(&operation).is_none() {
        return Err(unknown());
    }
    rules::check(&operation, parameters)?;
    if let Some(id) = id {
        books.find(kind, id).ok_or_else(|| Reply::missing(404, kind, id, "id"))?;
    }
    let mut reply = match (operation.as_str(), id) {
        ("POST /v1/checkout/sessions", _) => make_session(books, parameters),
        ("POST /v1/checkout/sessions/{id}/expire", Some(id)) => expire(books, id),
        ("GET /v1/checkout/sessions/{id}/line_items", Some(id)) => {
            let items = books.line_items.get(id).into_iter().flatten();
            Books::page(path, items, parameters)
        }
        ("POST /v1/customers", _) => make_customer(books, parameters),
        ("POST /v1/products", _) => make_product(books, parameters),
        ("POST /v1/prices", _) => make_price(books, parameters),
        ("POST /v1/webhook_endpoints", _) => make_endpoint(books, parameters),
        ("POST /v1/refunds", _) => make_refund(books, parameters),
        (_, Some(id)) if method == "POST" => update(books, id, parameters),
        (_, Some(id)) => Ok(Reply::ok(books.get(id))),
        (_, None) => Books::page(path, books.all(kind), parameters),
    }?;
    books.expand(&mut reply.body, parameters)?;
    Ok(reply)
}

fn flag(parameters: &Value, name: &str) -> bool {
    parameters[name] == "true"
}

fn integer(value: &Value) -> Option<i64> {
    value.as_str().and_then(|text| text.parse().ok())
}

/// The members of `parameters` that an object gets unchanged.
fn taken(parameters: &Value, names: &[&str]) -> Value {
    let given = names.iter().filter_map(|name| {
        let value = match (*name, parameters.get(*name)?) {
            ("active", value) => json!(value == "true"),
            (_, value) => value.clone(),
        };
        Some(((*name).to_owned(), value))
    });
    Value::Object(given.collect())
}

fn make_session(books: &mut Books, parameters: &Value) -> Result<Reply, Reply> {
    let customer = parameters["customer"].as_str();
    check_customer(books, parameters, customer)?;
    let mut items = Vec::new();
    for (n, line) in parameters["line_items"].as_array().into_iter().flatten().enumerate() {
        items.push(order(books, n, line)?);
    }
    if items.is_empty() || parameters["mode"] != "payment" {
        let message = "`line_items` is required in `payment` mode, which alone is spoken here.";
        return Err(Reply::invalid(message, "line_items"));
    }
    for name in ["success_url", "cancel_url"] {
        let url = parameters[name].as_str().unwrap_or_default();
        let web = url.starts_with("https://") || url.starts_with("http://");
        if !web && (name == "success_url" || !url.is_empty()) {
            return Err(Reply::invalid_as("url_invalid", "Not a valid URL", name));
        }
    }
    let total: i64 = items.iter().map(|item| item["amount_total"].as_i64().unwrap()).sum();
    let always = parameters["customer_creation"] == "always";
    let session = books.make(
        "checkout.session",
        json!({
            "amount_subtotal": total,
            "amount_total": total,
            "automatic_tax": { "enabled": flag(&parameters["automatic_tax"], "enabled"),
                "liability": null, "status": null },
            "allow_promotion_codes": parameters.get("allow_promotion_codes").map(|on| on == "true"),
            "client_reference_id": parameters["client_reference_id"],
            "currency": items[0]["currency"],
            "currency_conversion": null,
            "customer": customer,
            "customer_creation": customer.is_none().then_some(if always { "always" } else { "if_required" }),
            "customer_details": null,
            "customer_email": parameters["customer_email"],
            "expires_at": integer(&parameters["expires_at"])
                .unwrap_or_else(|| super::books::now() + 24 * 3600),
            "invoice_creation": { "enabled": flag(&parameters["invoice_creation"], "enabled"),
                "invoice_data": {} },
            "locale": parameters["locale"],
            "metadata": parameters.get("metadata").cloned().unwrap_or(json!({})),
            // Since API version 2022-08-01 there is no intent until the buyer pays.
            "payment_intent": null,
            "shipping_address_collection": null,
            "shipping_cost": null,
            "success_url": parameters["success_url"],
            "cancel_url": parameters["cancel_url"],
            "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
            "ui_mode": "hosted",
        }),
    );
    let id = session["id"].as_str().unwrap().to_owned();
    let mut session = session;
    session["url"] = format!("https://checkout.stripe.com/c/pay/{id}#fid").into();
    books.put(session.clone());
    books.line_items.insert(id.clone(), items);
    let metadata = parameters["payment_intent_data"]["metadata"].clone();
    books.intent_metadata.insert(id, if metadata.is_null() { json!({}) } else { metadata });
    Ok(Reply::ok(session))
}

/// Checks a session's customer, with Stripe's errors.
fn check_customer(books: &Books, parameters: &Value, customer: Option<&str>) -> Result<(), Reply> {
    let Some(id) = customer else {
        if parameters.get("customer_update").is_some() {
            let message = "`customer_update` can only be used with `customer`.";
            return Err(Reply::invalid(message, "customer_update"));
        }
        return Ok(());
    };
    for other in ["customer_email", "customer_creation"] {
        if parameters.get(other).is_some() {
            let message =
                format!("You may only specify one of these parameters: customer, {other}.");
            return Err(Reply::invalid(&message, other));
        }
    }
    let customer = books.find("customer", id).filter(|customer| customer["deleted"] != true);
    customer.ok_or_else(|| Reply::missing(400, "customer", id, "customer"))?;
    let taxed = flag(&parameters["automatic_tax"], "enabled");
    let asks =
        ["address", "shipping"].iter().any(|name| parameters["customer_update"][name] == "auto");
    // The customers of this Stripe have no address.
    if taxed && !asks {
        let message = "Automatic tax calculation in Checkout requires a valid address on the \
                       Customer. Add a valid address to the Customer or set either \
                       `customer_update[address]` to 'auto' or `customer_update[shipping]` to \
                       'auto' to save the address entered in Checkout to the Customer.";
        return Err(Reply::invalid_as("customer_tax_location_invalid", message, "automatic_tax"));
    }
    Ok(())
}

/// Makes one line item of an order.
fn order(books: &Books, n: usize, line: &Value) -> Result<Value, Reply> {
    let name = |member: &str| format!("line_items[{n}][{member}]");
    let quantity = integer(&line["quantity"]).filter(|quantity| *quantity > 0);
    let Some(quantity) = quantity else {
        return Err(Reply::invalid("Quantity is required.", &name("quantity")));
    };
    let price = match (line.get("price").and_then(Value::as_str), line.get("price_data")) {
        (Some(id), None) => {
            let price = books.find("price", id);
            let price = price.ok_or_else(|| Reply::missing(400, "price", id, &name("price")))?;
            if price["active"] != true {
                let message = format!("The price specified is inactive: {id}.");
                return Err(Reply::invalid(&message, &name("price")));
            }
            price.clone()
        }
        (None, Some(data)) => {
            if data.get("product").is_some() == data.get("product_data").is_some() {
                let message = "Give one of `product` and `product_data`.";
                return Err(Reply::invalid(message, &name("price_data")));
            }
            let amount = integer(&data["unit_amount"]).filter(|amount| *amount >= 0);
            let amount = amount.ok_or_else(|| {
                Reply::invalid("Missing or invalid unit_amount", &name("price_data"))
            })?;
            json!({ "unit_amount": amount, "currency": data["currency"], "object": "price" })
        }
        _ => return Err(Reply::invalid("Give one of `price` and `price_data`.", "line_items")),
    };
    let amount = price["unit_amount"].as_i64().unwrap() * quantity;
    Ok(json!({
        "id": format!("li_{n}"), "object": "item", "amount_subtotal": amount, "amount_total": amount,
        "currency": price["currency"], "quantity": quantity, "price": price,
    }))
}

fn expire(books: &mut Books, id: &str) -> Result<Reply, Reply> {
    let session = books.get(id);
    if session["status"] != "open" {
        let message = "Only Checkout Sessions with a status in [\"open\"] can be expired.";
        return Err(Reply::invalid(message, "session"));
    }
    buyer::expire(books, id);
    Ok(Reply::ok(books.get(id)))
}

fn make_customer(books: &mut Books, parameters: &Value) -> Result<Reply, Reply> {
    let names = ["description", "email", "metadata", "name", "phone"];
    Ok(Reply::ok(books.make("customer", taken(parameters, &names))))
}

fn make_product(books: &mut Books, parameters: &Value) -> Result<Reply, Reply> {
    if let Some(id) = parameters["id"].as_str()
        && books.find("product", id).is_some()
    {
        let message = format!("Product already exists: {id}");
        return Err(Reply::invalid_as("resource_already_exists", &message, "id"));
    }
    let names = ["active", "description", "id", "metadata", "name", "tax_code", "url"];
    let mut product = taken(parameters, &names);
    let plain = json!({ "default_price": null, "description": null, "package_dimensions": null });
    for (name, value) in plain.as_object().unwrap() {
        product.as_object_mut().unwrap().entry(name).or_insert(value.clone());
    }
    Ok(Reply::ok(books.make("product", product)))
}

fn make_price(books: &mut Books, parameters: &Value) -> Result<Reply, Reply> {
    let amount = integer(&parameters["unit_amount"]).filter(|amount| *amount >= 0);
    let Some(amount) = amount else {
        return Err(Reply::invalid("Missing or invalid unit_amount", "unit_amount"));
    };
    let product = match (parameters["product"].as_str(), parameters.get("product_data")) {
        (Some(id), None) => {
            let found = books.find("product", id);
            found.ok_or_else(|| Reply::missing(400, "product", id, "product"))?;
            id.to_owned()
        }
        (None, Some(data)) => {
            let product = make_product(books, data)?.body;
            product["id"].as_str().unwrap().to_owned()
        }
        _ => return Err(Reply::invalid("Give one of `product` and `product_data`.", "product")),
    };
    claim_lookup_key(books, parameters, None)?;
    let names = ["active", "currency", "lookup_key", "metadata", "nickname", "tax_behavior"];
    let mut price = taken(parameters, &names);
    change(
        &mut price,
        json!({
            "custom_unit_amount": null, "product": product, "recurring": null,
            "transform_quantity": null, "type": "one_time",
            "unit_amount": amount, "unit_amount_decimal": amount.to_string(),
        }),
    );
    Ok(Reply::ok(books.make("price", price)))
}

/// Takes a lookup key for a price. If another price has it, the key moves only if the request asks
/// for that.
fn claim_lookup_key(books: &mut Books, parameters: &Value, by: Option<&str>) -> Result<(), Reply> {
    let Some(key) = parameters["lookup_key"].as_str() else { return Ok(()) };
    let owner = books.all("price").find(|price| price["lookup_key"] == key).cloned();
    let Some(mut owner) = owner.filter(|owner| owner["id"].as_str() != by) else { return Ok(()) };
    if !flag(parameters, "transfer_lookup_key") {
        let id = owner["id"].as_str().unwrap();
        let message = format!("A price (`{id}`) already uses that lookup key.");
        return Err(Reply::invalid(&message, "lookup_key"));
    }
    owner["lookup_key"] = Value::Null;
    books.put(owner);
    Ok(())
}

fn make_endpoint(books: &mut Books, parameters: &Value) -> Result<Reply, Reply> {
    check_public(parameters)?;
    let names = ["api_version", "description", "enabled_events", "metadata", "url"];
    let mut endpoint = books.make("webhook_endpoint", taken(parameters, &names));
    // The secret is only in this answer, and never in a later one.
    let secret = format!("whsec_{}", uuid::Uuid::new_v4().simple());
    change(&mut endpoint, json!({ "secret": secret }));
    Ok(Reply::ok(endpoint))
}

/// Refuses an address that is not public, since Stripe could not reach it.
fn check_public(parameters: &Value) -> Result<(), Reply> {
    let Some(url) = parameters["url"].as_str() else { return Ok(()) };
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or("localhost");
    if ["localhost", "127.0.0.1", "[::1]"].contains(&host) {
        let message = "Invalid URL: URL must be publicly accessible.";
        return Err(Reply::invalid_as("url_invalid", message, "url"));
    }
    Ok(())
}

fn make_refund(books: &mut Books, parameters: &Value) -> Result<Reply, Reply> {
    let charge = books.all("charge").find(|charge| {
        charge["id"] == parameters["charge"]
            || charge["payment_intent"] == parameters["payment_intent"]
    });
    let Some(charge) = charge.cloned() else {
        return Err(Reply::missing(400, "payment_intent", "", "payment_intent"));
    };
    let left = charge["amount"].as_i64().unwrap() - charge["amount_refunded"].as_i64().unwrap();
    let amount = integer(&parameters["amount"]).unwrap_or(left);
    if amount > left {
        let message =
            format!("Refund amount ({amount}) is greater than unrefunded amount ({left})");
        return Err(Reply::invalid(&message, "amount"));
    }
    let refund = buyer::refund_charge(books, charge, amount).0;
    Ok(Reply::ok(refund))
}

fn update(books: &mut Books, id: &str, parameters: &Value) -> Result<Reply, Reply> {
    check_public(parameters)?;
    claim_lookup_key(books, parameters, Some(id))?;
    let mut object = books.get(id);
    let names: Vec<&str> = parameters.as_object().unwrap().keys().map(String::as_str).collect();
    let plain =
        |name: &&str| !["metadata", "expand", "transfer_lookup_key", "disabled"].contains(name);
    let names: Vec<&str> = names.into_iter().filter(plain).collect();
    change(&mut object, taken(parameters, &names));
    change_metadata(&mut object, &parameters["metadata"]);
    if let Some(disabled) = parameters["disabled"].as_str() {
        object["status"] = if disabled == "true" { "disabled" } else { "enabled" }.into();
    }
    books.put(object.clone());
    Ok(Reply::ok(object))
}
