//! The screens: the account page, the operator's page, and the modules that both are made of.

mod files;
pub(super) mod serve;

pub(super) use serve::{account_page, admin_page, file, page_policy, shared_file};
