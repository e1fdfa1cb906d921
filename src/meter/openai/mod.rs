//! OpenAI's answers: chat completions, completions, responses, embeddings, images, transcriptions, and what others
//! send in these shapes. They are told apart by their members.

mod counts;
mod meter;
mod shape;

pub use meter::OpenAi;

#[cfg(test)]
mod tests;
