-- Two versions of Farebox whose scripts and data in Redis differ must not serve one epoch
-- (src/ledger/redis/script.rs, LAYOUT). 0: opened, or joined, before layouts had numbers.
ALTER TABLE shards ADD COLUMN layout INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gateways ADD COLUMN layout INTEGER NOT NULL DEFAULT 0;
