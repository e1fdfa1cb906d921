-- Folding whole months away (src/ledger/postgres/months.rs).
--
-- No entry is written with an earlier time than this: one that comes late belongs to the first month that
-- is still open, so that nothing comes into a month while it is folded, or after. Milliseconds since 1970.
ALTER TABLE ledger ADD COLUMN closed_before BIGINT NOT NULL DEFAULT 0;
-- Which folding is at work: one that finds another's name here gives up.
ALTER TABLE ledger ADD COLUMN folding TEXT;
