//! Opens the ledger, the sales and the app of a config. Gateways and commands use this.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::app::App;
use crate::gateway::error::StartError;
use crate::gateway::live::catalogue;
use crate::identify::{AuthConfig, Identifier, KeyRing};
use crate::ledger::{
    Answers, BackendKind, CreditsConfig, Ledger, LedgerConfig, LedgerError, Pipeline,
};
use crate::metrics::Metrics;
use crate::price::PriceTable;
use crate::price::metered::Rates;
use crate::store::{ClusterLedger, SqliteLedger};
use crate::stripe::{Sales, SalesError, StripeConfig};

/// Opens the ledger of the config and starts its pipeline.
///
/// # Errors
/// The ledger is in use by another process, cannot be reached, or cannot be read.
pub async fn open_ledger(
    config: &LedgerConfig,
    metrics: Metrics,
) -> Result<(Ledger, Pipeline), LedgerError> {
    let (ledger, pipeline, _) = open_ledger_with_answers(config, None, metrics).await?;
    Ok((ledger, pipeline))
}

/// Like [`open_ledger`], but also opens the store of answers that the ledger keeps for retries. All answers together
/// take at most `max_total` bytes. If `max_total` is `None`, no answers are kept, and none are returned.
///
/// # Errors
/// The same as those of [`open_ledger`].
pub(super) async fn open_ledger_with_answers(
    config: &LedgerConfig,
    max_total: Option<u64>,
    metrics: Metrics,
) -> Result<(Ledger, Pipeline, Option<Arc<dyn Answers>>), LedgerError> {
    let mut answers: Option<Arc<dyn Answers>> = None;
    match config.backend {
        BackendKind::Embedded => {
            let backend = SqliteLedger::open_as(config, metrics.clone()).await?;
            if let Some(max_total) = max_total {
                answers = Some(Arc::new(backend.answers(max_total).await?));
            }
            let reader = backend.reader();
            let (ledger, pipeline) = Ledger::start(backend, reader, metrics);
            Ok((ledger, pipeline, answers))
        }
        BackendKind::Redis => {
            // The future is boxed, because otherwise the futures around it are nested too deeply
            // for the compiler.
            let backend = Box::pin(ClusterLedger::open(config, metrics.clone())).await?;
            if let Some(max_total) = max_total {
                answers = Some(Arc::new(backend.answers(max_total).await?));
            }
            let reader = backend.reader();
            let (ledger, pipeline) = Ledger::start(backend, reader, metrics);
            Ok((ledger, pipeline, answers))
        }
    }
}

/// Opens the sale of packs on a ledger, if the config has `[stripe]`. `own_url` is the URL of
/// Farebox's own routes.
///
/// # Errors
/// `[stripe]` cannot be used.
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

/// Opens an app on a ledger, with an empty catalogue.
///
/// # Errors
/// The keys cannot be read, or the auth config has a mistake.
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
        catalogue: ArcSwap::from_pointee(catalogue(PriceTable::default(), Rates::default(), &[])?),
        credits,
        sales,
        topup_url: format!("{prefix}/account").into(),
    }))
}
