//! The list of the tables of `migrations/sqlite`, and how each is moved into the tables of `migrations/postgres`.
//!
//! | embedded | in Postgres |
//! |---|---|
//! | `accounts` | `accounts`; `frozen` is true if a row of `freezes` names the account |
//! | `entries` | `entries`, in the partition of their month, and their ids in `operations` |
//! | `folded_operations` | `operations` |
//! | `api_holds` | `holds`, live; Redis loads them with its next epoch |
//! | `call_holds` | not moved: holds that a crash left are released when the file is opened |
//! | `crashed` | not moved: the charges in it are entries, and the releases are ended holds |
//! | `ended_holds` | `holds`, released or expired |
//! | `api_keys` | `api_keys`, by their hashes |
//! | `stripe_events`, `payments`, `payment_names`, `stripe_customers`, `freezes` | the same |
//! | `claims` | `claims`; answers are not moved, so a retry of an earlier call is told that its answer was not kept |
//! | `left_calls` | not moved: retries are told of these calls for only two minutes |
//! | `ledger` | `ledger.id`, by which Stripe's events find their ledger; `secret`; `imported_commits` |
//!
//! Each row is passed on as a JSON object, which SQLite writes and Postgres reads.

/// A table that is moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// The plural noun for its rows in messages.
    pub name: &'static str,
    /// The query for SQLite that selects each row as a JSON object.
    pub read: &'static str,
    /// The statement for Postgres that writes the rows of a JSON array. `{s}` is the schema.
    pub write: &'static str,
}

/// All tables that are moved, in the order in which they are written.
pub(crate) const TABLES: [Table; 12] = [
    Table {
        name: "accounts",
        read: "SELECT json_object('id', id, 'balance', balance, 'seq', seq, 'frozen', \
            EXISTS (SELECT 1 FROM freezes WHERE freezes.account = accounts.id), \
            'created_at', created_at) FROM accounts",
        write: "INSERT INTO {s}.accounts (id, balance, seq, grant_seq, frozen, created_at) \
            SELECT id, balance, seq, 0, frozen = 1, created_at FROM json_to_recordset($1::json) \
            AS n (id text, balance int8, seq int8, frozen int4, created_at int8)",
    },
    Table {
        name: "entries",
        read: "SELECT json_object('account', account, 'seq', seq, 'operation', operation, \
            'kind', kind, 'amount', amount, 'balance_after', balance_after, 'route', route, \
            'reason', reason, 'created_at', created_at, 'held', held, 'model', model, \
            'usage', usage, 'prices', prices) FROM entries",
        write: "WITH new AS (SELECT * FROM json_to_recordset($1::json) AS n (account text, seq int8, \
            operation text, kind text, amount int8, balance_after int8, route text, reason text, \
            created_at int8, held int8, model text, usage text, prices text)), \
            once AS (INSERT INTO {s}.operations (id, account, seq, kind, amount, created_at) \
            SELECT operation, account, seq, kind, amount, created_at FROM new \
            WHERE kind <> 'opening') \
            INSERT INTO {s}.entries (account, seq, operation, kind, amount, balance_after, route, \
            reason, created_at, held, model, usage, prices) SELECT * FROM new",
    },
    Table {
        name: "folded entries",
        read: "SELECT json_object('operation', operation, 'account', account, 'seq', seq, \
            'kind', kind, 'amount', amount) FROM folded_operations",
        // The embedded ledger does not store the time of a folded operation.
        write: "INSERT INTO {s}.operations (id, account, seq, kind, amount, created_at) \
            SELECT operation, account, seq, kind, amount, 0 FROM json_to_recordset($1::json) \
            AS n (operation text, account text, seq int8, kind text, amount int8)",
    },
    Table {
        name: "live holds",
        read: "SELECT json_object('id', id, 'account', account, 'amount', amount, 'route', route, \
            'expires_at', expires_at, 'ttl_ms', ttl_ms) FROM api_holds",
        // The same rule applies when the embedded ledger starts: if a clock was set back, a hold lives no longer than
        // its whole lifetime.
        write: "INSERT INTO {s}.holds (id, account, amount, route, origin, owner, state, expires_at) \
            SELECT id, account, amount, route, 'api', 0, 'live', \
            least(expires_at, (extract(epoch FROM clock_timestamp()) * 1000)::int8 + ttl_ms) \
            FROM json_to_recordset($1::json) AS n (id text, account text, amount int8, route text, \
            expires_at int8, ttl_ms int8)",
    },
    Table {
        name: "ended holds",
        read: "SELECT json_object('id', id, 'account', account, 'amount', amount, 'origin', origin, \
            'ending', ending, 'ended_at', ended_at) FROM ended_holds",
        write: "INSERT INTO {s}.holds (id, account, amount, route, origin, owner, state, expires_at, \
            ended_at) SELECT id, account, amount, '', origin, 0, ending, ended_at, ended_at \
            FROM json_to_recordset($1::json) AS n (id text, account text, amount int8, \
            origin text, ending text, ended_at int8)",
    },
    Table {
        name: "API keys",
        read: "SELECT json_object('id', id, 'hash', hex(hash), 'account', account, 'name', name, \
            'service', service, 'hint', hint, 'created_at', created_at, 'revoked_at', revoked_at) \
            FROM api_keys",
        write: "INSERT INTO {s}.api_keys (id, hash, account, name, service, hint, created_at, \
            revoked_at, changed) SELECT id, decode(hash, 'hex'), account, name, service = 1, hint, \
            created_at, revoked_at, (SELECT key_changes + 1 FROM {s}.ledger) \
            FROM json_to_recordset($1::json) AS n (id text, hash text, account text, name text, \
            service int4, hint text, created_at int8, revoked_at int8)",
    },
    Table {
        name: "Stripe events",
        read: "SELECT json_object('id', id, 'kind', kind, 'payload', payload, 'state', state, \
            'note', note, 'received_at', received_at) FROM stripe_events",
        write: "INSERT INTO {s}.stripe_events (id, kind, payload, state, note, received_at) \
            SELECT * FROM json_to_recordset($1::json) AS n (id text, kind text, payload text, \
            state text, note text, received_at int8)",
    },
    Table {
        name: "payments",
        read: "SELECT json_object('id', id, 'account', account, 'paid', paid, \
            'document', document, 'created_at', created_at) FROM payments",
        write: "INSERT INTO {s}.payments (id, account, paid, document, created_at) \
            SELECT id, account, paid = 1, document, created_at FROM json_to_recordset($1::json) \
            AS n (id text, account text, paid int4, document text, created_at int8)",
    },
    Table {
        name: "names of payments",
        read: "SELECT json_object('name', name, 'payment', payment) FROM payment_names",
        write: "INSERT INTO {s}.payment_names (name, payment) SELECT * \
            FROM json_to_recordset($1::json) AS n (name text, payment text)",
    },
    Table {
        name: "customers",
        read: "SELECT json_object('account', account, 'customer', customer) FROM stripe_customers",
        write: "INSERT INTO {s}.stripe_customers (account, customer) SELECT * \
            FROM json_to_recordset($1::json) AS n (account text, customer text)",
    },
    Table {
        name: "freezes",
        read: "SELECT json_object('dispute', dispute, 'account', account) FROM freezes",
        write: "INSERT INTO {s}.freezes (dispute, account) SELECT * \
            FROM json_to_recordset($1::json) AS n (dispute text, account text)",
    },
    Table {
        name: "claims",
        read: "SELECT json_object('id', hex(id), 'hold', hold, 'mark', hex(mark), 'until', until, \
            'charged', charged) FROM claims",
        write: "INSERT INTO {s}.claims (id, hold, mark, until, charged) SELECT decode(id, 'hex'), \
            hold, decode(nullif(mark, ''), 'hex'), until, charged = 1 \
            FROM json_to_recordset($1::json) AS n (id text, hold text, mark text, until int8, \
            charged int4)",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Durability;
    use crate::metrics::Metrics;
    use crate::store::sqlite::ledger::SqliteLedger;
    use sqlx::{Connection as _, Row as _, SqliteConnection};

    /// The tables that are not moved, and why.
    const NOT_MOVED: [(&str, &str); 5] = [
        ("batch_log", "emptied when the file is opened"),
        ("call_holds", "released when the file is opened"),
        ("crashed", "its charges are entries; the list stays with the file"),
        ("left_calls", "told to retries for two minutes"),
        ("ledger", "read separately"),
    ];

    /// Fails if a migration adds a table or a column that this list lacks.
    #[tokio::test]
    async fn every_column_of_the_embedded_ledger_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("farebox.db");
        let metrics = Metrics::new().unwrap();
        drop(SqliteLedger::open(&path, Durability::Strict, metrics).await.unwrap());
        let url = format!("sqlite://{}", path.display());
        let mut file = SqliteConnection::connect(&url).await.unwrap();
        let columns = "SELECT t.name AS its_table, c.name AS its_column \
             FROM sqlite_master t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'";
        let rows = sqlx::query(columns).fetch_all(&mut file).await.unwrap();
        assert!(rows.len() > 40, "{} columns", rows.len());
        for row in rows {
            let (table, column): (&str, &str) = (row.get("its_table"), row.get("its_column"));
            let named = TABLES.iter().any(|moved| {
                let from = format!("FROM {table}");
                moved.read.ends_with(&from) && moved.read.contains(&format!("'{column}', "))
            });
            let left_out = NOT_MOVED.iter().any(|(name, _)| *name == table);
            assert!(named || left_out, "no table of the list moves {table}.{column}");
        }
    }
}
