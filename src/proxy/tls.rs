//! TLS on the public listener. The certificate files may change while the listener runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pingora_core::listeners::tls::{Acceptor, TlsSettings};
use prometheus::IntGauge;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::config::TlsConfig;

/// The time between two checks of the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The reason why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read as PEM.
    #[error("{}: {error}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: rustls::pki_types::pem::Error,
    },
    /// The file contains no certificate.
    #[error("{}: no certificate in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key is not usable, or belongs to another certificate.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file of the key.
        path: PathBuf,
        /// The cause.
        error: rustls::Error,
    },
}

/// The certificate in use, and the files that it was read from.
pub struct TlsFiles {
    config: TlsConfig,
    current: ArcSwap<CertifiedKey>,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// The files are not a certificate and its key.
    pub fn load(config: &TlsConfig) -> Result<Arc<Self>, TlsFilesError> {
        let current = ArcSwap::from_pointee(read(config)?);
        Ok(Arc::new(Self { config: config.clone(), current }))
    }

    /// Loads the files again whenever they change. If the new files cannot be used, `unusable` is set
    /// to 1, each such state of the files is logged once, and the earlier certificate stays in use.
    /// Runs until the future is dropped.
    pub async fn watch(self: Arc<Self>, unusable: IntGauge) {
        let mut seen = self.modified();
        // The state of the files, and the error, that were logged last.
        let mut told = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let modified = self.modified();
            if modified != seen {
                match read(&self.config) {
                    Ok(key) => {
                        self.current.store(Arc::new(key));
                        seen = modified;
                        tracing::info!("took up the new TLS certificate");
                    }
                    // Perhaps only one of the two files was replaced so far; the next check tries
                    // again.
                    Err(error) => {
                        unusable.set(1);
                        let state = Some((modified, error.to_string()));
                        if told != state {
                            tracing::warn!(
                                %error,
                                "the TLS files changed and cannot be used; the earlier certificate \
                                 stays in use until they are mended"
                            );
                            told = state;
                        }
                        continue;
                    }
                }
            }
            unusable.set(0);
            told = None;
        }
    }

    fn modified(&self) -> [Option<SystemTime>; 2] {
        [&self.config.cert_file, &self.config.key_file]
            .map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
    }

    /// Creates an acceptor of TLS connections, which offers HTTP/2 to clients.
    ///
    /// # Errors
    /// Pingora could refuse empty settings, but it never does.
    pub fn acceptor(self: &Arc<Self>) -> pingora_error::Result<Acceptor> {
        let mut settings = TlsSettings::intermediate("", "")?;
        settings.set_cert_resolver(Arc::new(Resolver(self.clone())));
        settings.enable_h2();
        Ok(settings.build())
    }
}

#[derive(Debug)]
struct Resolver(Arc<TlsFiles>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load_full())
    }
}

fn read(config: &TlsConfig) -> Result<CertifiedKey, TlsFilesError> {
    let TlsConfig { cert_file, key_file } = config;
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsFilesError::Pem { path, error }
    };
    let chain = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(cert_file))?;
    if chain.is_empty() {
        return Err(TlsFilesError::Empty { path: cert_file.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(pem(key_file))?;
    let unusable = |error| TlsFilesError::Key { path: key_file.clone(), error };
    let key = CertifiedKey::new(chain, any_supported_type(&key).map_err(unusable)?);
    key.keys_match().map_err(unusable)?;
    Ok(key)
}
