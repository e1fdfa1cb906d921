-- In `strict` a call is answered once its batch is here, as text. Its entries and holds are written later (folded), with
-- many others.
CREATE TABLE appends (
    shard INTEGER NOT NULL,
    epoch BIGINT  NOT NULL,
    seq   BIGINT  NOT NULL,
    batch TEXT    NOT NULL,
    PRIMARY KEY (shard, epoch, seq)
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
-- A row lives for a moment: to compress it would cost more than it saves.
ALTER TABLE appends ALTER COLUMN batch SET STORAGE EXTERNAL;

-- Appends one batch, and says what became of it:
--   appended  it is here as soon as this transaction has committed
--   folded    it was here already, and so are its entries
--   locked    a recovery, or an import, has the appends locked
--   ended     its epoch is over, or is being recovered
--   forked    another text is here under its number
-- A recovery locks the same key exclusively before it ends the epoch, and reads the appends in a later statement. So a
-- batch is either read there, or refused here. This needs a new snapshot for each statement, hence VOLATILE and `read committed`: a
-- snapshot from before the lock might show an epoch that has ended since.
CREATE FUNCTION append_batch(lock_key BIGINT, of_shard INTEGER, of_epoch BIGINT, of_nonce TEXT, number BIGINT, content TEXT)
RETURNS TEXT LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    folded BIGINT;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a batch is appended in read committed only';
    END IF;
    PERFORM set_config('synchronous_commit', 'on', true);
    IF NOT pg_try_advisory_xact_lock_shared(lock_key) THEN
        RETURN 'locked';
    END IF;
    SELECT checkpoint INTO folded FROM shards
        WHERE id = of_shard AND epoch = of_epoch AND nonce = of_nonce AND NOT recovering;
    IF NOT FOUND THEN
        RETURN 'ended';
    END IF;
    IF number <= folded THEN
        RETURN 'folded';
    END IF;
    INSERT INTO appends (shard, epoch, seq, batch) VALUES (of_shard, of_epoch, number, content)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND AND EXISTS (SELECT 1 FROM appends
        WHERE shard = of_shard AND epoch = of_epoch AND seq = number AND batch <> content) THEN
        RETURN 'forked';
    END IF;
    RETURN 'appended';
END $$;

-- The gateway that folds, and writes what Redis decided into the tables; the others only read how far it has come.
CREATE TABLE syncers (
    shard  INTEGER PRIMARY KEY,
    -- The incarnation of that gateway.
    syncer BIGINT      NOT NULL,
    -- By this database's clock.
    until  TIMESTAMPTZ NOT NULL
);
