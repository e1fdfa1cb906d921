//! Asks the questions, and writes the file.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use clap::Args;

use crate::cli::config_file::ConfigFile;
use crate::cli::error::CliError;
use crate::cli::init::answers::{Answers, Backend, Callers, Priced, Selling};
use crate::cli::init::file;
use crate::config::Sections;
use crate::gateway::config::parse;

/// The mode of the file: only its owner may read it, since it contains the admin token.
const MODE: u32 = 0o600;

/// Write a first gateway.toml, after four questions.
///
/// An option answers its question in advance. The other answers are read from standard input, one
/// line each; an empty line takes the answer in brackets.
#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    /// The backend that calls are forwarded to.
    #[arg(long, value_name = "URL")]
    upstream: Option<Backend>,
    /// The path that is sold and the price of a call in credits, such as "/api/generate 5".
    #[arg(long, value_name = "PATH CREDITS")]
    price: Option<Priced>,
    /// How callers identify themselves: keys, jwt, or the address of a JWKS.
    #[arg(long, value_name = "HOW")]
    callers: Option<Callers>,
    /// How credits are sold: sandbox, stripe or by-hand.
    #[arg(long, value_name = "HOW")]
    sell: Option<Selling>,
    /// The file of the ledger; a relative path starts at the config's folder.
    #[arg(long, value_name = "FILE", default_value = "farebox.db")]
    ledger: String,
    /// Ask nothing: take the default answer to each question that no option answers.
    #[arg(long, short)]
    yes: bool,
    /// Replace an existing file. The old one is kept beside it, with .old after its name.
    #[arg(long)]
    force: bool,
}

impl Init {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let path = file.path();
        if !self.force && fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let force = self.force;
        let answers = self.answers(&mut io::stdin().lock())?;
        let admin_token = random_hex()?;
        let text = file::write(&answers, &admin_token);
        // Each answer was checked alone. This finds answers that contradict each other.
        parse(&text, path, Sections::ALL, &file::example_of_variable)?;
        save(path, &text, force)?;
        println!("{}", file::next_steps(&answers, path));
        Ok(())
    }

    fn answers(self, input: &mut impl BufRead) -> Result<Answers, CliError> {
        let mut ask = Questions { input, is_asking: !self.yes };
        Ok(Answers {
            upstream: ask.one(
                self.upstream,
                "Where does your backend listen?",
                "http://127.0.0.1:3000",
            )?,
            priced: ask.one(
                self.price,
                "Which path do you sell, and for how many credits a call?",
                "/api/generate 5",
            )?,
            callers: ask.one(
                self.callers,
                "How do callers say who they are: with API keys of Farebox's (keys), with JWTs that your \
                 app signs with a secret (jwt), or with those of an issuer (the address of its JWKS)?",
                "keys",
            )?,
            selling: ask.one(
                self.sell,
                "How are credits sold: on a page on which nobody pays, to try things out (sandbox), \
                 through Stripe (stripe), or not at all (by-hand)?",
                "sandbox",
            )?,
            ledger: self.ledger,
        })
    }
}

struct Questions<'a, R> {
    input: &'a mut R,
    is_asking: bool,
}

impl<R: BufRead> Questions<'_, R> {
    /// Returns the answer that was `given` in advance, or repeats `question` until the answer can
    /// be read.
    fn one<T: FromStr<Err: Display>>(
        &mut self,
        given: Option<T>,
        question: &str,
        usual: &str,
    ) -> Result<T, CliError> {
        if let Some(given) = given {
            return Ok(given);
        }
        loop {
            let answer = if self.is_asking { self.line(question, usual)? } else { String::new() };
            let answer = Some(answer.trim()).filter(|answer| !answer.is_empty()).unwrap_or(usual);
            match answer.parse() {
                Ok(answer) => return Ok(answer),
                Err(error) if self.is_asking => eprintln!("  {error}"),
                Err(error) => return Err(CliError::Failed(error.to_string())),
            }
        }
    }

    fn line(&mut self, question: &str, usual: &str) -> Result<String, CliError> {
        let mut answer = String::new();
        eprint!("{question}\n  [{usual}] ");
        let read = io::stderr().flush().and_then(|()| self.input.read_line(&mut answer));
        match read {
            Ok(0) => Err(CliError::Failed(
                "the answers ended before the questions; nothing was written. Answer with options, and add \
                 --yes for the usual answers to the rest"
                    .to_owned(),
            )),
            Ok(_) => Ok(answer),
            Err(error) => Err(CliError::Failed(format!("the answer cannot be read: {error}"))),
        }
    }
}

fn exists(path: &Path) -> CliError {
    CliError::Failed(format!(
        "{} is there already, and nothing was written; --config names another file, --force replaces this one",
        path.display()
    ))
}

/// Writes the whole file. If there is a file already, it is kept under another name beside the new
/// one.
fn save(path: &Path, text: &str, force: bool) -> Result<(), CliError> {
    let failed = |error| CliError::File { path: path.to_owned(), error };
    if force && fs::symlink_metadata(path).is_ok() {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        fs::rename(path, &old).map_err(failed)?;
    }
    let new = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    let mut file = new.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => failed(error),
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// 32 random bytes, in hexadecimal.
fn random_hex() -> Result<String, CliError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| CliError::Failed(format!("the system gives no random bytes: {error}")))?;
    Ok(hex::encode(bytes))
}
