-- Claims: which call may be forwarded and charged for a request. Redis decides them with the holds, and these rows tell
-- it after a loss. Times are milliseconds since 1970, by Redis's clock.
CREATE TABLE claims (
    -- A SHA-256 of the scope and the key.
    id      BYTEA PRIMARY KEY CHECK (length(id) = 32),
    -- The call that has the claim. While it runs its hold is live: a row of a call that was neither charged nor has a
    -- live hold says nothing.
    hold    TEXT COLLATE "C" NOT NULL,
    -- An HMAC of the request's hash; NULL where the request is not known.
    mark    BYTEA CHECK (length(mark) = 32),
    -- After this time the claim of a charged call is free.
    until   BIGINT  NOT NULL,
    charged BOOLEAN NOT NULL
);
CREATE INDEX charged_claims_by_age ON claims (until) WHERE charged;
CREATE INDEX running_claims_by_hold ON claims (hold) WHERE NOT charged;

-- Calls of SDKs whose clients left before the answer's head was sent. A retry hears of them until the time is up.
CREATE TABLE left_calls (
    hold  TEXT COLLATE "C" PRIMARY KEY,
    -- A SHA-256 of the scope and the request.
    id    BYTEA   NOT NULL CHECK (length(id) = 32),
    until BIGINT  NOT NULL,
    -- A retry has had its answer.
    used  BOOLEAN NOT NULL
);
CREATE INDEX left_calls_by_id ON left_calls (id);
CREATE INDEX left_calls_by_age ON left_calls (until);

-- The claim of an owed charge.
ALTER TABLE owed ADD COLUMN claim BYTEA CHECK (length(claim) = 32);

-- The ledger's own secret, which the first gateway makes. Requests are recognised under it.
ALTER TABLE ledger ADD COLUMN secret BYTEA CHECK (length(secret) = 32);

-- The answers that are kept for retries, sealed, by the holds of their calls. A partition has the answers whose time
-- is up within one day; gateways make them ahead of time, and drop them afterwards.
CREATE TABLE answers (
    call   TEXT COLLATE "C" NOT NULL,
    sealed BYTEA  NOT NULL,
    until  BIGINT NOT NULL,
    PRIMARY KEY (call, until)
) PARTITION BY RANGE (until);
-- Sealed bytes cannot be compressed.
ALTER TABLE answers ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX answers_by_age ON answers (until);
CREATE TABLE answers_default PARTITION OF answers DEFAULT;

-- The bytes of the answers whose time is up within one hour (since 1970). Each gateway counts in a row of its own, so
-- that none waits for another.
CREATE TABLE answer_sizes (
    hour    BIGINT NOT NULL,
    gateway BIGINT NOT NULL,
    bytes   BIGINT NOT NULL,
    PRIMARY KEY (hour, gateway)
);
