//! The web pages: the account page, the operator's page, and their modules.

mod files;
mod policy;
pub(super) mod serve;

pub(super) use policy::page_policy;
pub(super) use serve::{account_page, admin_page, file, shared_file};
