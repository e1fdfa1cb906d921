-- The cluster ledger: Redis decides, Postgres remembers. Amounts are micro-credits, times are
-- milliseconds since 1970. Names carry no schema: a migration runs with the ledger's own first in its
-- search path, and everything else names it.

-- One row: what every gateway of this ledger must agree on.
CREATE TABLE ledger (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    durability   TEXT    NOT NULL CHECK (durability IN ('strict', 'relaxed')),
    shards       INTEGER NOT NULL CHECK (shards > 0),
    -- Counts the changes of api_keys, so that a gateway sees by one small read whether it must look.
    key_changes  BIGINT  NOT NULL DEFAULT 0
);

-- How far each shard of Redis has been written here. An epoch is one life of its Redis data: it ends
-- when Redis has lost some, and the next begins from what stands here.
CREATE TABLE shards (
    id         INTEGER PRIMARY KEY,
    epoch      BIGINT  NOT NULL,
    -- A part of the script's text, so that only a Redis which opened this very epoch knows the script.
    nonce      TEXT    NOT NULL,
    -- The number of the newest batch that was written here, and the SHA-256 of it.
    checkpoint BIGINT  NOT NULL,
    digest     BYTEA   NOT NULL,
    -- True from the moment somebody saw that Redis lost data until the next epoch opens.
    recovering BOOLEAN NOT NULL
);

CREATE TABLE accounts (
    id         TEXT COLLATE "C" PRIMARY KEY,
    -- The sum of the account's entries, and the number of the newest.
    balance    BIGINT  NOT NULL CHECK (balance BETWEEN -4611686018427387904 AND 4611686018427387904),
    seq        BIGINT  NOT NULL CHECK (seq >= 0),
    -- Counts what was decided here and Redis has to hear, in this order.
    grant_seq  BIGINT  NOT NULL CHECK (grant_seq >= 0),
    frozen     BOOLEAN NOT NULL DEFAULT false,
    created_at BIGINT  NOT NULL
);

-- What Redis has to hear of: what moved a balance here, in each account's order. A row goes once it
-- was heard; hearing it twice does nothing.
CREATE TABLE deliveries (
    account    TEXT COLLATE "C" NOT NULL,
    grant_seq  BIGINT  NOT NULL,
    amount     BIGINT  NOT NULL,
    frozen     BOOLEAN NOT NULL,
    PRIMARY KEY (account, grant_seq)
);

-- Everything that moved a balance, by its id: each takes effect once, for ever, also after its entry
-- was folded away. (A partitioned table cannot have a unique key without its partition key.)
CREATE TABLE operations (
    id         TEXT COLLATE "C" PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL,
    seq        BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    amount     BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE entries (
    account       TEXT COLLATE "C" NOT NULL,
    seq           BIGINT NOT NULL CHECK (seq > 0),
    operation     TEXT COLLATE "C" NOT NULL,
    kind          TEXT   NOT NULL,
    amount        BIGINT NOT NULL,
    balance_after BIGINT NOT NULL,
    route         TEXT,
    reason        TEXT,
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (account, seq, created_at)
) PARTITION BY RANGE (created_at);

-- Months are made ahead by the gateways; this takes what a wrong clock dates into none of them.
CREATE TABLE entries_default PARTITION OF entries DEFAULT;

-- Entries are immutable. Folding old ones into an opening balance is the one exception.
CREATE FUNCTION entries_are_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('farebox.folding', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'ledger entries are immutable';
END $$;
CREATE TRIGGER entries_are_immutable BEFORE UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION entries_are_immutable();
CREATE TRIGGER entries_are_never_truncated BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION entries_are_immutable();

-- Holds that live, and those that ended without a charge: a captured one leaves an operation. The
-- calls' endings are forgotten after two days, the API's never.
CREATE TABLE holds (
    id         TEXT COLLATE "C" PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL,
    amount     BIGINT NOT NULL CHECK (amount >= 0),
    route      TEXT   NOT NULL,
    origin     TEXT   NOT NULL CHECK (origin IN ('call', 'api')),
    -- The incarnation of the gateway that asked for it.
    owner      BIGINT NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('live', 'released', 'expired')),
    expires_at BIGINT NOT NULL,
    ended_at   BIGINT
);
CREATE INDEX live_holds_by_account ON holds (account) WHERE state = 'live';
CREATE INDEX live_calls_by_owner ON holds (owner) WHERE state = 'live' AND origin = 'call';
CREATE INDEX ended_calls_by_age ON holds (ended_at) WHERE state <> 'live' AND origin = 'call';

-- Who serves this ledger. A gateway whose lease ran out acknowledges nothing where Redis can fail over.
CREATE SEQUENCE incarnations;
CREATE TABLE gateways (
    id          TEXT PRIMARY KEY,
    incarnation BIGINT NOT NULL UNIQUE,
    -- By this database's clock.
    lease_until TIMESTAMPTZ NOT NULL,
    -- The newest epoch that it has given up, with its redo ring handed over.
    checked_in  BIGINT NOT NULL
);

-- What Redis acknowledged and had not reached this database when Redis lost its data: out of the
-- memories of the gateways.
CREATE TABLE redo (
    shard INTEGER NOT NULL,
    epoch BIGINT  NOT NULL,
    seq   BIGINT  NOT NULL,
    batch TEXT    NOT NULL,
    PRIMARY KEY (shard, epoch, seq)
);

CREATE TABLE api_keys (
    id         TEXT COLLATE "C" PRIMARY KEY,
    hash       BYTEA   NOT NULL UNIQUE CHECK (length(hash) = 32),
    account    TEXT COLLATE "C" NOT NULL,
    name       TEXT    NOT NULL,
    service    BOOLEAN NOT NULL,
    hint       TEXT    NOT NULL,
    created_at BIGINT  NOT NULL,
    revoked_at BIGINT,
    -- The value of ledger.key_changes that this row changed with last.
    changed    BIGINT  NOT NULL
);
CREATE INDEX api_keys_by_account ON api_keys (account);
CREATE INDEX api_keys_by_change ON api_keys (changed);
