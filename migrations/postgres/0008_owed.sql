-- Charges that Redis could not be asked for before their gateway stopped: the recovery that follows writes
-- them, unless they have been written all the same.
CREATE TABLE owed (
    shard     INTEGER NOT NULL,
    -- The id that the charge has among the operations.
    operation TEXT COLLATE "C" NOT NULL,
    hold      TEXT COLLATE "C" NOT NULL,
    account   TEXT COLLATE "C" NOT NULL,
    amount    BIGINT NOT NULL CHECK (amount >= 0),
    route     TEXT   NOT NULL,
    -- It could not be written, as the log says: for people to look at.
    set_aside BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (shard, operation)
);
