-- Calls that a crash, or a stop that ran out of time, cut off, and what became of their holds. A row is
-- forgotten after 30 days. Amounts are micro-credits, times are milliseconds since 1970.
CREATE TABLE crashed (
    -- The call's request id.
    id      TEXT PRIMARY KEY,
    account TEXT    NOT NULL,
    route   TEXT    NOT NULL,
    amount  INTEGER NOT NULL CHECK (amount >= 0),
    outcome TEXT    NOT NULL CHECK (outcome IN ('charged', 'released', 'corrected')),
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX crashed_by_age ON crashed (at, id);

-- For how long a hold of the API's was to live when it was made or renewed: a start after the clock was
-- set back gives it no more. The holds that are there already may have been asked to live for a day.
ALTER TABLE api_holds ADD COLUMN ttl_ms INTEGER NOT NULL DEFAULT 86400000 CHECK (ttl_ms >= 0);
