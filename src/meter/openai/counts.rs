//! OpenAI's counts, and the kinds of usage that they make.

use crate::meter::counts::Counts;
use crate::usage::{Kind, Usage};

/// A count of a usage object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// All tokens of the request.
    Input,
    /// All tokens of the answer.
    Output,
    /// All tokens of the request and the answer.
    Total,
    /// The part of `Input` that was read from a cache.
    Cached,
    /// The part of `Input` that was written to a cache.
    CacheWrite,
    /// The part of `Input` that is audio.
    InputAudio,
    /// The part of `Input` that is images.
    InputImage,
    /// The part of `Output` that is reasoning.
    Reasoning,
    /// The part of `Output` that is audio.
    OutputAudio,
    /// The part of `Output` that is images.
    OutputImage,
    /// The part of `Output` that is text.
    OutputText,
    /// The length of audio, in seconds.
    Seconds,
    /// Searches on the web.
    Searches,
}

/// The counts of OpenAI's usage object.
pub type OpenAiCounts = Counts<13>;

/// The usage by kinds that do not overlap, and whether a total was smaller than its parts. `images`
/// is the number of images that are the answer itself. `tool_images` and `searches` are the numbers
/// of images and searches that a tool of the provider's made.
pub fn usage(counts: &OpenAiCounts, images: u32, tool_images: u32, searches: u64) -> (Usage, bool) {
    let of = |field: Field| counts.or_zero(field as usize);
    let has = |field: Field| counts.get(field as usize).is_some();
    let (mut usage, mut is_clamped) = (Usage::NONE, false);
    // Every count is at most 2^40, and a remainder is smaller than its total, so no `set` fails.
    let mut set = |kind, count| _ = usage.set(kind, count);

    let mut input = of(Field::Input);
    if !has(Field::Input) && !has(Field::Output) {
        input = of(Field::Total);
    }
    let parts = [Field::Cached, Field::CacheWrite, Field::InputAudio, Field::InputImage].map(of);
    let sum: u64 = parts.iter().sum();
    is_clamped |= input < sum;
    set(Kind::Input, input.saturating_sub(sum));
    set(Kind::CachedInput, parts[0]);
    set(Kind::CacheWrite, parts[1]);
    set(Kind::InputAudio, parts[2]);
    set(Kind::InputImage, parts[3]);

    let output = of(Field::Output);
    let reasoning = of(Field::Reasoning);
    let mut image = of(Field::OutputImage);
    if images > 0 && !has(Field::OutputImage) && !has(Field::OutputText) {
        // This is an image model that does not split the tokens of its answer.
        image = output;
    }
    let sum = reasoning + of(Field::OutputAudio) + image;
    // Some providers do not include the reasoning in the output. The total shows whether that is
    // so.
    let is_beside = has(Field::Total)
        && reasoning > 0
        && of(Field::Total) == of(Field::Input) + output + reasoning;
    let all = if is_beside { output + reasoning } else { output };
    is_clamped |= all < sum;
    set(Kind::Output, all.saturating_sub(sum));
    set(Kind::Reasoning, reasoning);
    set(Kind::OutputAudio, of(Field::OutputAudio));
    set(Kind::OutputImage, image);

    set(Kind::Image, u64::from(images) + u64::from(tool_images));
    set(Kind::Second, of(Field::Seconds));
    set(Kind::Search, of(Field::Searches).max(searches));
    (usage, is_clamped)
}
