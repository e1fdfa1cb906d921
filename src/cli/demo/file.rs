//! The parts of a user's file that `farebox demo --config FILE` uses.

use std::cell::RefCell;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::cli::demo::start::OwnFile;
use crate::cli::{CliError, ConfigFile};
use crate::config::{Sections, process_env};
use crate::gateway;
use crate::gateway::config::Config;
use crate::proxy::UpstreamConfig;

/// The longest time for connecting to one of the file's upstreams.
const REACHED_WITHIN: Duration = Duration::from_secs(1);

/// Reads the file. A part whose variables are not set is left out, so that an app can be tried
/// without its secrets. The returned lines name the parts that were left out, with the reason.
///
/// # Errors
/// The file has a mistake.
pub(super) async fn read(file: &ConfigFile) -> Result<(OwnFile, Vec<String>), CliError> {
    let app = Sections::ROUTES | Sections::MODELS | Sections::PACKS;
    let (all, optional) = (app | Sections::API | Sections::CREDITS, "[api] and [credits]");
    let mut notes = Vec::new();
    let left_out = |what: &str, missing: &[String]| {
        format!("{what}: left out, since {} is not set", missing.join(", "))
    };
    let app = match load(file, all)? {
        Ok(config) => config,
        Err(missing) => {
            notes.push(left_out(optional, &missing));
            file.load(app)?
        }
    };
    notes.extend(app.warnings.shown());
    let auth = match load(file, Sections::AUTH)? {
        Ok(config) => Some(config.auth),
        Err(missing) => {
            notes.push(left_out("the tokens of [auth]", &missing));
            None
        }
    };
    let upstreams = match load(file, Sections::UPSTREAMS)? {
        Ok(config) => config.upstreams,
        Err(missing) => {
            notes.push(left_out("the [[upstreams]], for which the demo's own answers", &missing));
            Vec::new()
        }
    };
    let mut reached = Vec::new();
    for upstream in upstreams {
        if is_reached(&upstream).await {
            reached.push(upstream);
        } else {
            let UpstreamConfig { name, url, .. } = upstream;
            let (host, port) = (url.host, url.port);
            notes.push(format!(
                "upstream `{name}`: nothing answers at {host}:{port}, so the demo's own does in its place"
            ));
        }
    }
    Ok((OwnFile { app, upstreams: reached, auth }, notes))
}

/// Loads the sections. The inner error has the names of variables that are not set.
fn load(file: &ConfigFile, sections: Sections) -> Result<Result<Config, Vec<String>>, CliError> {
    let missing = RefCell::new(Vec::new());
    let env = |name: &str| {
        let value = process_env(name);
        let mut missing = missing.borrow_mut();
        if value.is_none() && !missing.iter().any(|known| known == name) {
            missing.push(name.to_owned());
        }
        value
    };
    let read = gateway::config::load(file.path(), sections, &env);
    let mistakes = match read {
        Ok(config) => return Ok(Ok(config)),
        Err(mistakes) => mistakes,
    };
    // Variables that have a default are not missing.
    let (mut missing, text) = (missing.take(), mistakes.to_string());
    missing.retain(|name| text.contains(&format!("the variable {name} is not set")));
    if missing.is_empty() { Err(mistakes.into()) } else { Ok(Err(missing)) }
}

async fn is_reached(upstream: &UpstreamConfig) -> bool {
    let connecting = TcpStream::connect((upstream.url.host.as_str(), upstream.url.port));
    matches!(tokio::time::timeout(REACHED_WITHIN, connecting).await, Ok(Ok(_)))
}
