//! A connection to Redis, and whether commands on it are answered.
//!
//! A gateway has two connections, a [`Line::pair`], which must lead to one server. If one finds a replica, both are
//! opened anew: the other may have had no command since the master was demoted.
//!
//! fred keeps a command until it has a connection again and then sends it, however long ago the
//! caller gave up. So a command is handed to fred only while the connection stands and the newest
//! command on it was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, EventInterface as _};
use fred::types::config::Options;
use fred::types::{ConnectHandle, InfoKind};
use tokio::task::JoinSet;

/// How long a caller waits for a reply. The command may still be executed after that.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);

/// How often a silent line is tested.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// The least time between two attempts to open the connection anew.
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

/// How long an error of the connection is not logged again.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A connection to Redis, which is cheap to clone.
#[derive(Clone)]
pub(crate) struct Line {
    client: WithOptions<Client>,
    state: Arc<State>,
    /// The state of the other line of the pair.
    other: Arc<State>,
    /// The tasks that keep the connection up. They end with the last clone.
    _tasks: Arc<JoinSet<()>>,
}

/// The state of the line, as far as fred does not track it.
#[derive(Debug, Default)]
struct State {
    /// Whether the newest command was not answered, or the server is a replica.
    is_silent: AtomicBool,
    /// Whether the server is a replica.
    is_demoted: AtomicBool,
    /// Whether the connection must be opened anew, even if it leads to a master that answers.
    must_reopen: AtomicBool,
}

impl State {
    fn note_demoted(&self) {
        self.is_demoted.store(true, Ordering::Relaxed);
        self.is_silent.store(true, Ordering::Relaxed);
    }
}

impl Line {
    /// Creates two lines to one server. Both begin to connect, and keep trying.
    pub fn pair(clients: [Client; 2]) -> [Self; 2] {
        let [one, two] = [Arc::default(), Arc::default()];
        let [first, second] = clients;
        [Self::new(first, &one, &two), Self::new(second, &two, &one)]
    }

    fn new(client: Client, state: &Arc<State>, other: &Arc<State>) -> Self {
        let options = Options {
            max_attempts: Some(1),
            timeout: Some(COMMAND_LIMIT),
            fail_fast: true,
            ..Options::default()
        };
        let (state, other) = (state.clone(), other.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(stay_connected(client.clone()));
        tasks.spawn(try_while_silent(client.clone(), state.clone(), other.clone()));
        Self { client: client.with_options(&options), state, other, _tasks: Arc::new(tasks) }
    }

    /// The client, with which the commands for [`Line::run`] are made.
    pub fn client(&self) -> &WithOptions<Client> {
        &self.client
    }

    /// Waits until the connection is open.
    pub async fn wait_for_connect(&self) -> Result<(), Error> {
        self.client.wait_for_connect().await
    }

    /// Whether commands are answered, as far as is known.
    pub fn is_up(&self) -> bool {
        self.client.is_connected() && !self.state.is_silent.load(Ordering::Relaxed)
    }

    /// Whether the server was a replica when it was last asked.
    pub fn is_demoted(&self) -> bool {
        self.state.is_demoted.load(Ordering::Relaxed)
    }

    /// Records that the server is a replica, which decides nothing. Both lines of the pair are opened anew, because the
    /// address may lead to the master by now.
    pub fn note_demoted(&self) {
        self.state.note_demoted();
        self.other.note_demoted();
    }

    /// Opens the connections of both lines anew.
    pub fn reopen(&self) {
        for state in [&self.state, &self.other] {
            state.must_reopen.store(true, Ordering::Relaxed);
            state.is_silent.store(true, Ordering::Relaxed);
        }
    }

    /// Runs a command within [`COMMAND_LIMIT`]. fred's own limit does not count the time in which
    /// it looks for a connection.
    ///
    /// # Errors
    /// Fails at once if the line is down. In that case the command was not sent.
    pub async fn run<T>(
        &self,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if !self.is_up() {
            return Err(Error::new(ErrorKind::Canceled, "Redis is away"));
        }
        match tokio::time::timeout(COMMAND_LIMIT, command).await {
            Ok(Err(error)) if is_of_a_replica(&error) => {
                self.note_demoted();
                Err(error)
            }
            Ok(Err(error)) if is_of_the_connection(&error) => {
                self.state.is_silent.store(true, Ordering::Relaxed);
                Err(error)
            }
            Ok(result) => result,
            Err(_) => {
                self.state.is_silent.store(true, Ordering::Relaxed);
                Err(Error::new(ErrorKind::Timeout, "no reply in time"))
            }
        }
    }
}

/// Whether the error means that no reply came, because it took too long or the connection broke.
fn is_of_the_connection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled)
}

/// Whether the error means that a command that writes was sent to a replica.
fn is_of_a_replica(error: &Error) -> bool {
    error.details().starts_with("READONLY")
}

/// Asks a silent line for the server's role until a master answers. A connection that stays silent is opened anew,
/// because the network may have lost it without notice. A connection to a replica is opened anew too, because the
/// address may lead to the master by now.
async fn try_while_silent(client: Client, state: Arc<State>, other: Arc<State>) {
    let mut reconnected: Option<Instant> = None;
    loop {
        tokio::time::sleep(TRY_EVERY).await;
        if !state.is_silent.load(Ordering::Relaxed) || !client.is_connected() {
            continue;
        }
        if state.must_reopen.swap(false, Ordering::Relaxed) {
            open_anew(&client).await;
            reconnected = Some(Instant::now());
            continue;
        }
        let info = client.info::<String>(Some(InfoKind::Replication));
        match tokio::time::timeout(COMMAND_LIMIT, info).await {
            Ok(Ok(info)) if !info.contains("role:slave") => {
                state.is_demoted.store(false, Ordering::Relaxed);
                state.is_silent.store(false, Ordering::Relaxed);
                continue;
            }
            Ok(Ok(_)) => {
                let is_news = !state.is_demoted.swap(true, Ordering::Relaxed);
                if is_news {
                    other.note_demoted();
                }
                if is_news || reconnected.is_none() {
                    tracing::warn!(
                        "this Redis is a replica, which decides nothing; the gateway connects anew, to find the \
                         master"
                    );
                }
            }
            Ok(Err(_)) | Err(_) => {}
        }
        if reconnected.is_none_or(|at| at.elapsed() >= RECONNECT_EVERY) {
            reconnected = Some(Instant::now());
            open_anew(&client).await;
        }
    }
}

async fn open_anew(client: &Client) {
    let again = tokio::time::timeout(COMMAND_LIMIT, client.force_reconnection()).await;
    if let Ok(Err(error)) = again {
        tracing::debug!(%error, "the connection to Redis is not opened anew");
    }
}

/// fred's own task. It would outlive its client, so it is aborted on drop.
struct Connecting(ConnectHandle);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn stay_connected(client: Client) {
    let mut errors = client.error_rx();
    let mut connecting = Connecting(client.connect());
    let mut logged: Vec<(String, Instant)> = Vec::new();
    loop {
        tokio::select! {
            // The task ends only when the client is closed.
            _ = &mut connecting.0 => return,
            Ok((error, _)) = errors.recv() => {
                let error = error.to_string();
                // Every attempt may fail with the same few errors, for example because of a wrong password.
                logged.retain(|(_, at)| at.elapsed() < LOG_AGAIN_AFTER);
                if !logged.iter().any(|(before, _)| *before == error) {
                    tracing::warn!(
                        %error,
                        "a connection to Redis fails, and is opened again ten times a second; see that Redis runs and \
                         that `redis_url` leads to it"
                    );
                    logged.push((error, Instant::now()));
                }
            }
        }
    }
}
