//! Explains serde's errors in terms of the file. An error is recognised by its wording, which serde
//! does not guarantee; a text that is not recognised is passed on as it is. The messages here never
//! repeat a value that serde quotes.

use toml::de::DeValue;

/// The hint for an unknown key in a table whose keys serde does not list.
pub(crate) const NO_SUCH_KEY: &str = "correct its name, or remove it";

/// An explained mistake: its place, its message and its hint.
pub(crate) struct Explained {
    pub(crate) key: String,
    pub(crate) message: String,
    pub(crate) hint: String,
    /// The name of the missing key, if the mistake is a missing key.
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
        (unknown_key(key), suggest(name, &quoted(expected), "the keys here are"))
    } else if let Some(value) = about.strip_prefix("unknown variant `") {
        let value = value.trim_end_matches('`');
        let hint = suggest(value, &quoted(expected), "it can be");
        (format!("`{name}` cannot be `{value}`"), hint)
    } else if error == "wanted string or table" {
        // The toml crate reports this error if one of several names is expected.
        (format!("`{name}` wants a string, not {}", kind(found)), example("a string", key))
    } else if about.starts_with("invalid type") || about.starts_with("invalid length") {
        let wanted = wanted(expected);
        let hint = match found {
            // A list of tables below another list is shorter within brackets.
            DeValue::Table(_) if wanted == "a list" && key.contains('[') => {
                format!("put it in brackets: {name} = [{{ … }}]")
            }
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
        // The error comes from a `Deserialize` of this crate. If it has a hint, the hint follows a
        // semicolon.
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

/// The message for a key that the config does not know.
pub(crate) fn unknown_key(key: &str) -> String {
    format!("unknown key `{}`", last_step(key))
}

/// The header of the table at `key` in the file: `auth.jwt[0]` → `[[auth.jwt]]`.
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

/// The names in backticks in one of serde's lists.
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

/// The user's word for one of serde's types.
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

/// The names that other tools and price lists have for our keys.
const OTHER_NAMES: [(&str, &str); 11] = [
    ("name", "match"),
    ("model", "match"),
    ("id", "match"),
    ("prompt", "input"),
    ("completion", "output"),
    ("cache_read", "cached_input"),
    ("input_cache_read", "cached_input"),
    ("input_cost_per_token", "input"),
    ("output_cost_per_token", "output"),
    ("cache_read_input_token_cost", "cached_input"),
    ("cache_creation_input_token_cost", "cache_write"),
];

/// The hint for the unknown `name`: our name of it, the nearest of `known`, or all of them after
/// `intro`.
pub(crate) fn suggest(name: &str, known: &[&str], intro: &str) -> String {
    let ours = OTHER_NAMES.iter().find(|(other, ours)| *other == name && known.contains(ours));
    if let Some((other, ours)) = ours {
        let unit = if other.contains("token") { " Its price is for a million" } else { "" };
        return format!("did you mean `{ours}`?{unit}");
    }
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("{intro} {}", all.join(", "))
        }
    }
}

/// The known name nearest to `name`, if at most a third of its letters differ.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let near = known.iter().map(|known| (distance(&name, known), *known)).min()?;
    (near.0 <= near.1.len().div_ceil(3)).then_some(near.1)
}

/// The optimal string alignment distance: the number of letters to add, drop, change or swap with a
/// neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["listen", "admin", "admin_token", "threads"];
        for (typed, meant) in [
            ("lisetn", Some("listen")),
            ("Listen", Some("listen")),
            ("admin-token", Some("admin_token")),
            ("thread", Some("threads")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
        assert_eq!(suggest("colour", &known[..2], "known here:"), "known here: `listen`, `admin`");
    }
}
