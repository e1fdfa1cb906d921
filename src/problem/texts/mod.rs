//! The catalogue of texts that clients read, in English and French: what happened, and what to do.

mod bodies;
mod calls;
mod metered;
mod own_routes;
mod requests;
mod retries;

pub(crate) use bodies::*;
pub(crate) use calls::*;
pub(crate) use metered::*;
pub(crate) use own_routes::*;
pub(crate) use requests::*;
pub(crate) use retries::*;
