//! OpenAI's answers: chat completions, completions, responses, embeddings, images, transcriptions,
//! and answers of other providers in these shapes. Their members tell them apart.

mod counts;
mod meter;
mod shape;

pub use meter::OpenAi;

#[cfg(test)]
mod tests;
