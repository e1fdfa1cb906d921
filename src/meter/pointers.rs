//! The meter for answers whose counts stand at places that the config names.

use std::convert::Infallible;
use std::sync::Arc;

use super::counts::{seconds, whole};
use super::document::{AnswerUsage, Event, Meter};
use super::json::{Sink, Span, Token};
use crate::usage::{Kind, Pointers as Places, Usage};

/// Names of members whose text counts as delivered. They count anywhere in the answer, because its
/// shape is not known.
const TEXTS: [&[u8]; 14] = [
    b"content",
    b"text",
    b"delta",
    b"response",
    b"completion",
    b"generation",
    b"generated_text",
    b"output",
    b"output_text",
    b"token",
    b"thinking",
    b"reasoning",
    b"arguments",
    b"partial_json",
];

/// The meter of one answer.
#[derive(Debug)]
pub struct Pointers {
    places: Arc<Places>,
    /// How far the meter has followed each pointer.
    ways: Box<[Way]>,
    /// The open objects and lists: for a list the index of its next element, for an object `None`.
    levels: Vec<Option<usize>>,
    is_text: bool,
    document_text_bytes: u64,
    is_final: bool,
    text_bytes: u64,
}

/// The progress along one pointer.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// The number of the pointer's steps that the open objects and lists have followed.
    steps: usize,
    /// Whether the next value continues the pointer by one step.
    is_next: bool,
    /// The count in the document that is being read. `Some(None)` if the value there is not a
    /// count.
    found: Option<Option<u64>>,
    /// The newest count so far.
    count: Option<Option<u64>>,
}

impl Pointers {
    /// Creates a meter for the start of an answer.
    pub fn new(places: Arc<Places>) -> Self {
        let ways = places.iter().map(|_| Way::default()).collect();
        Self {
            places,
            ways,
            levels: Vec::new(),
            is_text: false,
            document_text_bytes: 0,
            is_final: false,
            text_bytes: 0,
        }
    }

    /// Announces the member or element `step`, whose value comes next.
    fn step(&mut self, step: &[u8]) {
        let depth = self.levels.len();
        for (way, (_, place)) in self.ways.iter_mut().zip(self.places.iter()) {
            let is_here = way.steps + 1 == depth;
            let next = place.steps().get(way.steps);
            way.is_next = is_here && next.is_some_and(|name| name.as_bytes() == step);
        }
    }

    /// Announces a value, which is the next element if a list is open.
    fn element(&mut self) {
        if let Some(Some(index)) = self.levels.last_mut() {
            let step = index.to_string();
            *index += 1;
            self.step(step.as_bytes());
        }
    }

    fn open(&mut self, is_list: bool) {
        self.element();
        for way in &mut self.ways {
            way.steps += usize::from(std::mem::take(&mut way.is_next));
        }
        self.levels.push(is_list.then_some(0));
        self.is_text = false;
    }

    fn close(&mut self) {
        self.levels.pop();
        // The top of the document is not a step, so the way to an object at depth 2 has one step.
        let deepest = self.levels.len().saturating_sub(1);
        for way in &mut self.ways {
            way.steps = way.steps.min(deepest);
            way.is_next = false;
        }
        self.is_text = false;
    }

    fn scalar(&mut self, token: Token<'_>) {
        self.element();
        for (way, (kind, place)) in self.ways.iter_mut().zip(self.places.iter()) {
            if !std::mem::take(&mut way.is_next) || place.steps().len() != way.steps + 1 {
                continue;
            }
            way.found = match token {
                Token::Number(spelled) if kind == Kind::Second => Some(seconds(spelled)),
                Token::Number(spelled) => Some(whole(spelled)),
                Token::Null => way.found,
                _ => Some(None),
            };
        }
    }
}

impl Sink for Pointers {
    type Stop = Infallible;

    fn token(&mut self, token: Token<'_>, _: Span) -> Result<(), Infallible> {
        match token {
            Token::Object => self.open(false),
            Token::List => self.open(true),
            Token::End => self.close(),
            Token::Name(name) => {
                let mut buffer = None;
                let name = name.short(&mut buffer).unwrap_or_default();
                self.is_text = TEXTS.contains(&name);
                self.step(name);
            }
            _ => {
                if let (Token::Text(text), true) = (token, self.is_text) {
                    self.document_text_bytes += text.len;
                }
                self.scalar(token);
            }
        }
        Ok(())
    }
}

impl Meter for Pointers {
    fn ended(&mut self, is_event: bool) -> Event {
        for way in &mut self.ways {
            way.count = way.found.or(way.count);
        }
        self.text_bytes += self.document_text_bytes;
        self.dropped();
        self.is_final |= !is_event && self.has_usage();
        Event::Ordinary
    }

    fn dropped(&mut self) {
        for way in &mut self.ways {
            *way = Way { count: way.count, ..Way::default() };
        }
        self.levels.clear();
        (self.is_text, self.document_text_bytes) = (false, 0);
    }

    fn finished(&mut self) {
        self.is_final |= self.has_usage();
    }

    fn so_far(&self) -> AnswerUsage {
        let mut usage = Usage::NONE;
        let mut is_false = false;
        for (way, (kind, _)) in self.ways.iter().zip(self.places.iter()) {
            match way.count {
                // A count is at most 2^40, and no kind is named twice, so `set` does not fail.
                Some(Some(count)) => _ = usage.set(kind, count),
                Some(None) => is_false = true,
                None => {}
            }
        }
        AnswerUsage {
            usage: (self.has_usage() && !is_false).then_some(usage),
            is_final: self.is_final,
            is_false,
            delivered_text_bytes: self.text_bytes,
            images: u32::try_from(usage.of(Kind::Image)).unwrap_or(u32::MAX),
            ..AnswerUsage::default()
        }
    }

    fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    fn running_output(&self) -> u64 {
        let told = if self.is_final { None } else { self.so_far().usage };
        told.map_or(0, |usage| usage.output_tokens())
    }
}

impl Pointers {
    fn has_usage(&self) -> bool {
        self.ways.iter().any(|way| way.count.is_some())
    }
}

#[cfg(test)]
mod tests {
    use crate::meter::{AnswerUsage, JsonMeter, StreamMeter, StreamOptions, read_answer};
    use crate::usage::{Kind, MeterKind, Usage};

    #[derive(serde::Deserialize)]
    struct Route {
        meter: MeterKind,
    }

    fn meter(table: &str) -> MeterKind {
        toml::from_str::<Route>(&format!("meter = {table}")).unwrap().meter
    }

    fn read(kind: &MeterKind, body: &str) -> AnswerUsage {
        let read = read_answer(kind, body.as_bytes());
        for cut in 0..=body.len() {
            let (head, tail) = body.as_bytes().split_at(cut);
            let mut meter = JsonMeter::new(kind);
            meter.feed(head);
            meter.feed(tail);
            assert_eq!(meter.end(), read, "cut at {cut}: {body}");
        }
        read
    }

    #[test]
    fn counts_are_read_at_their_places_only() {
        let kind =
            meter("{ input = '/usage/in', output = '/out/1/n', second = '/s', search = '/a~1b' }");
        for (body, counts) in [
            (r#"{"usage":{"in":5},"out":[{"n":1},{"n":7.0}],"s":1.5,"a/b":2}"#, Some([5, 7, 2, 2])),
            (
                r#"{"out":[[],{"x":[{"n":9}],"n":7}],"usage":{"x":{"in":9},"in":5}}"#,
                Some([5, 7, 0, 0]),
            ),
            (r#"{"usage":{"in":5,"in":6},"s":null}"#, Some([6, 0, 0, 0])),
            (r#"{"x":{"usage":{"in":5}}}"#, None),
            (r#"[{"usage":{"in":5}}]"#, None),
            (r#"{"usage":{"in":{"in":5}}}"#, None),
            (r#"{"usage":[5]}"#, None),
            ("{}", None),
            (r#"{"usage":{"in":5}"#, None),
        ] {
            let expected = counts.map(|[input, output, second, search]| {
                let kinds = [Kind::Input, Kind::Output, Kind::Second, Kind::Search];
                let counts = kinds.into_iter().zip([input, output, second, search]);
                counts.fold(Usage::NONE, |usage, (kind, n)| usage.with(kind, n).unwrap())
            });
            let answer = read(&kind, body);
            assert_eq!((answer.usage, answer.is_final), (expected, counts.is_some()), "{body}");
            assert!(!answer.is_false, "{body}");
        }
        for body in
            [r#"{"usage":{"in":-1}}"#, r#"{"usage":{"in":"5"}}"#, r#"{"usage":{"in":1e20}}"#]
        {
            let answer = read(&kind, body);
            assert_eq!((answer.usage, answer.is_false), (None, true), "{body}");
        }
    }

    #[test]
    fn the_last_event_or_line_that_has_a_count_counts() {
        let kind = meter("{ input = '/prompt_eval_count', output = '/eval_count' }");
        let lines = [
            r#"{"response":"Hel","done":false}"#,
            r#"{"response":"lo","done":false,"eval_count":1}"#,
            r#"{"response":"","done":true,"prompt_eval_count":26,"eval_count":290}"#,
        ];
        let ndjson = lines.map(|line| format!("{line}\n")).concat();
        let events = lines.map(|line| format!("data: {line}\n\n")).concat();
        for stream in [ndjson, events] {
            for length in [1, 5, 1000] {
                let mut meter = StreamMeter::new(&kind, StreamOptions::default());
                for part in stream.as_bytes().chunks(length) {
                    meter.watch(part);
                }
                let usage = meter.so_far().usage.unwrap();
                assert_eq!((usage.of(Kind::Input), usage.of(Kind::Output)), (26, 290));
                assert_eq!(meter.delivered_text_bytes(), 5);
                assert!(!meter.so_far().is_final);
                meter.end(&mut Vec::new());
                assert!(meter.so_far().is_final);
            }
        }
    }
}
