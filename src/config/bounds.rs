//! Values that are too small or too large to be meant.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::Mistake;

/// A mistake when `value`, which stands at `key`, is outside `allowed`.
pub fn within<T: PartialOrd + Display>(
    key: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Option<Mistake> {
    if allowed.contains(&value) {
        return None;
    }
    let name = key.rsplit('.').next().unwrap_or(key);
    let (least, most) = allowed.into_inner();
    let message = format!("`{name}` cannot be {value}");
    Some(Mistake::new(key, message, format!("it can be {least} to {most}")))
}
