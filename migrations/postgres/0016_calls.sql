-- The ids of calls' charges stand in a table of their own, a partition a month, since they need not be kept for ever: a
-- month's ids go once its entries are folded. The ids of grants, payments and the API's holds stay in `operations`, for
-- ever; so do those of calls that an earlier version charged.
CREATE TABLE calls (
    -- The call's id: a UUID of version 7, which begins with the time at which it was made.
    id         UUID   PRIMARY KEY,
    seq        BIGINT NOT NULL,
    -- Below zero.
    amount     BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    account    TEXT COLLATE "C" NOT NULL
) PARTITION BY RANGE (id);
-- For a month whose partition was made too late, or not at all because a clock is wrong.
CREATE TABLE calls_default PARTITION OF calls DEFAULT;

-- The ids of calls that were made before this one are no longer known.
ALTER TABLE ledger ADD COLUMN calls_from UUID NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';

-- The call that an operation charges, by the operation's id. NULL where that is not the id of a call.
CREATE FUNCTION call_of(operation TEXT) RETURNS UUID LANGUAGE SQL IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN operation ~ '^capture:[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$'
        THEN substr(operation, 9)::uuid END
$$;
