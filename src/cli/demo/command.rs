//! `farebox demo`

use std::io::Write as _;
use std::net::SocketAddr;

use clap::Args;
use tokio::net::TcpListener;

use crate::cli::demo::metered::Metered;
use crate::cli::demo::start::{DemoAccount, OwnFile};
use crate::cli::demo::{file, start};
use crate::cli::run::{Request, Signals, runtime};
use crate::cli::{CliError, ConfigFile};
use crate::config::{Secret, process_env};
use crate::credits::Credits;
use crate::gateway::{self, Addresses, Gateway, StartError};
use crate::price::{PackConfig, RouteConfig};
use crate::stripe::is_live;

/// Try it out: a ledger, an upstream and a funded account, with no file and no server.
///
/// Runs a ledger, an upstream that speaks OpenAI's API and Anthropic's, and a funded account; prints a
/// key and lines to paste. All of it is gone when the demo stops.
///
/// With --config, the demo takes the file's prices, packs, upstreams, tokens and CORS origins. An
/// upstream of the file that does not answer is replaced by the demo's own; tokens whose variables
/// are not set are left out.
#[derive(Debug, Args)]
pub(in crate::cli) struct Demo {
    /// The address of the demo gateway.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The address of its admin listener.
    #[arg(long, default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Run only the demo's upstream, at this address, for gateways that are started separately.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    upstream_only: Option<SocketAddr>,
}

impl Demo {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        if let Some(address) = self.upstream_only {
            return runtime(0)?.block_on(serve_upstream_alone(address));
        }
        let runtime = runtime(0)?;
        let own = if file.is_given() { Some(runtime.block_on(file::read(file))?) } else { None };
        let folder = std::env::temp_dir().join(format!("farebox-demo-{}", uuid::Uuid::now_v7()));
        let in_folder = |error| CliError::File { path: folder.clone(), error };
        std::fs::create_dir(&folder).map_err(in_folder)?;
        let done = runtime.block_on(self.serve(&folder, own, stripe_key(file)));
        std::fs::remove_dir_all(&folder).map_err(in_folder)?;
        done
    }

    async fn serve(
        self,
        folder: &std::path::Path,
        own: Option<(OwnFile, Vec<String>)>,
        stripe_key: Option<Secret>,
    ) -> Result<(), CliError> {
        let mut signals = Signals::listen()?;
        let socket = TcpListener::bind("127.0.0.1:0").await.map_err(no_upstream)?;
        let upstream = socket.local_addr().map_err(no_upstream)?;
        let serving = tokio::spawn(start::serve_upstream(socket));
        let token = Secret::new(format!("demo-{}", random()));
        let jwt_secret = Secret::new(random() + &random());
        let config = start::config(
            self.listen,
            self.admin,
            upstream,
            folder,
            &token,
            &jwt_secret,
            stripe_key,
        )?;
        let (config, notes) = match own {
            Some((file, notes)) => (start::with_file(config, file), notes),
            None => (config, Vec::new()),
        };
        let tried = Tried::first_of(&config.routes);
        let funds = |tried: &Tried<'_>| {
            Credits::from_micros(tried.credits.micros().checked_mul(start::CALLS)?)
        };
        let funds = tried.as_ref().and_then(funds);
        let gateway = Gateway::start(&config).await.map_err(|error| self.not_started(error))?;
        let account = start::fund(gateway.ledger(), funds.unwrap_or(start::FUNDS)).await;
        let account = account.map_err(|refusal| CliError::Failed(refusal.to_string()))?;
        gateway.add_key(account.record.clone());
        let link = start::sign_in(&account.account, &jwt_secret);
        let link = link.map_err(|error| CliError::Failed(error.to_string()))?;
        let metered = Metered::first_of(&config.routes, &config.models);
        let offer = (tried.as_ref(), metered.as_ref(), &*config.packs);
        let at = Places { addresses: gateway.addresses(), prefix: &config.api.prefix };
        print(&at, &notes, &account, &token, &link, offer);
        // The demo's config is not a file, so there is nothing to reload.
        while let Request::Reload = signals.next().await {}
        gateway.stop().await;
        serving.abort();
        Ok(())
    }

    /// The error for a demo that did not start. Its addresses come from the command line, so the
    /// error names the options.
    fn not_started(&self, error: StartError) -> CliError {
        match error {
            StartError::Bind { address, error } => {
                let option = if address == self.listen { "--listen" } else { "--admin" };
                CliError::Failed(format!(
                    "cannot listen on {address}: {error}; choose another address with {option}"
                ))
            }
            error => error.into(),
        }
    }
}

async fn serve_upstream_alone(address: SocketAddr) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let socket = TcpListener::bind(address).await.map_err(no_upstream)?;
    println!("the demo upstream listens on http://{address}");
    let serving = tokio::spawn(start::serve_upstream(socket));
    while let Request::Reload = signals.next().await {}
    serving.abort();
    Ok(())
}

fn no_upstream(error: std::io::Error) -> CliError {
    CliError::Failed(format!("the demo upstream: {error}"))
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Finds a Stripe key in the environment or in the file, preferably a live one. The key is only
/// inspected: the demo never calls Stripe.
fn stripe_key(file: &ConfigFile) -> Option<Secret> {
    let of_file = || gateway::config::peek(file.path(), "stripe", "secret_key", &process_env);
    let of_file = if file.is_given() { of_file() } else { None };
    let found = process_env("STRIPE_SECRET_KEY").map(Secret::new).into_iter().chain(of_file);
    let mut found: Vec<Secret> = found.filter(|key| !key.is_empty()).collect();
    found.sort_by_key(|key| !is_live(key));
    found.into_iter().next()
}

/// A route that the printed commands can call: it has a price, and no `{…}` in its path.
struct Tried<'a> {
    method: &'a str,
    path: &'a str,
    credits: Credits,
}

impl<'a> Tried<'a> {
    fn first_of(routes: &'a [RouteConfig]) -> Option<Self> {
        let can_be_typed = |route: &&RouteConfig| {
            route.credits.is_some_and(|credits| !credits.is_zero())
                && !route.path.contains(['{', '\'', '\\'])
        };
        let route = routes.iter().find(can_be_typed)?;
        let method = route.methods.as_ref().and_then(|methods| methods.first());
        let method = method.map_or("POST", String::as_str);
        Some(Self { method, path: &route.path, credits: route.credits? })
    }
}

/// Two commands: one paid call, and calls until the credits are used up. Both are empty if no route
/// has a price.
fn calls(public: SocketAddr, key: &str, tried: Option<&Tried<'_>>) -> (String, String) {
    let Some(Tried { method, path, credits }) = tried else { return Default::default() };
    let bearer = format!("-H 'authorization: Bearer {key}'");
    let once = format!("curl -i 'http://{public}{path}' -X {method} {bearer}");
    let chat = |more: &str, content: &str| {
        format!(
            r#"http://{public}{path} {bearer} -H 'content-type: application/json' -d '{{"model":"farebox-demo"{more},"messages":[{{"role":"user","content":"{content}"}}]}}'"#
        )
    };
    let paid = if *path == start::CHAT {
        format!(
            "  curl -i {}\n\n  # The same, streamed.\n  curl -N {}",
            chat("", "hello"),
            chat(r#","stream":true"#, "hello to a stream of words")
        )
    } else {
        format!("  {once}")
    };
    let paid =
        format!("  # A paid call: {credits} credits. Look at its x-credits-* headers.\n{paid}\n\n");
    let more = start::CALLS + 1;
    let spent = format!(
        "  # Soon the credits are gone: 402, and an offer to buy.\n  \
         for i in $(seq {more}); do curl -s -o /dev/null -w '%{{http_code}}\\n' \
         'http://{public}{path}' -X {method} {bearer}; done\n  {once}\n\n"
    );
    (paid, spent)
}

/// The addresses that the demo prints.
struct Places<'a> {
    addresses: Addresses,
    /// The path under which Farebox's own routes are, such as `/credits`.
    prefix: &'a str,
}

/// Commands that buy the best pack.
fn purchase(at: &Places<'_>, key: &str, packs: &[PackConfig]) -> String {
    let Places { addresses: Addresses { public, .. }, prefix } = at;
    let pack = packs.iter().find(|pack| pack.best_value).or(packs.first());
    pack.map_or_else(String::new, |pack| {
        let id = &pack.id;
        format!(
            r#"  # Buy a pack: open the checkout_url of the answer in a browser, and press Pay (no money moves).
  curl http://{public}{prefix}/buy -H 'authorization: Bearer {key}' -d '{{"pack":"{id}"}}'

"#
        )
    })
}

fn print(
    at: &Places<'_>,
    notes: &[String],
    account: &DemoAccount,
    token: &Secret,
    link: &Secret,
    (tried, metered, packs): (Option<&Tried<'_>>, Option<&Metered<'_>>, &[PackConfig]),
) {
    let Places { addresses: Addresses { public, admin, .. }, prefix } = *at;
    let notes: String = notes.iter().map(|note| format!("  {note}\n")).collect();
    let (key, id, funds) = (account.key.expose(), &account.account, account.funds);
    let (token, link) = (token.expose(), link.expose());
    let ((paid, spent), purchase) = (calls(public, key, tried), purchase(at, key, packs));
    let metered = metered.map(|metered| metered.lines(public, prefix, key)).unwrap_or_default();
    let lines = format!(
        r#"Farebox demo: everything runs in this process, and is gone when it stops (Ctrl-C).

  listening on http://{public}
  admin listener: http://{admin}
  account: {id}, with {funds} credits
  api key: {key}
{notes}
Open these in a browser:

  # The account page, signed in: balance, packs, usage, keys.
  http://{public}{prefix}/account#token={link}

  # The operator's page; its token is {token}
  http://{admin}/admin/ui

Paste these into another terminal:

{paid}  # The balance, and the entries that moved it.
  curl http://{public}{prefix}/balance -H 'authorization: Bearer {key}'
  curl http://{public}{prefix}/transactions -H 'authorization: Bearer {key}'

{spent}{purchase}  # Be the operator: give it 20 more.
  curl http://{admin}/admin/accounts/{id}/grants -H 'authorization: Bearer {token}' -d '{{"credits":20,"id":"gift-1","reason":"for trying it out"}}'
{metered}"#
    );
    // The lines are printed at once, so that a script that waits for one of them then has all of
    // them.
    println!("{lines}");
    // Without the flush, a script that reads the lines through a pipe could wait for them forever.
    let _ = std::io::stdout().flush();
}
