//! Who calls an own route.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::identify::{CredentialKind, Identity};
use crate::problem::{Problem, Text};
use crate::shop::Shop;

/// The caller, by the same credentials as on proxied routes.
pub(super) struct Caller(pub Identity);

impl FromRequestParts<Arc<Shop>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        shop.identify(&parts.headers).await.map(Self)
    }
}

/// A caller with a service key.
pub(super) struct ServiceCaller(pub Identity);

impl FromRequestParts<Arc<Shop>> for ServiceCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Problem> {
        let identity = shop.identify(&parts.headers).await?;
        if identity.credential != CredentialKind::ServiceKey {
            return Err(Problem::forbidden(Text::new(
                "Holds are for trusted backends: use a service key (`farebox key create --service`).",
                "Les réservations sont pour les services de confiance : utilisez une clé de service.",
            )));
        }
        Ok(Self(identity))
    }
}
