//! The mistakes found so far.

use crate::config::document::Document;
use crate::config::hidden::Hidden;
use crate::config::{Located, Mistake};

/// Collects the mistakes of one file, each only once.
pub(crate) struct Report<'d> {
    document: &'d Document<'d>,
    found: Vec<(Option<usize>, Mistake)>,
    /// Values that the messages must not repeat.
    pub(crate) hidden: Hidden,
}

impl<'d> Report<'d> {
    pub(crate) fn new(document: &'d Document<'d>) -> Self {
        Self { document, found: Vec::new(), hidden: Hidden::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Adds a mistake at the byte `offset`. Without an offset, the mistake is at the place of
    /// `key`.
    pub(crate) fn add(
        &mut self,
        key: &str,
        offset: Option<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let offset = offset.or_else(|| self.document.offset_of(key));
        self.found.push((offset, Mistake::new(key, message, hint)));
    }

    /// Whether `key`, a key above it or a key below it already has a mistake. Another mistake there
    /// probably has the same cause.
    pub(crate) fn covers(&self, key: &str) -> bool {
        let above = |a: &str, b: &str| {
            b.strip_prefix(a).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.found.iter().any(|(_, known)| above(&known.key, key) || above(key, &known.key))
    }

    /// Adds the mistakes that the modules found. If a key already has a mistake ([`Self::covers`]),
    /// it gets no second one, because the modules saw only a value that was filled in for it.
    pub(crate) fn add_checked(&mut self, found: Vec<Mistake>) {
        let fresh: Vec<_> = found.into_iter().filter(|found| !self.covers(&found.key)).collect();
        for Mistake { key, message, hint } in fresh {
            self.add(&key, None, message, hint);
        }
    }

    /// The warnings in the order of the file, without hidden values.
    pub(crate) fn locate(&self, warnings: Vec<Mistake>) -> Vec<Located> {
        let place = |mistake: Mistake| (self.document.offset_of(&mistake.key), mistake);
        let mut found: Vec<_> = warnings.into_iter().map(place).collect();
        found.sort_by_key(|(offset, _)| *offset);
        found.into_iter().map(|(offset, mistake)| self.located(offset, mistake)).collect()
    }

    /// The mistakes in the order of the file, without hidden values.
    pub(crate) fn finish(mut self) -> Vec<Located> {
        self.found.sort_by_key(|(offset, _)| *offset);
        let found = std::mem::take(&mut self.found);
        found.into_iter().map(|(offset, mistake)| self.located(offset, mistake)).collect()
    }

    fn located(&self, offset: Option<usize>, mistake: Mistake) -> Located {
        Located {
            line: offset.map(|offset| self.document.line_of(offset)),
            column: None,
            file: None,
            mistake: Mistake {
                message: self.hidden.clean(&mistake.message, &mistake.key),
                hint: self.hidden.clean(&mistake.hint, &mistake.key),
                key: mistake.key,
            },
        }
    }
}
