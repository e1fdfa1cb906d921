//! Reads the documents of an answer one after the other, with the meter of the route.

use super::anthropic::Anthropic;
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
        Self { scanner: Scanner::new(MAX_DEPTH), is_broken: false, meter }
    }

    /// Reads the next part of the document.
    pub fn feed(&mut self, part: &[u8]) {
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
