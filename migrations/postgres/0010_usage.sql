-- Gateways of the version before serve while this runs. Each query that comes behind a request for an
-- exclusive lock waits for that too, so a request which is not granted soon (a dump may hold its locks for
-- an hour) is taken back, and repeated later.
SET LOCAL lock_timeout = '250ms';
DO $$
BEGIN
    FOR attempt IN 1..300 LOOP
        BEGIN
            LOCK TABLE entries, owed IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(1);
        END;
    END LOOP;
    RAISE EXCEPTION 'another session keeps the entries locked; end it, then start again';
END $$;
SET LOCAL lock_timeout = 0;

-- What a metered call used, beside its charge. NULL for every other entry.
--
-- Micro-credits that the hold had at its end. Where the charge is above them, it was an overrun.
ALTER TABLE entries ADD COLUMN held BIGINT;
-- The model as the request spelled it.
ALTER TABLE entries ADD COLUMN model TEXT;
-- How much of each kind, as JSON: {"input":600,"output":300}.
ALTER TABLE entries ADD COLUMN usage TEXT;
-- The version of the price table that priced the call.
ALTER TABLE entries ADD COLUMN prices TEXT;

-- The same of an owed charge, as it stands in the stream of Redis (src/store/cluster/usage_text.rs).
ALTER TABLE owed ADD COLUMN usage TEXT;
