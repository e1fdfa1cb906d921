//! The PEM files for TLS connections to Redis and Postgres: the certificate authorities for the server's certificate,
//! and this gateway's own certificate and key.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::ledger::{LedgerConfig, LedgerError};

/// The files for one of the two stores. The check of the config ensures that a certificate has its key.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsFiles {
    /// The certificate authorities that may sign the server's certificate: for Redis in place of the system's, for
    /// Postgres besides the well-known ones.
    pub ca: Option<PathBuf>,
    /// The certificate that this gateway shows, and its chain.
    pub cert: Option<PathBuf>,
    /// The private key of that certificate.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The files for Redis.
    pub fn of_redis(config: &LedgerConfig) -> Self {
        Self {
            ca: config.redis_ca_file.clone(),
            cert: config.redis_cert_file.clone(),
            key: config.redis_key_file.clone(),
        }
    }

    /// The files for Postgres.
    pub fn of_postgres(config: &LedgerConfig) -> Self {
        Self {
            ca: config.postgres_ca_file.clone(),
            cert: config.postgres_cert_file.clone(),
            key: config.postgres_key_file.clone(),
        }
    }

    /// Whether no file is named.
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.cert.is_none() && self.key.is_none()
    }

    /// The TLS config of these files; `None` if no authority is named, so that the client uses the system's.
    ///
    /// # Errors
    /// [`LedgerError::File`] names the file that cannot be read or has nothing in PEM.
    pub fn client_config(&self) -> Result<Option<ClientConfig>, LedgerError> {
        let Some(ca) = &self.ca else { return Ok(None) };
        // The process may not have installed a TLS provider yet.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(ca)? {
            authorities.add(certificate).map_err(|error| unreadable(ca, error.to_string()))?;
        }
        let config = ClientConfig::builder().with_root_certificates(authorities);
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(Some(config.with_no_client_auth()));
        };
        let config = config.with_client_auth_cert(certificates(cert)?, private_key(key)?);
        config.map(Some).map_err(|error| {
            let what = format!("it is not the private key of {}: {error}", cert.display());
            unreadable(key, what)
        })
    }

    /// Reads all files once, so that a mistake is reported at the start. Postgres's client reads them again for each
    /// connection.
    ///
    /// # Errors
    /// The same as for [`TlsFiles::client_config`].
    pub fn check(&self) -> Result<(), LedgerError> {
        self.ca.iter().chain(&self.cert).try_for_each(|path| certificates(path).map(drop))?;
        self.key.iter().try_for_each(|path| private_key(path).map(drop))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LedgerError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unreadable(path, error.to_string()))?;
    if found.is_empty() {
        let what = "it has no certificate in PEM; name a file that has one";
        return Err(unreadable(path, what.to_owned()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LedgerError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, error.to_string()))
}

fn unreadable(path: &Path, what: String) -> LedgerError {
    LedgerError::File {
        path: path.to_owned(),
        error: io::Error::new(io::ErrorKind::InvalidData, what),
    }
}
