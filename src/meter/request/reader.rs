//! Goes through a request with the scanner, and takes the members of each object that the price
//! depends on.

use super::edit::StreamOptions;
use super::facts::Facts;
use super::frame::{CLOSED, Frame, NOTHING, Next};
use super::images::ImagePlaces;
use super::members::{Known, Role, members};
use super::mistake::BodyMistake;
use super::names::{LONGEST, fold};
use super::outcome::ReadRequest;
use super::place::{Place, Within};
use super::watched::Watched;
use crate::meter::json::{Sink, Span, Text, Token};
use crate::usage::{MeterKind, Scalar};

/// The deepest body that is read.
pub(super) const MAX_DEPTH: usize = 64;

/// Members of OpenAI's requests for images. Streams of images have no usage chunk.
const OF_IMAGES: [&[u8]; 9] = [
    b"size",
    b"quality",
    b"partialimages",
    b"background",
    b"moderation",
    b"outputcompression",
    b"inputfidelity",
    b"mask",
    b"image",
];

type Taken = Result<(), BodyMistake>;

/// The reader of one request.
pub(super) struct Reader<'a> {
    kind: &'a MeterKind,
    body: &'a [u8],
    watched: &'a Watched,
    pub(super) images: ImagePlaces,
    frames: [Frame; MAX_DEPTH],
    depth: usize,
    pub(super) next: Next<'a>,
    /// For each watched member, whether it was present.
    was_watched: Vec<bool>,
    pub(super) facts: Facts,
}

impl<'a> Reader<'a> {
    /// Creates a reader for the start of `body`.
    pub fn new(kind: &'a MeterKind, body: &'a [u8], watched: &'a Watched) -> Self {
        Self {
            kind,
            body,
            watched,
            images: ImagePlaces::of(kind),
            frames: [CLOSED; MAX_DEPTH],
            depth: 0,
            next: NOTHING,
            was_watched: vec![false; watched.len()],
            facts: Facts::default(),
        }
    }

    /// Returns the request, at the end of the body.
    ///
    /// # Errors
    /// No error occurs here, because a mistake ends the reading earlier.
    pub fn end(self) -> Result<ReadRequest, BodyMistake> {
        Ok(self.facts.read(self.kind, self.body.len()))
    }

    /// The innermost object or list.
    pub(super) fn here(&self) -> Frame {
        self.depth.checked_sub(1).and_then(|at| self.frames.get(at)).copied().unwrap_or(CLOSED)
    }

    /// The place of the innermost object or list.
    pub(super) fn place(&self) -> Place {
        self.depth
            .checked_sub(1)
            .and_then(|at| self.frames.get(at))
            .map_or(Place::Any, |frame| frame.place)
    }

    /// The innermost object or list, to be changed.
    pub(super) fn frame(&mut self) -> Option<&mut Frame> {
        self.frames.get_mut(self.depth.checked_sub(1)?)
    }

    fn name(&mut self, name: Text<'_>) -> Taken {
        self.next = NOTHING;
        let place = self.place();
        match place {
            Place::Top => self.facts.places.is_empty = false,
            Place::StreamOptions => self.has_stream_option(),
            Place::OtherModels => {
                return Err(BodyMistake::OtherModels(self.facts.other_models));
            }
            _ => {}
        }
        let members = members(place);
        // Any name may be watched or denied at the top, but only there.
        if place != Place::Top && !members.may_have(name.raw) {
            return Ok(());
        }
        let known = members.known;
        let is_exact = |known: &Known| !name.has_escapes && name.raw == known.spelled.as_bytes();
        // Below the top, most known names are already spelled like this, so they need not be
        // folded.
        if place != Place::Top
            && let Some((at, known)) = known.iter().enumerate().find(|(_, known)| is_exact(known))
        {
            if known.is_strict {
                self.once(at, known, true)?;
            }
            (self.next.role, self.next.name) = (known.role, known.spelled);
            return Ok(());
        }
        let mut buffer = [0; LONGEST];
        let Some(folded) = fold(&name, &mut buffer) else { return Ok(()) };
        if place == Place::Top {
            self.top_name(&name, folded)?;
        }
        let found = known.iter().position(|known| known.folded.as_bytes() == folded);
        let Some((at, known)) = found.and_then(|at| Some((at, known.get(at)?))) else {
            return Ok(());
        };
        let is_so = is_exact(known);
        if known.is_strict {
            self.once(at, known, is_so)?;
        }
        if is_so || known.is_strict || !matches!(known.role, Role::Open(_)) {
            (self.next.role, self.next.name) = (known.role, known.spelled);
        }
        Ok(())
    }

    fn once(&mut self, at: usize, known: &Known, is_so: bool) -> Taken {
        let bit = 1 << at;
        let Some(frame) = self.frame() else { return Ok(()) };
        if frame.seen & bit != 0 {
            return Err(BodyMistake::Twice(known.spelled.into()));
        }
        frame.seen |= bit;
        if is_so { Ok(()) } else { Err(BodyMistake::Spelling(known.spelled.into())) }
    }

    /// Takes the name of a top-level member. It may be denied or watched, or tell what kind of
    /// request this is.
    fn top_name(&mut self, name: &Text<'_>, folded: &[u8]) -> Taken {
        let facts = &mut self.facts;
        match folded {
            b"messages" => facts.has_messages = true,
            b"prompt" => facts.has_prompt = true,
            b"input" => facts.has_input = true,
            _ => facts.is_for_images |= OF_IMAGES.contains(&folded),
        }
        if let Some(denied) = self.watched.denied(folded) {
            return Err(BodyMistake::Denied(denied.into()));
        }
        let Some((at, spelled)) = self.watched.member(folded) else { return Ok(()) };
        if name.has_escapes || name.raw != spelled.as_bytes() {
            return Err(BodyMistake::Spelling(spelled.into()));
        }
        let was = self.was_watched.get_mut(at).map(|was| std::mem::replace(was, true));
        if was == Some(true) {
            return Err(BodyMistake::Twice(spelled.into()));
        }
        self.next.watched = Some(spelled);
        Ok(())
    }

    fn open(&mut self, is_object: bool, span: Span) -> Taken {
        let here = self.here();
        let next = std::mem::replace(&mut self.next, NOTHING);
        if let Some(name) = next.watched {
            self.facts.members.push((name.into(), Scalar::Nested));
        }
        let place = match (self.depth, here.place) {
            (0, _) if is_object => Place::Top,
            (0, _) => return Err(BodyMistake::NotAnObject),
            (_, Place::OtherModels) => {
                return Err(BodyMistake::OtherModels(self.facts.other_models));
            }
            (_, Place::Prompts) => {
                self.facts.prompt();
                Place::Any
            }
            (_, list) if here.is_list => match list.element() {
                Place::Data => Place::Data,
                // A list that the reader knows is never inside another list.
                _ if !is_object => Place::Any,
                element => element,
            },
            (_, parent) => self.member_place(parent, next, is_object, span)?,
        };
        if self.depth == 0 {
            self.facts.places.top = span.end;
            self.facts.places.is_empty = true;
        }
        if let Some(frame) = self.frames.get_mut(self.depth) {
            *frame = Frame { place, is_list: !is_object, ..CLOSED };
        }
        self.depth += 1;
        Ok(())
    }

    /// The place of the object or list that is the value of the member `next`.
    fn member_place(
        &mut self,
        parent: Place,
        next: Next<'a>,
        is_object: bool,
        span: Span,
    ) -> Result<Place, BodyMistake> {
        let within = if let Place::Part(within) = parent { Some(within) } else { None };
        let wanted = match next.role {
            Role::Open(Place::Prompt) if is_object => {
                self.facts.has_stored_prompt = true;
                Place::Prompt
            }
            Role::Open(Place::Source(_)) => Place::Source(within.unwrap_or(Within::Output)),
            Role::Open(place) => place,
            Role::ImageUrl => Place::ImageUrl(within.unwrap_or(Within::Output)),
            Role::MediaUrl => Place::MediaUrl,
            Role::ItemContent => {
                if let Some(frame) = self.frame() {
                    frame.has_content = true;
                }
                Place::Content(Within::Input)
            }
            Role::StreamOptions if is_object => {
                let place = StreamOptions::Without { at: span.end, is_empty: true };
                self.facts.places.stream_options = Some(place);
                Place::StreamOptions
            }
            Role::StreamOptions => return Err(BodyMistake::StreamOptions),
            Role::OtherModels => {
                self.facts.other_models = next.name;
                Place::OtherModels
            }
            Role::Model => return Err(BodyMistake::Model),
            Role::Stream | Role::IncludeUsage => return Err(BodyMistake::Flag(next.name)),
            Role::Limit | Role::Answers => return Err(BodyMistake::Count(next.name)),
            Role::Background => return Err(BodyMistake::Background),
            _ => {
                self.is_present(next);
                Place::Any
            }
        };
        Ok(if parent == Place::Data { Place::Data } else { wanted.opened(is_object) })
    }

    fn close(&mut self) {
        let frame = self.here();
        self.depth = self.depth.saturating_sub(1);
        self.next = NOTHING;
        match frame.place {
            Place::Source(within) if frame.is_base64 && frame.is_image => {
                self.image(self.images.source(within), frame.data_bytes);
            }
            Place::Source(_) if frame.is_base64 => self.facts.has_documents = true,
            Place::InlineData if frame.is_image => {
                self.image(self.images.others(), frame.data_bytes);
            }
            Place::InlineData => {
                self.facts.sends_audio |= frame.is_audio;
                self.facts.has_documents = true;
            }
            Place::InputItem if frame.has_id && !frame.has_type && !frame.has_content => {
                self.facts.elsewhere("item_reference");
            }
            _ => {}
        }
    }
}

impl Sink for Reader<'_> {
    type Stop = BodyMistake;

    fn token(&mut self, token: Token<'_>, span: Span) -> Taken {
        if let Token::Name(text) | Token::Text(text) = token
            && text.has_lone_surrogate
        {
            return Err(BodyMistake::LoneSurrogate(span.start));
        }
        match token {
            Token::Name(name) => self.name(name),
            Token::Object => self.open(true, span),
            Token::List => self.open(false, span),
            Token::End => {
                self.close();
                Ok(())
            }
            _ if self.depth == 0 => Err(BodyMistake::NotAnObject),
            _ => self.scalar(token, span),
        }
    }
}

impl Reader<'_> {
    /// Records that `stream_options` has a member.
    const fn has_stream_option(&mut self) {
        if let Some(StreamOptions::Without { is_empty, .. }) = &mut self.facts.places.stream_options
        {
            *is_empty = false;
        }
    }
}
