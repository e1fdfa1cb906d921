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

-- Live holds only: a capture leaves an entry, every other ending a row in ended_holds.
CREATE TABLE holds (
    id         TEXT PRIMARY KEY,
    account    TEXT    NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    route      TEXT    NOT NULL,
    origin     TEXT    NOT NULL CHECK (origin IN ('call', 'api')),
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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
