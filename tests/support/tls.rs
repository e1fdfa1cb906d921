//! The certificate of a TLS upstream of the tests.
#![allow(dead_code)]

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// A new certificate for `localhost`.
pub struct Certificate {
    /// The settings of a server that has the certificate.
    pub server: Arc<ServerConfig>,
    /// The certificate as PEM, for clients that shall trust it.
    pub pem: String,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self { server: Arc::new(server), pem: made.cert.pem() }
    }
}
