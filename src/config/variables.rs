//! Expands `${NAME}` and `${NAME:-default}` in the strings of the file.
//!
//! The value of a variable stays text inside one string: it can neither add a key nor end a quote,
//! and a `${…}` in it is not expanded. The default is used if the variable is not set or empty, as
//! in a shell. `$${` is read as `${`; any other `$` is read as itself.

use toml::Spanned;
use toml::de::DeValue;

use crate::config::hidden::is_secret_key;
use crate::config::report::Report;

/// A function that looks a variable up: [`process_env`], except in tests.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of the process's environment. A value that is not valid UTF-8 counts as not set.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A string after expansion.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    /// The expanded string. A variable that failed is left out of it.
    pub(crate) text: String,
    /// The values that came from the environment.
    pub(crate) values: Vec<String>,
    /// The message and the hint for each variable that failed.
    pub(crate) failed: Vec<(String, String)>,
}

/// Expands `text`.
pub(crate) fn expand(text: &str, env: Env<'_>) -> Expanded {
    let mut expanded = Expanded::default();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.text.push_str(before);
            expanded.text.push_str("${");
            rest = &from[2..];
            continue;
        }
        expanded.text.push_str(before);
        let Some((inside, after)) = from[2..].split_once('}') else {
            let hint = "close it with `}`, or write `$${` for a plain `${`";
            expanded.failed.push(("`${` without its `}`".to_owned(), hint.to_owned()));
            return expanded;
        };
        match look_up(inside, env) {
            Ok((value, from_env)) => {
                expanded.text.push_str(&value);
                if from_env {
                    expanded.values.push(value);
                }
            }
            Err(failed) => expanded.failed.push(failed),
        }
        rest = after;
    }
    expanded.text.push_str(rest);
    expanded
}

/// The value of `NAME` or `NAME:-default`, and whether it came from the environment.
fn look_up(inside: &str, env: Env<'_>) -> Result<(String, bool), (String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let numeric = name.starts_with(|first: char| first.is_ascii_digit());
    if name.is_empty() || numeric || !name.bytes().all(word) {
        let hint = "write `${NAME}` or `${NAME:-default}`; a name is letters, digits and `_`";
        return Err(("this is not the name of a variable".to_owned(), hint.to_owned()));
    }
    if default.is_some_and(|default| default.contains("${")) {
        let message = format!("the default of `${{{name}}}` contains another variable");
        return Err((message, "a default is plain text, up to the first `}`".to_owned()));
    }
    match (env(name), default) {
        (Some(value), None) => Ok((value, true)),
        (Some(value), Some(_)) if !value.is_empty() => Ok((value, true)),
        (_, Some(default)) => Ok((default.to_owned(), false)),
        (None, None) => Err((
            format!("the variable {name} is not set"),
            format!("export {name}=…, or write a default: ${{{name}:-…}}"),
        )),
    }
}

/// Expands every string at and below `value`, whose key is `key`. A float is replaced by its text
/// in the file, so that no amount passes through a floating-point number.
pub(crate) fn expand_all(
    value: &mut Spanned<DeValue<'_>>,
    key: &str,
    env: Env<'_>,
    report: &mut Report<'_>,
) {
    let offset = value.span().start;
    match value.get_mut() {
        DeValue::String(text) => {
            let expanded = expand(text, env);
            for (message, hint) in expanded.failed {
                report.add(key, Some(offset), message, hint);
            }
            let steps = key.split(['.', '[']);
            if !expanded.values.is_empty() || steps.into_iter().any(is_secret_key) {
                report.hidden.add(&expanded.text);
                expanded.values.iter().for_each(|value| report.hidden.add(value));
            }
            *text = expanded.text.into();
        }
        DeValue::Float(typed) => {
            let typed = typed.as_str().to_owned();
            *value.get_mut() = DeValue::String(typed.into());
        }
        DeValue::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand_all(item, &format!("{key}[{index}]"), env, report);
            }
        }
        DeValue::Table(table) => {
            for (name, item) in table.iter_mut() {
                expand_all(item, &format!("{key}.{}", name.get_ref()), env, report);
            }
        }
        DeValue::Integer(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_and_defaults_are_expanded_once() {
        for (text, expected) in [
            ("http://${HOST}:80", "http://example.com:80"),
            ("${HOST}${HOST}", "example.comexample.com"),
            ("${ABSENT:-fallback}", "fallback"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${EMPTY}", ""),
            ("${ABSENT:-}", ""),
            ("${ABSENT:-a:-b}", "a:-b"),
            ("${NESTED}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("$HOST $$ $5 }", "$HOST $$ $5 }"),
            ("é${HOST}é", "éexample.comé"),
        ] {
            let expanded = expand(text, &env);
            assert_eq!(expanded.text, expected, "{text}");
            assert!(expanded.failed.is_empty(), "{text}");
        }
    }

    #[test]
    fn every_failing_variable_is_named() {
        for (text, failures) in [
            ("${ABSENT} ${HOST} ${MISSING}", 2),
            ("${HOST", 1),
            ("${}", 1),
            ("${1X}", 1),
            ("${A B}", 1),
            ("${ABSENT-x}", 1),
            ("${ABSENT:-${HOST}}", 1),
        ] {
            assert_eq!(expand(text, &env).failed.len(), failures, "{text}");
        }
        let (message, hint) = &expand("${ABSENT}", &env).failed[0];
        assert_eq!(message, "the variable ABSENT is not set");
        assert_eq!(hint, "export ABSENT=…, or write a default: ${ABSENT:-…}");
    }
}
