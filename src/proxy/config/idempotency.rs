//! `[idempotency]`: how a retry gets the answer that was already paid for.

use serde::Deserialize;

use crate::config::{Mistake, Size, Span, within};

/// Whether and how long answers are kept for retries.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// Whether Farebox reads the `idempotency-key` header. If false, the header is passed on to the
    /// upstream, and no answers are kept.
    pub enabled: bool,
    /// How long a key keeps standing for its call after the call was charged.
    pub keep: Span,
    /// The largest answer that is kept.
    pub max_answer: Size,
    /// The most room for all kept answers together.
    pub max_total: Size,
    /// Whether Farebox recognises the retries of the official SDKs even if they have no key.
    pub sdk_retries: bool,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            keep: Span::from_secs(24 * 3600),
            max_answer: Size::from_mib(1),
            max_total: Size::from_mib(1024),
            sdk_retries: true,
        }
    }
}

impl IdempotencyConfig {
    /// Finds the mistakes in this section.
    pub fn check(&self) -> Vec<Mistake> {
        let (minute, month) = (Span::from_secs(60), Span::from_secs(30 * 24 * 3600));
        let limits = [
            within("idempotency.keep", self.keep, minute..=month),
            within("idempotency.max_answer", self.max_answer, Size(1024)..=Size::from_mib(64)),
            within("idempotency.max_total", self.max_total, Size::from_mib(1)..=Size(1 << 42)),
        ];
        let mut found: Vec<Mistake> = limits.into_iter().flatten().collect();
        if found.is_empty() && self.max_total < self.max_answer {
            let message = format!(
                "`max_total` of {} has no room for one answer of {}",
                self.max_total, self.max_answer
            );
            let hint = "make it many times `max_answer`";
            found.push(Mistake::new("idempotency.max_total", message, hint));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        let config: IdempotencyConfig = toml::from_str(text).unwrap();
        config.check().into_iter().map(|mistake| mistake.key).collect()
    }

    #[test]
    fn limits_that_keep_nothing_are_refused() {
        assert_eq!(check(""), [""; 0]);
        assert_eq!(check("enabled = false\nsdk_retries = false"), [""; 0]);
        assert_eq!(check("keep = '1m'\nmax_answer = '1 KiB'\nmax_total = '1 MiB'"), [""; 0]);
        assert_eq!(check("keep = '1s'"), ["idempotency.keep"]);
        assert_eq!(check("keep = '721h'"), ["idempotency.keep"]);
        assert_eq!(check("max_answer = '1 B'"), ["idempotency.max_answer"]);
        assert_eq!(check("max_total = '1 KiB'"), ["idempotency.max_total"]);
        assert_eq!(check("max_answer = '8 MiB'\nmax_total = '4 MiB'"), ["idempotency.max_total"]);
    }
}
