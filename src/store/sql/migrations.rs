//! The migrations of both databases, which are built into the program.
//!
//! `sqlx::migrate!` would find the files by itself. But its macros build SQLite and both database
//! clients a second time, for the compiler, which is a quarter of a cold build. A test compares
//! this list with the folders.

use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Lists the files of one folder, each with the version with which its name begins.
macro_rules! migrations {
    ($folder:literal: $($version:literal => $file:literal),+ $(,)?) => {
        Migrator::with_migrations(vec![$(migration(
            $version,
            $file,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $folder, "/", $file)),
        )),+])
    };
}

/// The embedded ledger's schema.
pub(crate) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| {
    migrations! { "sqlite":
        1 => "0001_ledger.sql",
        2 => "0002_payments.sql",
        3 => "0003_entries_by_age.sql",
        4 => "0004_crashed.sql",
        5 => "0005_purchases.sql",
        6 => "0006_usage.sql",
        7 => "0007_batch_log.sql",
        8 => "0008_claims.sql",
    }
});

/// The schema of a ledger that gateways share.
pub(crate) static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    migrations! { "postgres":
        1 => "0001_ledger.sql",
        2 => "0002_payments.sql",
        3 => "0003_incarnations.sql",
        4 => "0004_entries_by_age.sql",
        5 => "0005_import.sql",
        6 => "0006_months.sql",
        7 => "0007_layouts.sql",
        8 => "0008_owed.sql",
        9 => "0009_purchases.sql",
        10 => "0010_usage.sql",
        11 => "0011_identities.sql",
        12 => "0012_claims.sql",
        13 => "0013_appends.sql",
        14 => "0014_digests.sql",
        15 => "0015_replays.sql",
        16 => "0016_calls.sql",
    }
});

fn migration(version: i64, file: &str, sql: &'static str) -> Migration {
    let name = file.trim_end_matches(".sql").split_once('_').map_or(file, |(_, name)| name);
    let description = name.replace('_', " ").into();
    Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_of_the_folders_is_built_in_under_the_version_of_its_name() {
        for (folder, built_in) in [("sqlite", &SQLITE), ("postgres", &POSTGRES)] {
            let folder =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
            let mut files: Vec<_> = files.collect();
            files.sort();
            let mut built_in = built_in.iter();
            for file in files {
                let name = file.file_name().unwrap().to_str().unwrap();
                let version: i64 = name.split_once('_').unwrap().0.parse().unwrap();
                let text = std::fs::read_to_string(&file).unwrap();
                // sqlx runs a file that begins with this line outside of a transaction, which this list cannot request.
                assert!(!text.starts_with("-- no-transaction"), "{name}");
                let found = built_in.next().unwrap_or_else(|| panic!("{name} is not in the list"));
                assert_eq!((found.version, found.sql.as_str()), (version, &*text), "{name}");
            }
            assert!(built_in.next().is_none());
        }
    }
}
