//! SQL that SQLite and Postgres both answer.

pub(crate) mod history;
pub(crate) mod migrations;
pub(crate) mod query;
pub(crate) mod rows;
pub(crate) mod search;
pub(crate) mod sold;
