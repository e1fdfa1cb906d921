//! serde's errors in the words of the file. They are known by their wording, which serde
//! promises to nobody, so a text that is not recognised is passed on as it is; and none that
//! serde writes about a value repeats it here.

use toml::de::DeValue;

use super::suggest;

/// The hint for an unknown key in a table whose keys serde does not list.
pub(crate) const NO_SUCH_KEY: &str = "correct its name, or remove it";

/// Where a mistake is, what it is and what to do about it.
pub(crate) struct Explained {
    pub(crate) key: String,
    pub(crate) message: String,
    pub(crate) hint: String,
    /// The name of a key that is required and absent.
    pub(crate) missing: Option<String>,
}

/// Explains serde's `error` about the value `found` at `key`.
pub(crate) fn explain(error: &str, key: &str, found: &DeValue<'_>) -> Explained {
    let name = last_step(key);
    if let Some(missing) = error.strip_prefix("missing field `") {
        let missing = missing.trim_end_matches('`');
        return Explained {
            key: format!("{key}.{missing}"),
            message: format!("missing key `{missing}`"),
            hint: format!("add `{missing} = …` to {}", header(key)),
            missing: Some(missing.to_owned()),
        };
    }
    let (about, expected) = error.rsplit_once(", expected ").unwrap_or((error, ""));
    let (message, hint) = if about.starts_with("unknown field") {
        (unknown_key(key), suggest::hint(name, &quoted(expected), "the keys here are"))
    } else if let Some(value) = about.strip_prefix("unknown variant `") {
        let value = value.trim_end_matches('`');
        let hint = suggest::hint(value, &quoted(expected), "it can be");
        (format!("`{name}` cannot be `{value}`"), hint)
    } else if error == "wanted string or table" {
        // The toml crate's words where one of several names is wanted.
        (format!("`{name}` wants a string, not {}", kind(found)), example("a string", key))
    } else if about.starts_with("invalid type") || about.starts_with("invalid length") {
        let wanted = wanted(expected);
        let hint = match found {
            DeValue::Table(_) if wanted == "a list" => format!("start each with [[{key}]]"),
            _ => example(wanted, key),
        };
        (format!("`{name}` wants {wanted}, not {}", kind(found)), hint)
    } else if about.starts_with("invalid value") {
        let wanted = wanted(expected);
        (format!("`{name}` wants {wanted}"), example(wanted, key))
    } else if error == "invalid socket address syntax" {
        let hint = format!("write an address and a port: {name} = \"127.0.0.1:8080\"");
        (format!("`{name}` is not a socket address"), hint)
    } else {
        // A `Deserialize` of ours: its hint, if any, follows a semicolon.
        let (message, hint) = error.split_once("; ").unwrap_or((error, ""));
        let fallback = match message.contains("credits") {
            true => "write 5, 0.25 or 0",
            false => "see how the gateway.toml that ships with Farebox writes it",
        };
        let hint = if hint.is_empty() { fallback } else { hint };
        (format!("`{name}`: {message}"), hint.to_owned())
    };
    Explained { key: key.to_owned(), message, hint, missing: None }
}

/// What is wrong with a key that nobody reads.
pub(crate) fn unknown_key(key: &str) -> String {
    format!("unknown key `{}`", last_step(key))
}

/// How the table at `key` starts in the file: `auth.jwt[0]` → `[[auth.jwt]]`.
pub(crate) fn header(key: &str) -> String {
    let mut name = String::new();
    let mut inside = false;
    for letter in key.chars() {
        inside = inside && letter != ']' || letter == '[';
        if !inside && letter != ']' {
            name.push(letter);
        }
    }
    if key.ends_with(']') { format!("[[{name}]]") } else { format!("[{name}]") }
}

fn last_step(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The names that serde lists in backticks.
fn quoted(expected: &str) -> Vec<&str> {
    expected.split('`').skip(1).step_by(2).collect()
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// serde's name of a type in the user's words.
fn wanted(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a string",
        "socket address" => "an address and a port",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

fn example(wanted: &str, key: &str) -> String {
    // An element of a list has no name to assign to.
    let name = last_step(key);
    let assign = if name.ends_with(']') { String::new() } else { format!("{name} = ") };
    match wanted {
        "true or false" => format!("write {assign}true or {assign}false, without quotes"),
        "a string" => format!("put it in quotes: {assign}\"…\""),
        "an address and a port" => format!("write {assign}\"127.0.0.1:8080\""),
        "a list" => format!("put it in brackets: {assign}[\"…\"]"),
        "a table" => format!("write {} and its keys below", header(key)),
        wanted if wanted.starts_with("a whole number") => {
            format!("write digits without quotes: {assign}5")
        }
        wanted => format!("write {wanted}"),
    }
}
