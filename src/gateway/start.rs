//! Starts a gateway: opens the sockets, the ledger and the app, then spawns the services.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::{self, Brand, Readiness};
use crate::app::App;
use crate::gateway::background;
use crate::gateway::config::Config;
use crate::gateway::error::StartError;
use crate::gateway::live::open_live;
use crate::gateway::open::{open_app, open_ledger_with_answers, open_sales};
use crate::gateway::open_files::OpenFiles;
use crate::gateway::private_listener;
use crate::ledger::{BackendKind, KeyRecord, Ledger, Pipeline};
use crate::metrics::Metrics;
use crate::proxy::{
    CallsInFlight, Cors, Gate, GateOptions, Limits, Live, PublicListener, Resolver, Retries,
    ServerConfig, TlsFiles,
};

/// The addresses of a running gateway's listeners.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The public listener, with the priced routes and Farebox's own.
    pub public: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The listener for probes and scrapers, if there is one.
    pub health: Option<SocketAddr>,
}

/// A running gateway.
pub struct Gateway {
    pub(super) app: Arc<App>,
    live: Arc<ArcSwap<Live>>,
    resolver: Resolver,
    pub(super) readiness: Readiness,
    pub(super) in_flight: CallsInFlight,
    pub(super) pipeline: Pipeline,
    addresses: Addresses,
    pub(super) drain_delay: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) signals: Signals,
    /// The task of the public listener. When it stops, it returns the connections that are still
    /// open.
    pub(super) public: JoinHandle<JoinSet<()>>,
    /// All other tasks. They end with the gateway.
    pub(super) background: JoinSet<()>,
}

/// The steps of a stop. Each is a flag that turns true once.
pub(super) struct Signals {
    /// Stops accepting on the public listener, and ends background tasks.
    pub(super) stop: watch::Sender<bool>,
    /// Cuts off the calls that are still running.
    pub(super) cut_off: watch::Sender<bool>,
    /// Closes the private listeners.
    pub(super) close: watch::Sender<bool>,
}

impl Signals {
    fn new() -> Self {
        let signal = || watch::channel(false).0;
        Self { stop: signal(), cut_off: signal(), close: signal() }
    }
}

impl Gateway {
    /// Opens the ledger and starts every listener, on the current runtime.
    ///
    /// # Errors
    /// The gateway cannot start. Nothing of it keeps running.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_resolving(config, Resolver::system()).await
    }

    /// Like [`Self::start`], but resolves the upstreams' names with `resolver`.
    ///
    /// # Errors
    /// The gateway cannot start. Nothing of it keeps running.
    pub async fn start_resolving(config: &Config, resolver: Resolver) -> Result<Self, StartError> {
        let server = config.server.as_ref().ok_or_else(|| {
            StartError::Internal("a gateway needs the [server] section".to_owned())
        })?;
        let (limits, upstream_idle) = limits(server)?;
        let metrics = Metrics::new()?;
        let tls = server.tls.as_ref().map(TlsFiles::load).transpose()?;
        // The sockets are opened first: if an address is in use, the ledger must not be touched.
        let sockets = Sockets::bind(server).await?;
        let addresses = sockets.addresses(server)?;

        // Probes are answered from now on, because opening the ledger may take long if its servers
        // are down.
        let readiness = Readiness::new(&metrics);
        let signals = Signals::new();
        let mut background = JoinSet::new();
        let Sockets { public, admin, health } = sockets;
        let private = Private { limits, metrics: &metrics, readiness: &readiness };
        let admin_routes = private.serve(admin, health, &signals, &mut background);

        let idempotency = &config.idempotency;
        let max_total = idempotency.enabled.then_some(idempotency.max_total.0);
        let opened = open_ledger_with_answers(&config.ledger, max_total, metrics.clone()).await?;
        let (ledger, pipeline, answers) = opened;
        let retries = answers.and_then(|answers| Retries::new(idempotency, answers));
        let own_url = own_url(addresses.public, tls.is_some(), &config.api.prefix);
        let sales = open_sales(config.stripe.clone(), &ledger, &metrics, &own_url).await?;
        let (auth, credits) = (&config.auth, config.credits.clone());
        let prefix = &config.api.prefix;
        let app = open_app(ledger, metrics.clone(), auth, credits, prefix, sales).await?;
        app.identifier.load_keys().await;
        let live = open_live(config, &resolver, &metrics).await?;
        app.catalogue.store(live.catalogue.clone());
        let live = Arc::new(ArcSwap::from_pointee(live));

        let in_flight = CallsInFlight::new(metrics.calls_in_flight.clone());
        let shared = Shared { app: &app, live: &live, in_flight: &in_flight, signals: &signals };
        let gate = open_gate(config, server, upstream_idle, retries, &shared)?;
        let acceptor = tls.as_ref().map(TlsFiles::acceptor).transpose();
        let acceptor = acceptor.map_err(|error| StartError::Internal(error.to_string()))?;
        let listener = PublicListener::new(public, acceptor, gate, limits);
        let public = listener.serve(signals.stop.subscribe(), signals.cut_off.subscribe());

        let routes = api::admin(app.clone(), server.admin_token.clone(), readiness.clone());
        // This cannot fail: the routes are set nowhere else.
        let _ = admin_routes.set(routes);
        spawn_background(&mut background, config, &app, tls, &signals);
        let public = tokio::spawn(public);
        readiness.set(true);
        Ok(Self {
            app,
            live,
            resolver,
            readiness,
            in_flight,
            pipeline,
            addresses,
            drain_delay: server.drain_delay.0,
            shutdown_timeout: server.shutdown_timeout.0,
            signals,
            public,
            background,
        })
    }

    /// Applies the prices, packs and upstreams of another config: all of them, or none if there is
    /// an error. Calls in flight keep the old ones.
    ///
    /// # Errors
    /// The config cannot be applied, and nothing has changed.
    pub async fn reload(&self, config: &Config) -> Result<(), StartError> {
        let live = open_live(config, &self.resolver, &self.app.metrics).await?;
        self.app.catalogue.store(live.catalogue.clone());
        self.live.store(Arc::new(live));
        Ok(())
    }

    /// The addresses of the gateway's listeners.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The ledger, for the demo and for tests.
    pub fn ledger(&self) -> &Ledger {
        &self.app.ledger
    }

    /// The metrics, for tests.
    pub fn metrics(&self) -> &Metrics {
        &self.app.metrics
    }

    /// Accepts an API key that is already stored in the ledger.
    pub fn add_key(&self, key: KeyRecord) {
        // This cannot fail: the ledger refuses keys that contradict each other.
        let _ = self.app.keys.insert(key);
    }
}

/// The sockets of the listeners.
struct Sockets {
    public: TcpListener,
    admin: TcpListener,
    health: Option<TcpListener>,
}

impl Sockets {
    async fn bind(server: &ServerConfig) -> Result<Self, StartError> {
        let health = match server.health {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { public: bind(server.listen).await?, admin: bind(server.admin).await?, health })
    }

    /// The addresses of the sockets. If the config has port 0, they have the port that the system
    /// chose.
    fn addresses(&self, server: &ServerConfig) -> Result<Addresses, StartError> {
        let address = |socket: &TcpListener, wanted| {
            socket.local_addr().map_err(|error| StartError::Bind { address: wanted, error })
        };
        let health = self.health.as_ref().zip(server.health);
        Ok(Addresses {
            public: address(&self.public, server.listen)?,
            admin: address(&self.admin, server.admin)?,
            health: health.map(|(socket, wanted)| address(socket, wanted)).transpose()?,
        })
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Bind { address, error })
}

/// The settings that the private listeners share.
struct Private<'a> {
    limits: Limits,
    metrics: &'a Metrics,
    readiness: &'a Readiness,
}

impl Private<'_> {
    /// Serves the private listeners. The admin listener answers 503, except to probes, until the
    /// admin routes are put into the returned cell.
    fn serve(
        &self,
        admin: TcpListener,
        health: Option<TcpListener>,
        signals: &Signals,
        background: &mut JoinSet<()>,
    ) -> Arc<OnceLock<Router>> {
        let routes = Arc::new(OnceLock::new());
        let (metrics, readiness) = (self.metrics, self.readiness);
        let starting = api::starting(metrics.clone(), readiness.clone(), routes.clone());
        let mut serve = |socket, router| {
            let closing = signals.close.subscribe();
            background.spawn(private_listener::serve(socket, router, self.limits, closing));
        };
        serve(admin, starting);
        if let Some(socket) = health {
            serve(socket, api::health(metrics.clone(), readiness.clone()));
        }
        routes
    }
}

/// Raises the process's limit of open files, then returns the limits of the listeners and the
/// largest number of idle upstream connections.
fn limits(server: &ServerConfig) -> Result<(Limits, usize), StartError> {
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
    let limits = Limits {
        max_connections: files.connections,
        header_timeout: server.header_timeout.0,
        keepalive_timeout: server.keepalive_timeout.0,
        max_header_bytes: server.max_header_bytes,
    };
    Ok((limits, files.upstream_idle))
}

/// The URL of Farebox's own routes.
fn own_url(public: SocketAddr, is_tls: bool, prefix: &str) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    format!("{scheme}://{public}{prefix}")
}

/// The parts of a gateway that the gate of its calls shares with others.
struct Shared<'a> {
    app: &'a Arc<App>,
    live: &'a Arc<ArcSwap<Live>>,
    in_flight: &'a CallsInFlight,
    signals: &'a Signals,
}

fn open_gate(
    config: &Config,
    server: &ServerConfig,
    upstream_idle: usize,
    retries: Option<Arc<Retries>>,
    shared: &Shared<'_>,
) -> Result<Gate, StartError> {
    let Shared { app, live, in_flight, signals } = *shared;
    let prefix = &config.api.prefix;
    let brand = Brand::load(&config.brand, prefix);
    let brand = Arc::new(brand.map_err(|mistake| StartError::Config(vec![mistake]))?);
    let own_routes = api::public(app.clone(), prefix, brand, signals.stop.subscribe());
    let options = GateOptions {
        prefix: prefix.clone(),
        cors: Cors::new(&config.api.cors_origins),
        max_header_bytes: server.max_header_bytes,
        own_body_timeout: server.header_timeout.0,
        body_timeout: server.body_timeout.0,
        body_memory: usize::try_from(server.body_memory.0).unwrap_or(usize::MAX),
        upstream_idle,
        retries,
        stop: signals.stop.subscribe(),
    };
    Ok(Gate::new(app.clone(), live.clone(), own_routes, options, in_flight.clone()))
}

fn spawn_background(
    background: &mut JoinSet<()>,
    config: &Config,
    app: &Arc<App>,
    tls: Option<Arc<TlsFiles>>,
    signals: &Signals,
) {
    let stopping = || signals.stop.subscribe();
    background.spawn(background::refresh_keys(app.clone(), stopping()));
    background.spawn(background::until(stopping(), background::follow_keys(app.clone())));
    // The cluster ledger is not checked here. Otherwise each start of each gateway would read all
    // of it.
    if config.ledger.backend == BackendKind::Embedded {
        let reconciling = background::reconcile(app.ledger.clone());
        background.spawn(background::until(signals.close.subscribe(), reconciling));
    }
    if let Some(sales) = app.sales.clone() {
        let reconciling = background::reconcile_after_failovers(app.ledger.clone(), sales.clone());
        background.spawn(background::until(stopping(), reconciling));
        background.spawn(background::until(stopping(), async move { sales.run().await }));
    }
    if let Some(tls) = tls {
        background.spawn(background::until(
            stopping(),
            tls.watch(app.metrics.tls_files_unusable.clone()),
        ));
    }
}
