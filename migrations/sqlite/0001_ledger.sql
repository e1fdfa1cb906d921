-- The embedded ledger. Amounts are micro-credits, times are milliseconds since 1970.

CREATE TABLE accounts (
    id         TEXT PRIMARY KEY,
    -- The sum of the account's entries, and the number of the newest: kept beside them so that
    -- a start need not read every entry.
    balance    INTEGER NOT NULL CHECK (balance BETWEEN -9007199254740992 AND 9007199254740992),
    seq        INTEGER NOT NULL CHECK (seq >= 0),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    account       TEXT    NOT NULL,
    seq           INTEGER NOT NULL CHECK (seq > 0),
    -- Under which id it took effect. Unique: what is repeated cannot take effect twice.
    operation     TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    amount        INTEGER NOT NULL,
    balance_after INTEGER NOT NULL,
    route         TEXT,
    reason        TEXT,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (account, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX entries_by_operation ON entries (operation);

-- Entries are immutable. Folding old ones into an opening balance is the one exception; it
-- drops and restores the second trigger in its own transaction.
CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END;
CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END;

-- Live holds made through the API: they outlive the process, and each ends by its own id.
CREATE TABLE api_holds (
    id         TEXT PRIMARY KEY,
    account    TEXT    NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    route      TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Holds of calls, all that one commit granted in one row of JSON:
-- [[id, account, amount, route, expires_at], …]. The row goes when the last of them has ended.
CREATE TABLE call_holds (
    written_by INTEGER PRIMARY KEY,
    holds      TEXT NOT NULL
) STRICT;

CREATE TABLE ended_holds (
    id       TEXT PRIMARY KEY,
    account  TEXT,
    amount   INTEGER NOT NULL CHECK (amount >= 0),
    origin   TEXT    NOT NULL CHECK (origin IN ('call', 'api')),
    ending   TEXT    NOT NULL CHECK (ending IN ('released', 'expired')),
    ended_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX ended_calls_by_age ON ended_holds (ended_at) WHERE origin = 'call';

-- Operations that were folded away with their entries: their ids still take effect once.
CREATE TABLE folded_operations (
    operation TEXT PRIMARY KEY,
    account   TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    amount    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every live hold. A capture leaves an entry (or, once that is folded, its id), every other ending a
-- row in ended_holds.
CREATE VIEW holds (id, account, amount, route, origin, expires_at, written_by) AS
    SELECT id, account, amount, route, 'api', expires_at, 0 FROM api_holds
    UNION ALL
    SELECT h.value->>0, h.value->>1, h.value->>2, h.value->>3, 'call', h.value->>4, c.written_by
    FROM call_holds c, json_each(c.holds) h
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE operation = 'capture:' || (h.value->>0))
    AND NOT EXISTS (SELECT 1 FROM folded_operations WHERE operation = 'capture:' || (h.value->>0))
    AND NOT EXISTS (SELECT 1 FROM ended_holds WHERE id = h.value->>0);

CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    hash       BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    account    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    service    INTEGER NOT NULL CHECK (service IN (0, 1)),
    hint       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX api_keys_by_account ON api_keys (account);

-- One row: how many batches were committed (so that a COMMIT whose answer was lost can be
-- told from one that failed).
CREATE TABLE ledger (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    commits INTEGER NOT NULL
) STRICT;
INSERT INTO ledger (one, commits) VALUES (1, 0);
