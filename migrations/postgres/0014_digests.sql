-- A failover to a replica that lacks grants is noticed for each account: the digest of an account chains over all
-- changes that Redis has to apply, so another change under the same number has another digest. Eight bytes.
ALTER TABLE accounts ADD COLUMN digest BYTEA NOT NULL DEFAULT '\x0000000000000000';
-- The account's digest before this change, and with it. NULL: queued by a version that kept none.
ALTER TABLE deliveries ADD COLUMN before BYTEA;
ALTER TABLE deliveries ADD COLUMN digest BYTEA;
-- How often a failover or a restore of this database was noticed; and whether the present epoch is to end for one.
ALTER TABLE shards ADD COLUMN failovers BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN failed_over BOOLEAN NOT NULL DEFAULT false;
