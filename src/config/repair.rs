//! Removes a mistake from a section, so that serde finds the next one. An entry is identified by
//! its span, which is its place in the file. Only a table and its own first element can have the
//! same span, and the span then means the inner one.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

/// The span of the n-th missing entry that was filled in. It lies beyond the end of any file.
pub(crate) fn stand_in(n: usize) -> Range<usize> {
    usize::MAX - n..usize::MAX
}

/// True for the span of an entry that was filled in.
pub(crate) fn is_stand_in(span: &Range<usize>) -> bool {
    span.end == usize::MAX
}

/// The values for a missing string, in the order in which they are tried.
pub(crate) struct StandIns([String; 3]);

impl StandIns {
    /// `currency` is the file's currency, so that the price that is filled in does not contradict
    /// the others.
    pub(crate) fn new(currency: &str) -> Self {
        Self([String::new(), "http://localhost".to_owned(), format!("1 {currency}")])
    }

    /// The string to try after `text`.
    fn after(&self, text: &str) -> Option<&str> {
        let tried = self.0.iter().position(|stand_in| stand_in == text)?;
        self.0.get(tried + 1).map(String::as_str)
    }
}

/// The innermost entry of `value` at `span`, with its key.
pub(crate) fn find<'v, 't>(
    value: &'v Spanned<DeValue<'t>>,
    span: &Range<usize>,
    key: &str,
) -> Option<(String, &'v Spanned<DeValue<'t>>)> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => table.iter().find_map(|(name, item)| {
            let key = format!("{key}.{}", name.get_ref());
            find(item, span, &key).or_else(|| (name.span() == *span).then_some((key, item)))
        }),
        DeValue::Array(items) => (items.iter().enumerate())
            .find_map(|(index, item)| find(item, span, &format!("{key}[{index}]"))),
        _ => None,
    };
    inner.or_else(|| (value.span() == *span).then(|| (key.to_owned(), value)))
}

/// Removes the innermost entry below `value` at `span`.
pub(crate) fn take_out(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => {
            if table.iter_mut().any(|(_, item)| take_out(item, span)) {
                return true;
            }
            let mut entries = table.iter();
            let here = entries.find(|(name, item)| name.span() == *span || item.span() == *span);
            let here = here.map(|(name, _)| name.get_ref().clone().into_owned());
            here.is_some_and(|name| table.remove(name.as_str()).is_some())
        }
        DeValue::Array(items) => {
            let before = items.len();
            items.iter_mut().any(|item| take_out(item, span)) || {
                let all = std::mem::replace(items, DeArray::new());
                *items = all.into_iter().filter(|item| item.span() != *span).collect();
                items.len() < before
            }
        }
        _ => false,
    }
}

/// Adds an entry `name` to the innermost table at `span`, so that serde finds the mistakes after
/// it. The entry's value is a string at first, since most values are.
pub(crate) fn fill_in(
    value: &mut Spanned<DeValue<'_>>,
    span: &Range<usize>,
    name: &str,
    stand_in: Range<usize>,
) -> bool {
    let here = value.span() == *span;
    match value.get_mut() {
        DeValue::Table(table) => {
            if table.iter_mut().any(|(_, item)| fill_in(item, span, name, stand_in.clone())) {
                return true;
            }
            if !here || table.contains_key(name) {
                return false;
            }
            let guess = Spanned::new(stand_in.clone(), DeValue::String("".into()));
            table.insert(Spanned::new(stand_in, name.to_owned().into()), guess);
            true
        }
        DeValue::Array(items) => {
            items.iter_mut().any(|item| fill_in(item, span, name, stand_in.clone()))
        }
        _ => false,
    }
}

/// Tries the next value for the entry at `span`, which was filled in with a value that did not fit.
pub(crate) fn fill_in_otherwise(
    value: &mut Spanned<DeValue<'_>>,
    span: &Range<usize>,
    stand_ins: &StandIns,
) -> bool {
    let here = value.span() == *span;
    match value.get_mut() {
        guess if here => {
            *guess = match guess {
                DeValue::String(text) => match stand_ins.after(text) {
                    Some(next) => DeValue::String(next.to_owned().into()),
                    None => DeValue::Integer(Default::default()),
                },
                DeValue::Integer(_) => DeValue::Array(DeArray::new()),
                DeValue::Array(_) => DeValue::Boolean(false),
                _ => return false,
            };
            true
        }
        DeValue::Table(table) => {
            table.iter_mut().any(|(_, item)| fill_in_otherwise(item, span, stand_ins))
        }
        DeValue::Array(items) => {
            items.iter_mut().any(|item| fill_in_otherwise(item, span, stand_ins))
        }
        _ => false,
    }
}
