//! The composition root: reads the config, opens the ledger, starts the services, stops them.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::api;
use crate::api::{Brand, Readiness};
use crate::app::{App, Catalogue};
use crate::config::Mistake;
use crate::gateway::config::Config;
use crate::identify::{AuthConfig, Identifier, KeyRing};
use crate::ledger::{
    BackendKind, CreditsConfig, KeyRecord, Ledger, LedgerConfig, LedgerError, Pipeline,
};
use crate::metrics::Metrics;
use crate::open_files::{OpenFiles, TooFewFiles};
use crate::price::{PackConfig, PriceTable, RouteConfig, credit_price, list_packs, list_prices};
use crate::private;
use crate::proxy::{
    CallsInFlight, Cors, Gate, GateOptions, Limits, Live, PublicListener, Resolver, ServerConfig,
    TlsFiles, TlsFilesError, Upstream, UpstreamConfig,
};
use crate::store::{ClusterLedger, SqliteLedger};
use crate::stripe::{Sales, SalesError, StripeConfig};

/// How long calls that were cut off at the end of a stop are given to notice.
const CUT_OFF: Duration = Duration::from_secs(1);

/// How long connections without a call are given to send what is left of an answer.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How often a stop looks whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How often it is looked whether another gateway made or revoked an API key.
const FOLLOW_KEYS_EVERY: Duration = Duration::from_secs(1);

/// Why a gateway cannot start, or cannot take up a new config.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something in the config shows only now.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Mistake>),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}; choose another address under [server]")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The certificate files cannot be used.
    #[error("[server.tls] {0}; name a certificate and its key, in PEM, or remove [server.tls]")]
    Tls(#[from] TlsFilesError),
    /// Packs cannot be sold.
    #[error(transparent)]
    Sales(#[from] SalesError),
    /// The system allows too few open files.
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    /// A metric could not be declared, or Pingora refused its settings.
    #[error("{0}")]
    Internal(String),
}

impl From<prometheus::Error> for StartError {
    fn from(error: prometheus::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Where a running gateway listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Priced routes and Farebox's own.
    pub public: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
    /// For probes and scrapers, where there is a listener for them.
    pub health: Option<SocketAddr>,
}

/// A running gateway.
pub struct Gateway {
    app: Arc<App>,
    live: Arc<ArcSwap<Live>>,
    readiness: Readiness,
    in_flight: CallsInFlight,
    pipeline: Pipeline,
    addresses: Addresses,
    drain_delay: Duration,
    shutdown_timeout: Duration,
    stop: watch::Sender<bool>,
    /// Turns true when the calls that still run are ended.
    cut_off: watch::Sender<bool>,
    public: JoinHandle<JoinSet<()>>,
    /// Ends when the gateway has stopped.
    background: JoinSet<()>,
    /// Turns true when even the private listeners may go.
    closing: watch::Sender<bool>,
    resolver: Resolver,
}

impl Gateway {
    /// Opens the ledger and starts every listener, on the current runtime.
    ///
    /// # Errors
    /// Nothing runs then.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_resolving(config, Resolver::system()).await
    }

    /// The same with a resolver of one's own for the upstreams' names.
    ///
    /// # Errors
    /// Nothing runs then.
    pub async fn start_resolving(config: &Config, resolver: Resolver) -> Result<Self, StartError> {
        let server = config.server.as_ref().ok_or_else(|| {
            StartError::Internal("a gateway needs the [server] section".to_owned())
        })?;
        let files = OpenFiles::raise(server.max_connections)?;
        if files.connections < server.max_connections {
            tracing::warn!(
                asked = server.max_connections,
                connections = files.connections,
                open_files = files.limit,
                "fewer connections than max_connections fit into the limit of open files; raise it \
                 (`ulimit -n`, LimitNOFILE= of a systemd unit)"
            );
        }
        let limits = limits(server, files);
        let metrics = Metrics::new()?;
        let tls = server.tls.as_ref().map(TlsFiles::load).transpose()?;
        // Sockets first: a port that is taken must not touch the ledger.
        let public_socket = bind(server.listen).await?;
        let admin_socket = bind(server.admin).await?;
        let health_socket = match server.health {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let address = |socket: &TcpListener, asked| {
            socket.local_addr().map_err(|error| StartError::Bind { address: asked, error })
        };
        let admin_address = address(&admin_socket, server.admin)?;
        let health_address = match (&health_socket, server.health) {
            (Some(socket), Some(asked)) => Some(address(socket, asked)?),
            _ => None,
        };
        // Whoever asks whether the process lives is answered from here on: the ledger's servers may be away.
        let readiness = Readiness::new(&metrics);
        let (closing, closed) = watch::channel(false);
        let (mut background, admin) = (JoinSet::new(), Arc::new(OnceLock::new()));
        let starting = api::starting(metrics.clone(), readiness.clone(), admin.clone());
        background.spawn(private::serve(admin_socket, starting, limits, closed.clone()));
        if let Some(socket) = health_socket {
            let health = api::health(metrics.clone(), readiness.clone());
            background.spawn(private::serve(socket, health, limits, closed.clone()));
        }
        let (ledger, pipeline) = open_ledger(&config.ledger, metrics.clone()).await?;
        let own_url = public_socket.local_addr().map_or_else(
            |_| config.api.prefix.clone(),
            |address| {
                let scheme = if tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{address}{}", config.api.prefix)
            },
        );
        let sales = open_sales(config.stripe.clone(), &ledger, &metrics, &own_url).await?;
        let app = open_app(
            ledger,
            metrics.clone(),
            &config.auth,
            config.credits.clone(),
            &config.api.prefix,
            sales,
        )
        .await?;
        app.identifier.load_keys().await;
        let live = go_live(config, &resolver, &metrics).await?;
        app.catalogue.store(live.catalogue.clone());

        let brand = Brand::load(&config.brand, &config.api.prefix);
        let brand = Arc::new(brand.map_err(|mistake| StartError::Config(vec![mistake]))?);
        let (stop, stopping) = watch::channel(false);
        let (cut_off, cut) = watch::channel(false);
        let live = Arc::new(ArcSwap::from_pointee(live));
        let in_flight = CallsInFlight::new(metrics.calls_in_flight.clone());
        let gate = Gate::new(
            app.clone(),
            live.clone(),
            api::public(app.clone(), &config.api.prefix, brand, stopping.clone()),
            GateOptions {
                prefix: config.api.prefix.clone(),
                cors: Cors::new(&config.api.cors_origins),
                max_header_bytes: server.max_header_bytes,
                own_body_timeout: server.header_timeout.0,
                body_timeout: server.body_timeout.0,
                body_memory: usize::try_from(server.body_memory.0).unwrap_or(usize::MAX),
                upstream_idle: files.upstream_idle,
            },
            in_flight.clone(),
        );
        let acceptor = tls.as_ref().map(TlsFiles::acceptor).transpose();
        let acceptor = acceptor.map_err(|error| StartError::Internal(error.to_string()))?;
        let listener = PublicListener::new(public_socket, acceptor, gate, limits);
        let addresses = Addresses {
            public: listener
                .address()
                .map_err(|error| StartError::Bind { address: server.listen, error })?,
            admin: admin_address,
            health: health_address,
        };

        let routes = api::admin(app.clone(), server.admin_token.clone(), readiness.clone());
        // It is the only one that is ever set.
        let _ = admin.set(routes);
        background.spawn(refresh_keys(app.clone(), stopping.clone()));
        background.spawn(until(stopping.clone(), follow_keys(app.clone())));
        // Where many gateways share a ledger, each start would read all of it again.
        if config.ledger.backend == BackendKind::Embedded {
            background.spawn(until(closed, examine(app.ledger.clone())));
        }
        if let Some(sales) = app.sales.clone() {
            background.spawn(until(stopping.clone(), async move { sales.run().await }));
        }
        if let Some(tls) = tls {
            background.spawn(until(stopping.clone(), tls.watch()));
        }
        let public = tokio::spawn(listener.serve(stopping, cut));
        readiness.set(true);
        Ok(Self {
            app,
            live,
            readiness,
            in_flight,
            pipeline,
            addresses,
            drain_delay: server.drain_delay.0,
            shutdown_timeout: server.shutdown_timeout.0,
            stop,
            cut_off,
            public,
            background,
            closing,
            resolver,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The ledger in use, for the demo and for tests.
    pub fn ledger(&self) -> &Ledger {
        &self.app.ledger
    }

    /// What is counted, for tests.
    pub fn metrics(&self) -> &Metrics {
        &self.app.metrics
    }

    /// Has a key that the ledger stores identify callers.
    pub fn add_key(&self, key: KeyRecord) {
        // The ledger refused one that contradicts another.
        let _ = self.app.keys.insert(key);
    }

    /// Takes up the prices, packs and upstreams of another config, all or nothing. Calls that
    /// run go on under the old ones.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub async fn reload(&self, config: &Config) -> Result<(), StartError> {
        let live = go_live(config, &self.resolver, &self.app.metrics).await?;
        self.app.catalogue.store(live.catalogue.clone());
        self.live.store(Arc::new(live));
        Ok(())
    }

    /// Stops: not ready any more, still accepting for `drain_delay`, then finishing what runs
    /// within `shutdown_timeout`, then settling everything. False where something could not be
    /// settled.
    pub async fn stop(mut self) -> bool {
        self.readiness.set(false);
        tokio::time::sleep(self.drain_delay).await;
        // The listener keeps a receiver, so this is heard.
        let _ = self.stop.send(true);
        if let Ok(open) = self.public.await {
            let (ledger, limit) = (&self.app.ledger, self.shutdown_timeout);
            finish_calls(open, &self.in_flight, limit, ledger, &self.cut_off).await;
        }
        let settled = self.pipeline.stop().await;
        let _ = self.closing.send(true);
        // An operator's request that runs is answered first.
        let ended = async { while self.background.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_BYTES, ended).await;
        self.background.shutdown().await;
        settled
    }
}

/// Waits until no call runs, and cuts off what runs too long. The hold of a call that is cut off ends
/// as `after_crash` says.
async fn finish_calls(
    mut open: JoinSet<()>,
    in_flight: &CallsInFlight,
    limit: Duration,
    ledger: &Ledger,
    cut_off: &watch::Sender<bool>,
) {
    let idle_by = async |deadline: Instant| {
        while in_flight.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    idle_by(Instant::now() + limit).await;
    let running = in_flight.count();
    if running > 0 {
        tracing::warn!(calls = running, "cut off the calls that ran longer than shutdown_timeout");
    } else {
        // The end of the last answers may still be with their connections, which close by
        // themselves now.
        let closed = async { while open.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_BYTES, closed).await;
    }
    ledger.cut_calls_off();
    // The public listener may be gone, and hears nothing then.
    let _ = cut_off.send(true);
    open.shutdown().await;
    idle_by(Instant::now() + CUT_OFF).await;
}

/// Opens the ledger of the config and starts its pipeline.
///
/// # Errors
/// Where it is in use by another process, cannot be reached, or cannot be read.
pub async fn open_ledger(
    config: &LedgerConfig,
    metrics: Metrics,
) -> Result<(Ledger, Pipeline), LedgerError> {
    match config.backend {
        BackendKind::Embedded => {
            let backend = SqliteLedger::open_as(config, metrics.clone()).await?;
            let reader = backend.reader();
            Ok(Ledger::start(backend, reader, metrics))
        }
        BackendKind::Redis => {
            let backend = ClusterLedger::open(config, metrics.clone()).await?;
            let reader = backend.reader();
            Ok(Ledger::start(backend, reader, metrics))
        }
    }
}

/// Opens the sales of a ledger, where the config has `[stripe]`. `own_url` is where Farebox's own
/// routes are reached.
///
/// # Errors
/// Where `[stripe]` cannot be used.
pub async fn open_sales(
    config: Option<StripeConfig>,
    ledger: &Ledger,
    metrics: &Metrics,
    own_url: &str,
) -> Result<Option<Arc<Sales>>, SalesError> {
    let Some(config) = config else { return Ok(None) };
    let sales = Sales::open(config, ledger.clone(), metrics.clone(), own_url).await?;
    Ok(Some(Arc::new(sales)))
}

/// Opens a app on a ledger, with nothing on its shelves yet.
///
/// # Errors
/// Where the keys cannot be read, or the auth config makes no sense.
pub async fn open_app(
    ledger: Ledger,
    metrics: Metrics,
    auth: &AuthConfig,
    credits: CreditsConfig,
    prefix: &str,
    sales: Option<Arc<Sales>>,
) -> Result<Arc<App>, StartError> {
    let keys = Arc::new(KeyRing::default());
    for key in ledger.read().keys(None).await? {
        if keys.insert(key).is_err() {
            return Err(LedgerError::Corrupt { what: "two API keys share an id".to_owned() }.into());
        }
    }
    let identifier = Identifier::new(auth, keys.clone()).map_err(StartError::Config)?;
    Ok(Arc::new(App {
        ledger,
        identifier,
        keys,
        metrics,
        catalogue: ArcSwap::from_pointee(catalogue(&[], &[], &[], false)?),
        credits,
        sales,
        topup_url: format!("{prefix}/account").into(),
    }))
}

fn catalogue(
    routes: &[RouteConfig],
    packs: &[PackConfig],
    upstreams: &[&str],
    exact_paths: bool,
) -> Result<Catalogue, StartError> {
    let prices = PriceTable::new(routes, upstreams).map_err(StartError::Config)?;
    let prices = prices.with_exact_paths(exact_paths);
    let json = |error: serde_json::Error| StartError::Internal(error.to_string());
    let prices_json = serde_json::value::to_raw_value(&list_prices(&prices)).map_err(json)?;
    let packs_json = serde_json::value::to_raw_value(&list_packs(packs)).map_err(json)?;
    let (prices_json, packs_json) = (prices_json.into(), packs_json.into());
    Ok(Catalogue { prices, prices_json, packs: packs.to_vec(), packs_json })
}

async fn go_live(
    config: &Config,
    resolver: &Resolver,
    metrics: &Metrics,
) -> Result<Live, StartError> {
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let catalogue = catalogue(&config.routes, &config.packs, &names, config.api.exact_paths)?;
    let open = |upstream: &UpstreamConfig| {
        Upstream::new(upstream, resolver.clone()).ok_or_else(|| {
            StartError::Internal(format!(
                "the headers of upstream {:?} are not valid",
                upstream.name
            ))
        })
    };
    let upstreams = config.upstreams.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    for upstream in &upstreams {
        upstream.resolve().await;
    }
    let live = Live::new(Arc::new(catalogue), &upstreams, metrics)
        .map_err(|name| StartError::Internal(format!("unknown upstream {name:?}")))?;
    for pack in &config.packs {
        metrics.begin_pack(&pack.id, &pack.price.currency().code().to_ascii_lowercase());
    }
    show_margins(&live.catalogue.prices, &config.packs, metrics);
    Ok(live)
}

/// Shows what calls cost the operator and what their credits sell for, and no more what they did
/// before. Rules for different methods of one path share its label: the dearest is shown.
fn show_margins(prices: &PriceTable, packs: &[PackConfig], metrics: &Metrics) {
    metrics.route_cost_minor.reset();
    for route in prices.routes() {
        if let Some(cost) = route.cost {
            let labels = [route.label(), &cost.currency().code().to_ascii_lowercase()];
            let shown = metrics.route_cost_minor.with_label_values(&labels);
            shown.set(shown.get().max(cost.as_minor_metric()));
        }
    }
    metrics.credit_price_minor.reset();
    if let Some(price) = credit_price(packs) {
        let currency = price.currency().code().to_ascii_lowercase();
        let shown = metrics.credit_price_minor.with_label_values(&[&currency]);
        shown.set(price.as_minor_metric());
    }
}

fn limits(server: &ServerConfig, files: OpenFiles) -> Limits {
    Limits {
        max_connections: files.connections,
        header_timeout: server.header_timeout.0,
        keepalive_timeout: server.keepalive_timeout.0,
        max_header_bytes: server.max_header_bytes,
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Bind { address, error })
}

async fn refresh_keys(app: Arc<App>, stopping: watch::Receiver<bool>) {
    app.identifier.run(stopping).await;
}

/// Takes up the keys that other gateways of the same ledger make and revoke.
async fn follow_keys(app: Arc<App>) {
    let mut version = 0;
    loop {
        match app.ledger.read().key_changes(version).await {
            // All that changes them passes through this process.
            Ok(None) => return,
            Ok(Some(changes)) => {
                version = changes.version;
                for key in changes.keys {
                    if app.keys.insert(key).is_err() {
                        tracing::error!("two API keys share an id; run `farebox reconcile`");
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "changes of the API keys cannot be read"),
        }
        tokio::time::sleep(FOLLOW_KEYS_EVERY).await;
    }
}

/// Looks the ledger over once after a start, and says what does not hold.
async fn examine(ledger: Ledger) {
    match ledger.reconcile().await {
        Ok(report) if report.is_clean() => {
            tracing::debug!(accounts = report.accounts, entries = report.entries, "reconciled");
        }
        Ok(report) => {
            for difference in &report.differences {
                tracing::error!(
                    account = difference.account,
                    what = difference.what,
                    "the ledger does not reconcile"
                );
            }
        }
        Err(error) => tracing::error!(%error, "the ledger could not be reconciled"),
    }
}

/// Runs `work` until it ends or `stop` turns true.
async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
