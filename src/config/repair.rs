//! Takes a mistake out of a section, so that the next one comes to light. An entry is known by
//! its span: the place in the file where it stands, which no other entry shares except a table
//! with its own first element. Of those the inner one is meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

/// Where the n-th missing entry that was filled in claims to stand: beyond any file.
pub(crate) fn stand_in(n: usize) -> Range<usize> {
    usize::MAX - n..usize::MAX
}

/// True for the place of an entry that was filled in.
pub(crate) fn is_stand_in(span: &Range<usize>) -> bool {
    span.end == usize::MAX
}

/// Fills in for a string that an empty one does not fit.
const PLAUSIBLE_URL: &str = "http://localhost";

/// The innermost entry of `value` that stands at `span`, with its key.
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

/// Removes the innermost entry below `value` that stands at `span`.
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

/// Puts an entry `name` into the innermost table that stands at `span`, so that what is missing
/// after it comes to light. It is a string first, since most are.
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

/// Tries the next value for the entry that was filled in at `span` and did not fit.
pub(crate) fn fill_in_otherwise(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let here = value.span() == *span;
    match value.get_mut() {
        guess if here => {
            *guess = match guess {
                DeValue::String(text) if text.is_empty() => DeValue::String(PLAUSIBLE_URL.into()),
                DeValue::String(_) => DeValue::Integer(Default::default()),
                DeValue::Integer(_) => DeValue::Array(DeArray::new()),
                DeValue::Array(_) => DeValue::Boolean(false),
                _ => return false,
            };
            true
        }
        DeValue::Table(table) => table.iter_mut().any(|(_, item)| fill_in_otherwise(item, span)),
        DeValue::Array(items) => items.iter_mut().any(|item| fill_in_otherwise(item, span)),
        _ => false,
    }
}
