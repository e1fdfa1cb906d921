//! The layers of `src/`: `rules` has the tests, `source` the imports from file to file, `text` reads them out
//! of a file.

mod rules;
mod source;
mod text;
