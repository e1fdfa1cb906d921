-- Gateways that reach two Redis servers (a demoted master, two `redis_url`s) must not take the ledger from each other.
-- `redis` is the identity of a server with its data (its run id and its replication id): of the epoch, and of the
-- server that a gateway reached last, with the moment. Empty: opened, or joined, before identities were kept.
ALTER TABLE shards ADD COLUMN redis TEXT NOT NULL DEFAULT '';
ALTER TABLE gateways ADD COLUMN redis TEXT NOT NULL DEFAULT '';
ALTER TABLE gateways ADD COLUMN redis_at TIMESTAMPTZ NOT NULL DEFAULT 'epoch';
-- Repeated recoveries back off: when the epoch was opened, and how many epochs before it were short, one after the
-- other.
ALTER TABLE shards ADD COLUMN opened_at TIMESTAMPTZ NOT NULL DEFAULT 'epoch';
ALTER TABLE shards ADD COLUMN short_epochs INTEGER NOT NULL DEFAULT 0;
-- A failover to a replica that lacks commits is noticed: by the identity of the server (its system and its timeline) that
-- the epoch was opened on, and by a number that grows with each renewal of a lease.
ALTER TABLE shards ADD COLUMN postgres TEXT NOT NULL DEFAULT '';
ALTER TABLE gateways ADD COLUMN renewals BIGINT NOT NULL DEFAULT 0;
