//! `farebox demo`

use std::io::Write as _;
use std::net::SocketAddr;

use clap::Args;
use tokio::net::TcpListener;

use super::CliError;
use super::run::{Asked, Signals, runtime};
use crate::config::{Secret, process_env};
use crate::demo::{self, DemoAccount};
use crate::gateway::{Addresses, Gateway};

/// Runs a ledger, an OpenAI-compatible upstream and a funded account; prints a key and lines to
/// paste. All of it is gone when it stops.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Where the demo gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where its admin listener does.
    #[arg(long, default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Runs the demo's upstream alone, here: for gateways that are run some other way.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    upstream_only: Option<SocketAddr>,
}

impl Demo {
    pub fn run(self) -> Result<(), CliError> {
        if let Some(address) = self.upstream_only {
            return runtime(0)?.block_on(serve_upstream_alone(address));
        }
        let folder = std::env::temp_dir().join(format!("farebox-demo-{}", uuid::Uuid::now_v7()));
        let in_folder = |error| CliError::File { path: folder.clone(), error };
        std::fs::create_dir(&folder).map_err(in_folder)?;
        let done = runtime(0)?.block_on(self.serve(&folder));
        std::fs::remove_dir_all(&folder).map_err(in_folder)?;
        done
    }

    async fn serve(self, folder: &std::path::Path) -> Result<(), CliError> {
        let mut signals = Signals::listen()?;
        let socket = TcpListener::bind("127.0.0.1:0").await.map_err(no_upstream)?;
        let upstream = socket.local_addr().map_err(no_upstream)?;
        let serving = tokio::spawn(demo::serve_upstream(socket));
        let token = Secret::new(format!("demo-{}", random()));
        let jwt_secret = Secret::new(random() + &random());
        let config = demo::config(
            self.listen,
            self.admin,
            upstream,
            folder,
            &token,
            &jwt_secret,
            stripe_key(),
        )?;
        let gateway = Gateway::start(&config).await?;
        let account = demo::fund(gateway.ledger()).await;
        let account = account.map_err(|refusal| CliError::Failed(refusal.to_string()))?;
        gateway.add_key(account.record.clone());
        let link = demo::sign_in(&account.account, &jwt_secret);
        let link = link.map_err(|error| CliError::Failed(error.to_string()))?;
        print(gateway.addresses(), &account, &token, &link);
        // A demo has no file to take up again.
        while let Asked::Reload = signals.next().await {}
        gateway.stop().await;
        serving.abort();
        Ok(())
    }
}

async fn serve_upstream_alone(address: SocketAddr) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let socket = TcpListener::bind(address).await.map_err(no_upstream)?;
    println!("the demo upstream listens on http://{address}");
    let serving = tokio::spawn(demo::serve_upstream(socket));
    while let Asked::Reload = signals.next().await {}
    serving.abort();
    Ok(())
}

fn no_upstream(error: std::io::Error) -> CliError {
    CliError::Failed(format!("the demo upstream: {error}"))
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Only looked at: the demo never speaks to Stripe.
fn stripe_key() -> Option<Secret> {
    process_env("STRIPE_SECRET_KEY").filter(|key| !key.is_empty()).map(Secret::new)
}

fn print(addresses: Addresses, account: &DemoAccount, token: &Secret, link: &Secret) {
    let Addresses { public, admin, .. } = addresses;
    let (key, id, funds) = (account.key.expose(), &account.account, account.funds);
    let (token, link) = (token.expose(), link.expose());
    println!(
        r#"Farebox demo: everything runs in this process, and is gone when it stops (Ctrl-C).

  listening on http://{public}
  admin listener: http://{admin}
  account: {id}, with {funds} credits
  api key: {key}

Open these in a browser:

  # The account page, signed in: balance, packs, usage, keys.
  http://{public}/credits/account#token={link}

  # The operator's page; its token is {token}
  http://{admin}/admin/ui

Paste these into another terminal:

  # A paid call: five credits. Look at its x-credits-* headers.
  curl -i http://{public}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json' -d '{{"model":"farebox-demo","messages":[{{"role":"user","content":"hello"}}]}}'

  # The same, streamed.
  curl -N http://{public}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json' -d '{{"model":"farebox-demo","stream":true,"messages":[{{"role":"user","content":"hello to a stream of words"}}]}}'

  # The balance, and the lines that moved it.
  curl http://{public}/credits/balance -H 'authorization: Bearer {key}'
  curl http://{public}/credits/transactions -H 'authorization: Bearer {key}'

  # After ten calls the credits are gone: 402, and an offer to buy.
  for i in $(seq 11); do curl -s -o /dev/null -w '%{{http_code}}\n' http://{public}/api/ai/generate -X POST -H 'authorization: Bearer {key}'; done
  curl -i http://{public}/api/ai/generate -X POST -H 'authorization: Bearer {key}'

  # Buy a pack: open the checkout_url of the answer in a browser, and press Pay (no money moves).
  curl http://{public}/credits/buy -H 'authorization: Bearer {key}' -d '{{"pack":"pack-500"}}'

  # Be the operator: give it 20 more.
  curl http://{admin}/admin/accounts/{id}/grants -H 'authorization: Bearer {token}' -d '{{"credits":20,"id":"gift-1","reason":"for trying it out"}}'
"#
    );
    // Somebody may be waiting for these lines at the other end of a pipe; if not, no harm.
    let _ = std::io::stdout().flush();
}
