-- Claims: which call may be forwarded and charged for a request. Times are milliseconds since 1970.

CREATE TABLE claims (
    -- A SHA-256 of the scope and the key.
    id      BLOB PRIMARY KEY CHECK (length(id) = 32),
    -- The call that has the claim.
    hold    TEXT    NOT NULL,
    -- An HMAC of the request's hash; NULL where the request is not known.
    mark    BLOB CHECK (length(mark) = 32),
    -- After this time the claim of a charged call is free.
    until   INTEGER NOT NULL,
    -- 0 while the call runs. A running call without a live hold has lost its claim.
    charged INTEGER NOT NULL CHECK (charged IN (0, 1))
) STRICT, WITHOUT ROWID;

-- A start reads the claims of running calls; old ones of charged calls are deleted.
CREATE INDEX claims_by_state ON claims (charged, until);

-- Calls of SDKs whose clients left before the answer's head was sent. A retry hears of them until the time
-- is up.
CREATE TABLE left_calls (
    hold  TEXT PRIMARY KEY,
    -- A SHA-256 of the scope and the request.
    id    BLOB    NOT NULL CHECK (length(id) = 32),
    state TEXT    NOT NULL CHECK (state IN ('running', 'charged', 'used')),
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX left_calls_by_age ON left_calls (until);

-- The ledger's own secret, which the first start makes. Requests are recognised under it.
ALTER TABLE ledger ADD COLUMN secret BLOB CHECK (length(secret) = 32);
