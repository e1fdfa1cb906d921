//! Reads the documents of an answer one after the other, with the meter of the route.

use super::anthropic::Anthropic;
use super::beginning::Beginning;
use super::document::{AnswerUsage, Event, Meter};
use super::json::{Scanner, Sink};
use super::openai::OpenAi;
use super::pointers::Pointers;
use crate::usage::MeterKind;

/// The deepest answer that is read. Real answers have less than a dozen levels.
const MAX_DEPTH: u32 = 128;

/// Scans documents, and passes their tokens to the meter.
#[derive(Debug)]
pub struct Reader {
    scanner: Scanner,
    is_broken: bool,
    meter: AnyMeter,
    beginning: Beginning,
    /// Whether a document came before this one.
    is_later: bool,
}

#[derive(Debug)]
enum AnyMeter {
    OpenAi(Box<OpenAi>),
    Anthropic(Box<Anthropic>),
    Pointers(Pointers),
}

impl Reader {
    /// Creates a reader for the start of an answer.
    pub fn new(kind: &MeterKind) -> Self {
        let meter = match kind {
            MeterKind::OpenAi => AnyMeter::OpenAi(Box::new(OpenAi::new())),
            MeterKind::Anthropic => AnyMeter::Anthropic(Box::new(Anthropic::new())),
            MeterKind::Pointers(places) => AnyMeter::Pointers(Pointers::new(places.clone())),
        };
        Self {
            scanner: Scanner::new(MAX_DEPTH),
            is_broken: false,
            meter,
            beginning: Beginning::default(),
            is_later: false,
        }
    }

    /// Reads the next part of the document.
    pub fn feed(&mut self, part: &[u8]) {
        if !self.is_later || !self.scanner.is_at_start() {
            self.scan(part);
            return;
        }
        let Some((beginning, rest)) = self.beginning.split(part) else {
            self.scan(part);
            if let Some(text) = self.meter().text_begins() {
                self.beginning.replace(part, text);
            }
            return;
        };
        match self.beginning.place() {
            Some(place) => {
                self.scanner.go_to(place);
                self.meter().go_to_mark();
            }
            None => {
                self.scan(beginning);
                self.beginning.reached(self.scanner.place());
                self.meter().mark();
            }
        }
        self.scan(rest);
    }

    fn scan(&mut self, part: &[u8]) {
        fn scan(scanner: &mut Scanner, part: &[u8], meter: &mut impl Sink) -> bool {
            scanner.feed(part, meter).is_err()
        }
        if self.is_broken {
            return;
        }
        let scanner = &mut self.scanner;
        self.is_broken = match &mut self.meter {
            AnyMeter::OpenAi(meter) => scan(scanner, part, &mut **meter),
            AnyMeter::Anthropic(meter) => scan(scanner, part, &mut **meter),
            AnyMeter::Pointers(meter) => scan(scanner, part, meter),
        };
    }

    /// True if the document is whole.
    pub fn is_whole(&self) -> bool {
        !self.is_broken && self.scanner.is_done()
    }

    /// Ends the document, which counts only if it is whole. Another document may follow.
    pub fn end(&mut self, is_event: bool) -> Event {
        let is_whole = self.is_whole();
        self.scanner.restart();
        self.is_broken = false;
        self.is_later = true;
        let meter = self.meter();
        if is_whole {
            return meter.ended(is_event);
        }
        meter.dropped();
        Event::Ordinary
    }

    /// Ends the stream in the regular way.
    pub fn finish(&mut self) {
        self.meter().finished();
    }

    /// The usage that has been reported so far.
    pub fn so_far(&self) -> AnswerUsage {
        match &self.meter {
            AnyMeter::OpenAi(meter) => meter.so_far(),
            AnyMeter::Anthropic(meter) => meter.so_far(),
            AnyMeter::Pointers(meter) => meter.so_far(),
        }
    }

    /// The present value of [`AnswerUsage::delivered_text_bytes`].
    pub fn text_bytes(&self) -> u64 {
        match &self.meter {
            AnyMeter::OpenAi(meter) => meter.text_bytes(),
            AnyMeter::Anthropic(meter) => meter.text_bytes(),
            AnyMeter::Pointers(meter) => meter.text_bytes(),
        }
    }

    /// The present value of [`Meter::running_output`].
    pub fn running_output(&self) -> u64 {
        match &self.meter {
            AnyMeter::OpenAi(meter) => meter.running_output(),
            AnyMeter::Anthropic(meter) => meter.running_output(),
            AnyMeter::Pointers(meter) => meter.running_output(),
        }
    }

    fn meter(&mut self) -> &mut dyn Meter<Stop = std::convert::Infallible> {
        match &mut self.meter {
            AnyMeter::OpenAi(meter) => &mut **meter,
            AnyMeter::Anthropic(meter) => &mut **meter,
            AnyMeter::Pointers(meter) => meter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_that_repeats_is_read_once() {
        let chunk = |choice: u8, text: &str| {
            format!(
                r#"{{"id":"c","choices":[{{"index":{choice},"delta":{{"content":"{text}"}}}}]}}"#
            )
        };
        let mut reader = Reader::new(&MeterKind::OpenAi);
        let mut begins_as_before = |document: &str| {
            let is_known = reader.beginning.split(document.as_bytes()).is_some();
            let is_read = is_known && reader.beginning.place().is_some();
            reader.feed(document.as_bytes());
            reader.end(true);
            is_read
        };
        let documents = [(0, ""), (0, "a"), (0, "b"), (0, "c"), (1, "d"), (0, "e")];
        let read = documents.map(|(choice, text)| begins_as_before(&chunk(choice, text)));
        assert_eq!(read, [false, false, false, true, false, false]);
        assert_eq!(reader.text_bytes(), 5);
    }
}
