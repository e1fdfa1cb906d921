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
