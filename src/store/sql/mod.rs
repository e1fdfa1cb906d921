//! Queries that run on both SQLite and Postgres, and the conversion of their rows.

pub(crate) mod database;
pub(crate) mod history;
pub(crate) mod migrations;
pub(crate) mod models;
pub(crate) mod rows;
pub(crate) mod search;
pub(crate) mod sold;
