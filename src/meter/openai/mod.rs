//! OpenAI's answers: chat completions, completions, responses, embeddings, images, transcriptions,
//! and answers of other providers in these shapes. The meter tells them apart by their members.

mod counts;
mod meter;
mod shape;

pub use meter::OpenAi;

#[cfg(test)]
mod tests;
