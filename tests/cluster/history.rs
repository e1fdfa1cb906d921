//! A past for a cluster's Postgres: months of entries that nobody has to make by calls.

use crate::cluster::Cluster;

/// The number of entries to write, and their accounts.
#[derive(Clone, Copy, Debug)]
pub struct History {
    pub months: u32,
    /// Accounts `old-000001` and so on.
    pub accounts: u32,
    /// The number of entries of the first account.
    pub of_the_first: u32,
    /// The number of entries of each other account.
    pub of_each: u32,
}

impl History {
    pub fn entries(&self) -> u64 {
        u64::from(self.of_the_first) + u64::from(self.accounts - 1) * u64::from(self.of_each)
    }
}

impl Cluster {
    /// SQL on this cluster's database.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.postgres.sql(&self.database, sql)
    }

    /// Makes the partitions of this number of months before the present one.
    pub fn make_months_back(&self, months: u32) {
        self.sql(&format!(
            "DO $$ DECLARE at timestamp; BEGIN FOR i IN 1..{months} LOOP \
             at := date_trunc('month', now() AT TIME ZONE 'utc') - i * interval '1 month'; \
             EXECUTE format('CREATE TABLE IF NOT EXISTS farebox.entries_%s PARTITION OF \
             farebox.entries FOR VALUES FROM (%s) TO (%s)', to_char(at, 'YYYY_MM'), \
             extract(epoch FROM at)::int8 * 1000, \
             extract(epoch FROM at + interval '1 month')::int8 * 1000); \
             END LOOP; END $$"
        ));
    }

    /// Writes entries as if they had been made over the last months: a grant to each account, then captures, in which
    /// the accounts are mixed as in real traffic. The last of these months is the one before this.
    pub fn write_history(&self, history: &History) {
        let History { months, accounts, of_the_first, of_each } = *history;
        self.make_months_back(months);
        // One session: the table is dropped with it.
        self.sql(&format!(
            "BEGIN; SET LOCAL synchronous_commit = off; \
             CREATE TEMP TABLE past ON COMMIT DROP AS \
             SELECT account, seq, entries, start_at + ((end_at - start_at) * ((seq - 1 + phase) / entries))::int8 \
              AS at FROM \
             (SELECT 'old-' || lpad(n::text, 6, '0') AS account, (n * 0.618) % 1 AS phase, \
              CASE n WHEN 1 THEN {of_the_first} ELSE {of_each} END AS entries, \
              extract(epoch FROM date_trunc('month', now() AT TIME ZONE 'utc'))::int8 * 1000 AS end_at, \
              extract(epoch FROM date_trunc('month', now() AT TIME ZONE 'utc') \
               - interval '{months} months')::int8 * 1000 AS start_at \
              FROM generate_series(1, {accounts}) n) a, generate_series(1, a.entries) seq \
             ORDER BY at; \
             INSERT INTO farebox.entries (account, seq, operation, kind, amount, balance_after, route, \
              created_at) SELECT account, seq, CASE seq WHEN 1 THEN 'grant:' || account ELSE \
              'capture:' || (lpad(to_hex(at), 12, '0') || '7' || substr(md5(account || seq), 1, 19))::uuid END, \
              CASE seq WHEN 1 THEN 'grant' ELSE 'capture' END, \
              CASE seq WHEN 1 THEN entries * 2000000::int8 ELSE -1000000 END, \
              entries * 2000000::int8 - (seq - 1) * 1000000::int8, \
              CASE seq WHEN 1 THEN NULL ELSE '/api/ai/generate' END, at FROM past; \
             INSERT INTO farebox.operations (id, account, seq, kind, amount, created_at) \
              SELECT operation, account, seq, kind, amount, created_at FROM farebox.entries \
              WHERE account LIKE 'old-%' AND kind <> 'capture' ORDER BY created_at; \
             INSERT INTO farebox.calls (id, account, seq, amount, created_at) \
              SELECT farebox.call_of(operation), account, seq, amount, created_at FROM farebox.entries \
              WHERE account LIKE 'old-%' AND kind = 'capture' ORDER BY created_at; \
             INSERT INTO farebox.accounts (id, balance, seq, grant_seq, created_at) \
              SELECT account, max(entries) * 1000000::int8 + 1000000, max(entries), 1, min(at) FROM past \
              GROUP BY account; \
             COMMIT"
        ));
        self.sql("VACUUM ANALYZE");
    }

    /// Makes everything that happened so far older by this number of days.
    pub fn age(&self, days: u32) {
        // Triggers keep entries immutable, so this session runs without triggers.
        self.sql(&format!(
            "SET session_replication_role = replica; \
             UPDATE farebox.entries SET created_at = created_at - {days}::int8 * 86400000; \
             UPDATE farebox.operations SET created_at = created_at - {days}::int8 * 86400000; \
             UPDATE farebox.calls SET created_at = created_at - {days}::int8 * 86400000"
        ));
    }

    /// The first of this month, as `farebox fold --before` takes it.
    pub fn this_month(&self) -> String {
        self.sql("SELECT to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-01')")
    }

    /// The partitions of the entries, by name.
    pub fn partitions(&self) -> Vec<String> {
        let names = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                     WHERE i.inhparent = 'farebox.entries'::regclass ORDER BY c.relname";
        self.sql(names).lines().map(str::to_owned).collect()
    }
}
